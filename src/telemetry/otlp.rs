//! Spans of requests, exported by OTLP over HTTP with protobuf.
//!
//! The standard's own variables say where to and how: with `OTEL_EXPORTER_OTLP_ENDPOINT`, or the same for traces alone, there is
//! an exporter, and without them none. Spans wait in a bounded buffer, and leave it in a thread of the exporter's.

use std::{env, time::Duration};

use async_trait::async_trait;
use axum::{extract::Request, http::HeaderMap};
use opentelemetry::{
    Context, Key, SpanId as OtelSpanId, TraceFlags, TraceId as OtelTraceId,
    trace::{SpanContext, Status, TraceContextExt, TraceState, TracerProvider},
};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Response};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use tracing::{Level, Span, Subscriber, error};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{Layer, filter::Targets, registry::LookupSpan};

use super::trace::{Caller, Here, SpanId, TraceId};
use crate::{Error, Result};

/// Variables of which one says where spans go.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];
/// What the service is called where no variable says it.
const SERVICE: &str = "rewarden";
/// What the SDK calls a service that nobody named begins with.
const UNKNOWN: &str = "unknown_service";
/// How long a collector may take for an answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a collector's answer.
const MOST_BYTES: u64 = 1 << 20;
/// The header with what the systems before us say of the trace.
const TRACESTATE: &str = "tracestate";

/// Sends spans until it is dropped, which sends the last ones.
#[derive(Debug)]
pub struct Exporter(SdkTracerProvider);

impl Drop for Exporter {
    fn drop(&mut self) {
        if let Err(cause) = self.0.shutdown() {
            error!(%cause, "the last spans were not exported");
        }
    }
}

/// Opens the exporter, if the environment says where to; the layer takes this program's own spans.
pub fn open<S>() -> Result<Option<(impl Layer<S>, Exporter)>>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let is_set = |name: &&str| env::var_os(name).is_some_and(|value| !value.is_empty());
    if !ENDPOINTS.iter().any(is_set) {
        return Ok(None);
    }
    let agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(TIMEOUT))
        .build()
        .new_agent();
    let exporter = SpanExporter::builder().with_http().with_http_client(Client(agent)).build();
    let exporter = exporter.map_err(|e| Error::Usage(format!("OTLP exporter: {e}")))?;
    let provider =
        SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource()).build();
    let layer = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer(SERVICE))
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_filter(Targets::new().with_target(SERVICE, Level::INFO));
    Ok(Some((layer, Exporter(provider))))
}

/// What the environment says of the service, and its name in any case.
fn resource() -> Resource {
    let said = Resource::builder().build();
    let name = said.get(&Key::from_static_str("service.name"));
    match name.is_none_or(|name| name.as_str().starts_with(UNKNOWN)) {
        true => Resource::builder().with_service_name(SERVICE).build(),
        false => said,
    }
}

/// The client that is in the program already.
#[derive(Debug)]
struct Client(ureq::Agent);

#[async_trait]
impl HttpClient for Client {
    /// Blocks; the exporter has a thread of its own.
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (parts, body) = request.into_parts();
        let request = Request::from_parts(parts, body.to_vec());
        let (parts, mut body) = self.0.run(request)?.into_parts();
        let body = body.with_config().limit(MOST_BYTES).read_to_vec()?;
        Ok(Response::from_parts(parts, body.into()))
    }
}

/// Puts a request's span below the caller's, and returns what it is called; nothing where it is not exported.
pub fn begin(span: &Span, caller: Option<Caller>, request: &Request, route: &str) -> Option<Here> {
    let parent = caller.map_or_else(Context::new, |caller| remote(caller, request.headers()));
    // Nothing has looked at the span before, so that this fails only where there is no exporter.
    span.set_parent(parent).ok()?;
    span.record("otel.kind", "server");
    let context = span.context();
    let (span, method) = (context.span(), request.method());
    span.update_name(format!("{method} {route}"));
    span.set_attribute(opentelemetry::KeyValue::new("http.request.method", method.to_string()));
    span.set_attribute(opentelemetry::KeyValue::new("http.route", route.to_owned()));
    let ids = span.span_context();
    ids.is_valid().then(|| Here {
        trace: TraceId(u128::from_be_bytes(ids.trace_id().to_bytes())),
        span: SpanId(u64::from_be_bytes(ids.span_id().to_bytes())),
    })
}

/// Says how the request was answered; the service's own failures are errors.
pub fn end(span: &Span, status: u16) {
    span.set_attribute("http.response.status_code", i64::from(status));
    if status >= 500 {
        span.set_status(Status::error(""));
    }
}

/// The caller's span as a parent.
fn remote(caller: Caller, headers: &HeaderMap) -> Context {
    let Caller { trace, span, sampled } = caller;
    let (trace, span) = (OtelTraceId::from(trace.0), OtelSpanId::from(span.0));
    let flags = TraceFlags::default().with_sampled(sampled);
    Context::new().with_remote_span_context(SpanContext::new(trace, span, flags, true, state(headers)))
}

/// What the systems before us say, which a sampler may read; nothing where it is not as the standard wants it.
fn state(headers: &HeaderMap) -> TraceState {
    let lines = headers.get_all(TRACESTATE).iter().map(|value| value.to_str());
    let lines = lines.collect::<Result<Vec<_>, _>>().unwrap_or_default();
    lines.join(",").parse().unwrap_or_default()
}

//! Spans as a collector gets them: the program runs against one that keeps what it is sent.

use std::sync::{Arc, Mutex};

use axum::{Router, body::Bytes, http::StatusCode, routing::post};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value},
    trace::v1::{ResourceSpans, Span, span::SpanKind},
};
use prost::Message;
use serde_json::json;

use crate::helpers::{Serving, Workspace};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

type Received = Arc<Mutex<Vec<ResourceSpans>>>;

/// Listens for spans; its address, and what has come.
async fn collector() -> (String, Received) {
    let received = Received::default();
    let kept = Arc::clone(&received);
    let keep = async move |body: Bytes| match ExportTraceServiceRequest::decode(body) {
        Ok(request) => {
            kept.lock().unwrap().extend(request.resource_spans);
            StatusCode::OK
        }
        Err(_) => StatusCode::BAD_REQUEST,
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().route("/v1/traces", post(keep));
    tokio::spawn(async { axum::serve(listener, router).await });
    (address, received)
}

fn value<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a any_value::Value> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    found.value.as_ref().and_then(|AnyValue { value }| value.as_ref())
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_requests_spans_are_in_its_callers_trace() {
    let (collector, received) = collector().await;
    let workspace = Workspace::new("llama-0");
    let mut command =
        workspace.command("serve --port 0 --model base --adapter adapter --log warn,rewarden::cli=info");
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", collector).env("OTEL_SERVICE_NAME", "judge");
    let serving = Serving::ready(command).await;
    let request = serving
        .post("/v1/rewards")
        .header("traceparent", format!("00-{TRACE}-{CALLER}-01"))
        .header("tracestate", "rojo=00f067aa0ba902b7")
        .json(&json!({"items": [{"input_ids": [3, 5, 7]}, {"input_ids": [9]}]}));
    assert_eq!(request.send().await.unwrap().status(), 200);
    // The last spans are sent at the end.
    tokio::task::spawn_blocking(move || serving.stop()).await.unwrap();

    let received = received.lock().unwrap();
    let name =
        received.iter().map(|spans| value(&spans.resource.as_ref().unwrap().attributes, "service.name"));
    let judge = any_value::Value::StringValue("judge".into());
    assert!(name.clone().count() > 0 && name.clone().all(|name| name == Some(&judge)));
    let scopes = received.iter().flat_map(|spans| &spans.scope_spans);
    let spans: Vec<&Span> =
        scopes.flat_map(|scope| &scope.spans).filter(|span| hexadecimal(&span.trace_id) == TRACE).collect();
    let named = |name: &str| -> Vec<&&Span> { spans.iter().filter(|span| span.name == name).collect() };
    let [request] = named("POST /v1/rewards")[..] else { panic!("{spans:?}") };
    assert_eq!(hexadecimal(&request.parent_span_id), CALLER);
    assert_eq!((request.kind(), request.trace_state.as_str()), (SpanKind::Server, "rojo=00f067aa0ba902b7"));
    assert_eq!(
        value(&request.attributes, "http.response.status_code"),
        Some(&any_value::Value::IntValue(200))
    );
    for stage in ["tokenize", "queue", "score"] {
        let below = named(stage);
        assert!(!below.is_empty(), "{stage}: {spans:?}");
        for span in below {
            assert_eq!(span.parent_span_id, request.span_id, "{stage}");
            assert!(request.start_time_unix_nano <= span.start_time_unix_nano);
            assert!(span.start_time_unix_nano <= span.end_time_unix_nano);
            assert!(span.end_time_unix_nano <= request.end_time_unix_nano);
        }
    }
}

//! Spans as a collector gets them: the program runs against one that keeps what it is sent.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use axum::{Router, body::Bytes, http::StatusCode, routing::post};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value},
    trace::v1::{ResourceSpans, Span},
};
use prost::Message;
use serde_json::json;

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

/// The program on a model of the fixtures.
struct Service {
    program: Child,
    address: String,
}

impl Service {
    fn start(collector: &str) -> Self {
        let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/cases/llama-0");
        let mut program = Command::new(env!("CARGO_BIN_EXE_rewarden"))
            .args(["serve", "--log", "info", "--port", "0", "--model"])
            .arg(case.join("base"))
            .arg("--adapter")
            .arg(case.join("adapter"))
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector)
            .env("OTEL_SERVICE_NAME", "judge")
            .env("NO_PROXY", "127.0.0.1")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(program.stderr.take().unwrap()).lines().map(Result::unwrap);
        let address =
            lines.find_map(|line| Some(line.split_once("listening on ")?.1.trim().to_owned())).unwrap();
        // What is not read would stop the program once the pipe is full.
        std::thread::spawn(move || lines.for_each(drop));
        Self { program, address }
    }

    /// Asks it politely to end, and waits.
    fn stop(mut self) {
        let killed = Command::new("kill").arg(self.program.id().to_string()).status().unwrap();
        assert!(killed.success() && self.program.wait().unwrap().success());
    }
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
    let service = tokio::task::spawn_blocking(move || Service::start(&collector)).await.unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for _ in 0..600 {
        let ready = client.get(format!("{}/readyz", service.address)).send().await;
        if ready.is_ok_and(|response| response.status() == 200) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let request = client
        .post(format!("{}/v1/rewards", service.address))
        .header("traceparent", format!("00-{TRACE}-{CALLER}-01"))
        .header("tracestate", "rojo=00f067aa0ba902b7")
        .json(&json!({"items": [{"text": "a"}, {"text": "b"}]}));
    assert_eq!(request.send().await.unwrap().status(), 200);
    tokio::task::spawn_blocking(move || service.stop()).await.unwrap();

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
    assert_eq!(
        (request.kind(), request.trace_state.as_str()),
        (opentelemetry_proto::tonic::trace::v1::span::SpanKind::Server, "rojo=00f067aa0ba902b7")
    );
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

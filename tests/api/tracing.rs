//! Where a request belongs, and where its time went.

use std::time::Duration;

use reqwest::{Response, header::HeaderMap};
use serde_json::{Value, json};

use crate::helpers::{Log, Service};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

/// The ids of trace and span in the log line of a request that came with these headers.
async fn logged(service: &Service, id: &str, headers: &[(&'static str, String)]) -> (String, String) {
    let log = Log::start();
    let body = json!({"items": [{"text": "x"}]});
    let mut request = service.post("/v1/rewards").header("x-request-id", id).json(&body);
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    assert_eq!(request.send().await.unwrap().status(), 200);
    let mut lines = log.of(id);
    lines.retain(|line| line["fields"]["message"] == "answered");
    let [line] = &lines[..] else { panic!("{lines:?}") };
    let field = |name: &str| line["span"][name].as_str().unwrap_or_else(|| panic!("{line}")).to_owned();
    (field("trace_id"), field("span_id"))
}

#[tokio::test]
async fn a_callers_trace_is_taken_up() {
    let service = Service::ready().await;
    let header = |text: String| [("traceparent", text), ("tracestate", "rojo=00f067aa0ba902b7".to_owned())];
    let (trace, span) = logged(&service, "traced", &header(format!("00-{TRACE}-{CALLER}-01"))).await;
    assert_eq!(trace, TRACE);
    assert!(span.len() == 16 && span != CALLER, "{span}");
    let (trace, again) =
        logged(&service, "traced-later", &header(format!("01-{TRACE}-{CALLER}-00-more"))).await;
    assert_eq!(trace, TRACE);
    assert_ne!(again, span);
}

#[tokio::test]
async fn what_is_no_trace_begins_another() {
    let service = Service::ready().await;
    let right = format!("00-{TRACE}-{CALLER}-01");
    let cases = [
        vec![],
        vec![("traceparent", format!("00-{TRACE}-{CALLER}"))],
        vec![("traceparent", format!("00-{}-{CALLER}-01", "0".repeat(32)))],
        vec![("traceparent", right.to_uppercase())],
        vec![("traceparent", right.clone()), ("traceparent", right)],
    ];
    let mut seen = vec![TRACE.to_owned()];
    for (at, headers) in cases.iter().enumerate() {
        let (trace, span) = logged(&service, &format!("untraced-{at}"), headers).await;
        assert!(
            trace.len() == 32 && span.len() == 16 && !seen.contains(&trace),
            "{headers:?}: {trace} {span}"
        );
        seen.push(trace);
    }
}

/// The names and milliseconds of `server-timing`.
fn timing(headers: &HeaderMap) -> Vec<(String, f64)> {
    let metric = |metric: &str| {
        let (name, milliseconds) = metric.trim().split_once(";dur=").unwrap();
        (name.to_owned(), milliseconds.parse().unwrap())
    };
    headers["server-timing"].to_str().unwrap().split(',').map(metric).collect()
}

/// The answer to one text that waited for another, both of which were held for some time.
async fn held(service: &Service, path: &str, body: &Value, time: Duration) -> Response {
    service.hold.shut();
    let first = service.rewards_later("x");
    service.until_batches(1).await;
    let request = service.post(path).json(body);
    let second = tokio::spawn(async { request.send().await.unwrap() });
    service.until_queued(2).await;
    tokio::time::sleep(time).await;
    service.hold.open();
    assert_eq!(first.await.unwrap().status(), 200);
    second.await.unwrap()
}

#[tokio::test]
async fn an_answer_says_where_its_time_went() {
    let service = Service::ready().await;
    let time = Duration::from_millis(100);
    // The first is computed as long as the second waits.
    let response = held(&service, "/v1/rewards", &json!({"items": [{"text": "y"}]}), time).await;
    let metrics = timing(response.headers());
    let names: Vec<&str> = metrics.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["tokenize", "queue", "score", "total"]);
    let [tokenize, queue, score, total] = metrics[..].iter().map(|(_, ms)| *ms).collect::<Vec<_>>()[..]
    else {
        panic!("{metrics:?}")
    };
    // It may have come a moment after it was counted.
    assert!(queue >= 90.0 && tokenize > 0.0 && score > 0.0, "{metrics:?}");
    assert!(tokenize + queue + score <= total + 0.002, "{metrics:?}");
    service.hold.shut();
    let held = service.rewards_later("z");
    service.until_batches(3).await;
    tokio::time::sleep(time).await;
    service.hold.open();
    let metrics = timing(held.await.unwrap().headers());
    assert!(metrics[2].1 >= 100.0 && metrics[1].1 < metrics[2].1, "{metrics:?}");
}

#[tokio::test]
async fn every_scoring_answer_says_it_and_no_other() {
    let service = Service::ready().await;
    let asked = async |path: &str, body: Value| service.post(path).json(&body).send().await.unwrap();
    for (path, body, status) in [
        ("/v1/rewards/stream", json!({"items": [{"text": "x"}]}), 200),
        ("/v1/compare", json!({"prompt": "x", "a": "y", "b": "z"}), 200),
        ("/v1/best-of-n", json!({"prompt": "x", "responses": ["y", "z"]}), 200),
        ("/classify", json!({"input": "x"}), 200),
        ("/v1/rewards", json!({"items": [{"text": "x fail"}]}), 500),
        ("/classify", json!({"input": "x fail"}), 500),
    ] {
        let response = asked(path, body).await;
        assert_eq!(response.status(), status, "{path}");
        assert_eq!(timing(response.headers()).len(), 4, "{path}");
    }
    assert!(!asked("/v1/rewards", json!({})).await.headers().contains_key("server-timing"));
    assert!(!service.get("/v1/models").await.headers().contains_key("server-timing"));
}

#[tokio::test]
async fn time_that_runs_out_is_accounted_for() {
    let service = Service::ready().await;
    service.hold.shut();
    let request = service.post("/v1/rewards").header("x-request-timeout-ms", "100");
    let response = request.json(&json!({"items": [{"text": "x"}]})).send().await.unwrap();
    service.hold.open();
    assert_eq!(response.status(), 504);
    let metrics = timing(response.headers());
    assert!(metrics[1].1 + metrics[2].1 > 0.0 && metrics[3].1 >= 99.0, "{metrics:?}");
}

#[tokio::test]
async fn text_embeddings_inference_has_headers_of_its_own() {
    let service = Service::ready().await;
    let number = |response: &Response, name: &str| -> u64 {
        response.headers()[name].to_str().unwrap().parse().unwrap_or_else(|_| panic!("{name}"))
    };
    let body = json!({"query": "x", "texts": ["y", "zz"]});
    let response = held(&service, "/rerank", &body, Duration::from_millis(100)).await;
    assert_eq!(response.status(), 200);
    assert_eq!((number(&response, "x-compute-characters"), number(&response, "x-compute-tokens")), (5, 10));
    assert!(number(&response, "x-queue-time") >= 90);
    let parts =
        ["x-tokenization-time", "x-queue-time", "x-inference-time"].map(|name| number(&response, name));
    assert!(parts.iter().sum::<u64>() <= number(&response, "x-total-time"), "{response:?}");
    assert_eq!(number(&response, "x-compute-time"), number(&response, "x-total-time"));
    let predicted =
        service.post("/predict").json(&json!({"inputs": [["é"], ["x", "y"]]})).send().await.unwrap();
    assert_eq!((number(&predicted, "x-compute-characters"), number(&predicted, "x-compute-tokens")), (3, 6));
    let native = service.post("/v1/rewards").json(&json!({"items": [{"text": "x"}]})).send().await.unwrap();
    assert!(!native.headers().contains_key("x-compute-time"));
}

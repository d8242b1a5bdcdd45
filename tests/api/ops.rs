//! Everything around scoring: models, metrics, ids, logs, documentation.

use serde_json::{Value, json};

use crate::helpers::{Log, MAX_LENGTH, Service};

#[tokio::test]
async fn models_are_listed_with_the_default_first() {
    let service = Service::ready().await;
    let mut body: Value = service.get("/v1/models").await.json().await.unwrap();
    for entry in body["data"].as_array_mut().unwrap() {
        assert!(entry["created"].take().as_u64().is_some_and(|created| created > 1_600_000_000));
    }
    let entry = |id: &str, posterior: bool| {
        json!({"id": id, "object": "model", "created": null, "owned_by": "rewarden",
            "max_model_len": MAX_LENGTH, "posterior": posterior, "root": id, "parent": "base", "permission": [],
            "fingerprint": format!("{id}-1")})
    };
    assert_eq!(body, json!({"object": "list", "data": [entry("bayes", true), entry("plain", false)]}));
}

#[tokio::test]
async fn metrics_count_what_happened() {
    let service = Service::ready().await;
    let items = json!([{"text": "x x x x"}, {"text": "y"}]);
    assert_eq!(service.rewards(&json!({ "items": items })).await.0, 200);
    assert_eq!(service.rewards(&json!({"items": []})).await.0, 422);
    assert_eq!(service.get("/secret/path").await.status(), 404);
    let table = [
        (r#"rewarden_requests_total{code="200",route="/v1/rewards"}"#, 1.0),
        (r#"rewarden_requests_total{code="422",route="/v1/rewards"}"#, 1.0),
        (r#"rewarden_requests_total{code="404",route="unmatched"}"#, 1.0),
        (r#"rewarden_request_seconds_count{route="/v1/rewards"}"#, 2.0),
        (r#"rewarden_stage_seconds_count{stage="tokenize"}"#, 1.0),
        (r#"rewarden_stage_seconds_count{stage="queue"}"#, 2.0),
        (r#"rewarden_stage_seconds_count{stage="score"}"#, 1.0),
        ("rewarden_queue_items", 0.0),
        ("rewarden_queue_tokens", 0.0),
        ("rewarden_batch_tokens_sum", 5.0),
        ("rewarden_scored_items_total", 2.0),
        ("rewarden_scored_tokens_total", 5.0),
        (r#"rewarden_reward_mean_count{model="bayes"}"#, 2.0),
        (r#"rewarden_reward_std_sum{model="bayes"}"#, 3.0),
        (r#"rewarden_reward_score_count{model="bayes"}"#, 2.0),
    ];
    for (name, want) in table {
        assert_eq!(service.metric(name).await, want, "{name}");
    }
    let text = service.get("/metrics").await.text().await.unwrap();
    assert!(!text.contains("secret"), "a path that was sent is no label");
    assert!(text.contains("\nrewarden_queue_items 0\n"), "{text}");
}

#[tokio::test]
async fn a_request_keeps_its_id_or_gets_one() {
    let service = Service::ready().await;
    let long = "i".repeat(129);
    for (sent, kept) in [("my-id", true), (long.as_str(), false), ("", false)] {
        let response = service.post("/v1/rewards").header("x-request-id", sent).send().await.unwrap();
        assert_eq!(response.headers()["x-request-id"] == sent, kept, "{sent}");
        assert!(!response.headers()["x-request-id"].is_empty());
    }
    let (one, other) = (service.get("/livez").await, service.get("/no/such/route").await);
    assert_ne!(one.headers()["x-request-id"], other.headers()["x-request-id"]);
}

#[tokio::test]
async fn paths_and_methods_that_are_not_there_are_json_too() {
    let service = Service::ready().await;
    for (path, status, code, allow) in [
        ("/v1/reward", 404, "not_found", None),
        ("/v1/rewards", 405, "method_not_allowed", Some(&b"POST"[..])),
    ] {
        let response = service.get(path).await;
        assert_eq!(response.status(), status);
        assert_eq!(response.headers().get("allow").map(|allow| allow.as_bytes()), allow);
        assert_eq!(response.json::<Value>().await.unwrap()["error"]["code"], code);
    }
}

#[tokio::test]
async fn the_documentation_loads_nothing_from_elsewhere() {
    let service = Service::ready().await;
    let spec: Value = service.get("/openapi.json").await.json().await.unwrap();
    assert_eq!(spec, serde_json::to_value(rewarden::http::openapi()).unwrap());
    let page = service.get("/docs").await;
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.starts_with("default-src 'self';"), "{policy}");
    let text = page.text().await.unwrap();
    assert!(text.contains("swagger-ui") && !text.contains("://"), "{text}");
    let script = service.get("/docs/swagger-initializer.js").await.text().await.unwrap();
    assert!(script.contains("/openapi.json") && !script.contains("https://"), "{script}");
}

#[test]
fn the_committed_spec_is_the_service() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi/rewarden.json");
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    let generated = rewarden::http::openapi().to_pretty_json().unwrap() + "\n";
    assert!(committed == generated, "{path} is stale (hint: run `rewarden openapi > openapi/rewarden.json`)");
}

#[tokio::test]
async fn a_request_is_one_log_line_without_what_was_scored() {
    let log = Log::start();
    let service = Service::ready().await;
    let body = json!({"items": [{"prompt": "unspeakable", "response": "x"}]});
    let request = service.post("/v1/rewards").header("x-request-id", "a-logged-request").json(&body);
    assert_eq!(request.send().await.unwrap().status(), 200);
    let text = log.text();
    assert!(!text.contains("unspeakable"), "{text}");
    let mut answered = log.of("a-logged-request");
    answered.retain(|line| line["fields"]["message"] == "answered");
    let [line] = &answered[..] else { panic!("{text}") };
    let fields = &line["fields"];
    assert_eq!((&fields["route"], &fields["status"]), (&json!("/v1/rewards"), &json!(200)));
    assert_eq!((&fields["items"], &fields["tokens"]), (&json!(1), &json!(5)));
    assert!(fields["seconds"].is_number());
    assert_eq!(line["span"]["method"], "POST");
}

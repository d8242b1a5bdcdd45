//! Infinity's routes.

use serde_json::{Value, json};

use super::{reward, sigmoid, take};
use crate::helpers::Service;

fn settled(mut body: Value) -> Value {
    assert!(take(&mut body, "id").as_str().unwrap().starts_with("infinity-"), "{body}");
    assert!(take(&mut body, "created").as_u64().unwrap() > 1_600_000_000);
    body
}

#[tokio::test]
async fn documents_are_ranked() {
    let service = Service::ready().await;
    let mut request = json!({"model": "default/not-specified", "query": "x", "documents": ["y", "z"], "raw_scores": true,
        "return_documents": true, "top_n": 1});
    let want = json!({
        "object": "rerank", "model": "bayes", "usage": {"prompt_tokens": 10, "total_tokens": 10},
        "results": [{"relevance_score": 1.0, "index": 1, "document": "z", "reward": reward(1.0, 5.0)}],
    });
    assert_eq!(settled(service.asked("/rerank", &request).await), want);
    request["raw_scores"] = json!(false);
    request["return_documents"] = json!(false);
    let body = settled(service.asked("/rerank", &request).await);
    assert_eq!(body["results"][0]["relevance_score"], sigmoid(1.0));
    assert_eq!(body["results"][0].get("document"), None);
}

#[tokio::test]
async fn texts_are_classified() {
    let service = Service::ready().await;
    let request = json!({"input": ["x", "y"], "model": "bayes", "raw_scores": true});
    let label = |mean: f64| json!([{"score": mean, "label": "LABEL_0", "reward": reward(mean, 1.0)}]);
    let want = json!({
        "object": "classify", "data": [label(0.3), label(0.4)], "model": "bayes",
        "usage": {"prompt_tokens": 2, "total_tokens": 2},
    });
    assert_eq!(settled(service.asked("/classify", &request).await), want);
}

#[tokio::test]
async fn models_carry_what_waits() {
    let service = Service::ready().await;
    let body: Value = service.get("/models").await.json().await.unwrap();
    assert_eq!((&body["data"][0]["id"], &body["data"][1]["id"]), (&json!("bayes"), &json!("plain")));
    assert_eq!(body["data"][0]["stats"]["queue_absolute"], 0);
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let service = Service::ready().await;
    for (path, request, status, param) in [
        ("/rerank", json!({"query": 1, "documents": ["y"], "raw_scores": true}), 422, "query"),
        ("/rerank", json!({"query": "x", "documents": [], "raw_scores": true}), 422, "documents"),
        ("/classify", json!({"input": "x", "raw_scores": true}), 422, "input"),
        ("/classify", json!({"input": ["x"], "raw_scores": true, "model": "no"}), 404, "model"),
    ] {
        let (got, body) = service.ask(path, &request).await;
        let error = &body["error"];
        assert_eq!((got, &error["param"], &error["code"]), (status, &json!(param), &json!(status)), "{body}");
    }
}

//! OpenRLHF's `_fetch_rewards_via_http`: posts lists, reads `rewards`, `scores` and `extra_logs`.

use serde_json::json;

use crate::helpers::{PRIOR, Service};

#[tokio::test]
async fn lists_of_templated_text_are_answered_with_lists() {
    let service = Service::ready().await;
    let request = json!({"query": ["<s> x </s>", "y y"], "prompts": ["x", "y"], "labels": [null, "l"]});
    let want = json!({
        "rewards": [0.4, 0.8], "scores": [0.4, 0.8],
        "extra_logs": {
            "mean": [0.4, 0.8], "variance": [3.0, 2.0], "std": [3f64.sqrt(), 2f64.sqrt()],
            "contraction": [1.0 - 3.0 / PRIOR, 1.0 - 2.0 / PRIOR],
            "score": [0.4 - 3f64.sqrt(), 0.8 - 2f64.sqrt()], "truncated": [0.0, 0.0],
        },
    });
    assert_eq!(service.asked("/get_reward", &request).await, want);
    // As clients before 2025 sent it.
    assert_eq!(service.asked("/get_reward", &json!({"query": ["<s> x </s>", "y y"]})).await, want);
}

#[tokio::test]
async fn nothing_is_answered_with_nothing() {
    let service = Service::ready().await;
    let request = json!({"query": [], "prompts": [], "labels": []});
    let want = json!({"rewards": [], "scores": [], "extra_logs": {}});
    assert_eq!(service.asked("/get_reward", &request).await, want);
}

#[tokio::test]
async fn what_is_too_long_is_cut_on_the_right_and_told() {
    let service = Service::ready().await;
    let long = format!("{}z z", "x ".repeat(16));
    let body = service.asked("/get_reward?reward=conservative", &json!({"query": [long]})).await;
    assert_eq!(body["extra_logs"]["truncated"], json!([1.0]));
    assert_eq!(body["extra_logs"]["mean"], json!([4.8]));
    assert_eq!(body["rewards"], json!([4.8 - 4.0]));
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let service = Service::ready().await;
    for (path, request, param) in [
        ("/get_reward", json!({"query": ["x", 1]}), "query[1]"),
        ("/get_reward", json!({"query": "x"}), "query"),
        ("/get_reward", json!({}), "query"),
        ("/get_reward", json!({"query": ["x", " "]}), "query[1]"),
    ] {
        let (status, body) = service.ask(path, &request).await;
        assert_eq!(status, 422, "{body}");
        assert!(body["detail"].as_str().unwrap().contains(param), "{body}");
    }
}

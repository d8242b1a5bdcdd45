//! LLaMA-Factory and slime: small calls of trainers.

use serde_json::{Value, json};

use super::{reward, take};
use crate::helpers::Service;

#[tokio::test]
async fn llama_factory_reads_scores() {
    let service = Service::ready().await;
    let path = "/v1/score/evaluation";
    let mut body =
        service.asked(path, &json!({"model": "model", "messages": ["x", "y y"], "max_length": null})).await;
    assert!(take(&mut body, "id").as_str().unwrap().starts_with("scoreval-"));
    let want = json!({"object": "score.evaluation", "model": "bayes", "scores": [0.3, 0.8],
        "rewards": [reward(0.3, 1.0), reward(0.8, 2.0)]});
    assert_eq!(body, want);
    let body = service.asked(path, &json!({"messages": ["x y z"], "max_length": 2})).await;
    assert_eq!((&body["scores"], &body["rewards"][0]["truncated"]), (&json!([0.7]), &json!(true)));
    for (request, status, named) in [
        (json!({"messages": []}), 422, "messages"),
        (json!({"messages": ["x", " "]}), 422, "messages[1]"),
        (json!({"messages": ["x"], "model": "no"}), 404, "unknown model"),
    ] {
        let (got, body) = service.ask(path, &request).await;
        assert_eq!(got, status, "{body}");
        assert!(body["detail"].as_str().unwrap().starts_with(named), "{body}");
    }
}

#[tokio::test]
async fn slime_reads_the_whole_reply() {
    let service = Service::ready().await;
    let text = json!({"prompt": "x", "response": "y", "label": null});
    let messages = json!({"prompt": [{"role": "user", "content": "x"}], "response": "y", "label": "l"});
    for request in [text, messages] {
        assert_eq!(service.asked("/slime", &request).await, json!(0.9));
        let mut full: Value = reward(0.9, 5.0);
        full["reward"] = json!(0.9);
        assert_eq!(service.asked("/slime?full=1", &request).await, full);
    }
    for request in [
        json!({"prompt": "x"}),
        json!({"prompt": 1, "response": "y"}),
        json!({"prompt": [], "response": "y"}),
    ] {
        let (status, body) = service.ask("/slime", &request).await;
        assert_eq!(status, 422, "{body}");
        assert!(body["detail"].is_string());
    }
}

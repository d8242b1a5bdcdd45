//! LightLLM's route.

use serde_json::json;

use super::reward;
use crate::helpers::Service;

#[tokio::test]
async fn a_conversation_is_scored() {
    let service = Service::ready().await;
    let text = json!({"chat": "x x x x", "parameters": {"frequency_penalty": 1}});
    let want = json!({"score": 1.2, "prompt_tokens": 4, "finish_reason": "stop", "reward": reward(1.2, 4.0)});
    assert_eq!(service.asked("/get_score", &text).await, want);
    let messages = json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]);
    let want = json!({"score": 0.9, "prompt_tokens": 5, "finish_reason": "stop", "reward": reward(0.9, 5.0)});
    assert_eq!(service.asked("/get_score", &json!({"chat": messages})).await, want);
}

#[tokio::test]
async fn what_is_wrong_is_an_expectation_that_failed() {
    let service = Service::ready().await;
    for (request, param) in [
        (json!({}), "body"),
        (json!({"chat": 1}), "chat"),
        (json!({"chat": []}), "chat"),
        (json!({"chat": " "}), "chat"),
        (json!({"chat": "x ".repeat(17)}), "chat"),
    ] {
        let (status, mut body) = service.ask("/get_score", &request).await;
        assert!(body["error"]["message"].take().is_string(), "{body}");
        let want =
            json!({"error": {"message": null, "type": "BadRequestError", "param": param, "code": 417}});
        assert_eq!((status, body), (417, want), "{request}");
    }
}

//! Text Embeddings Inference's routes.

use serde_json::{Value, json};

use super::{reward, sigmoid};
use crate::helpers::{MAX_LENGTH, Service};

fn label(mean: f64, tokens: f64) -> Value {
    json!({"score": mean, "label": "LABEL_0", "reward": reward(mean, tokens)})
}

#[tokio::test]
async fn a_list_of_two_is_a_pair_and_several_are_a_list_of_lists() {
    let service = Service::ready().await;
    for (request, want) in [
        (json!({"inputs": "x"}), json!([label(0.3, 1.0)])),
        (json!({"inputs": ["x"]}), json!([label(0.3, 1.0)])),
        (json!({"inputs": ["x", "y"]}), json!([label(0.9, 5.0)])),
        (json!({"inputs": [["x"], ["x", "y"]]}), json!([[label(0.3, 1.0)], [label(0.9, 5.0)]])),
        (json!({"inputs": [["x"]], "raw_scores": true}), json!([[label(0.3, 1.0)]])),
        // The hub's client.
        (json!({"inputs": "x", "parameters": {}}), json!([[label(0.3, 1.0)]])),
        (
            json!({"inputs": "x", "parameters": {"function_to_apply": "none", "top_k": 1}}),
            json!([[label(0.3, 1.0)]]),
        ),
    ] {
        for path in ["/predict", "/", "/invocations"] {
            assert_eq!(service.asked(path, &request).await, want, "{path} {request}");
        }
        assert_eq!(service.asked("/classify", &request).await, want, "{request}");
    }
    let body = service.asked("/predict", &json!({"inputs": "x", "raw_scores": false})).await;
    assert_eq!(body[0]["score"], sigmoid(0.3));
    let asked = |function: &str| json!({"inputs": "x", "parameters": {"function_to_apply": function}});
    assert_eq!(service.asked("/predict", &asked("sigmoid")).await[0][0]["score"], sigmoid(0.3));
    let (status, body) = service.ask("/predict", &asked("softmax")).await;
    assert_eq!(status, 422, "{body}");
    assert!(body["error"].as_str().unwrap().contains("function_to_apply"), "{body}");
    let instances = json!([{"inputs": "x"}, {"inputs": [["y"]]}]);
    let body = service.asked("/vertex", &json!({"instances": instances})).await;
    assert_eq!(body, json!({"predictions": [[label(0.3, 1.0)], [[label(0.4, 1.0)]]]}));
}

#[tokio::test]
async fn what_is_too_long_is_cut_where_that_is_asked_for() {
    let service = Service::ready().await;
    let long = format!("{}z", "x ".repeat(16));
    for (direction, mean) in [("Left", 5.0), ("left", 5.0), ("Right", 4.8), ("right", 4.8)] {
        let request = json!({"inputs": long, "truncate": true, "truncation_direction": direction});
        let body = service.asked("/predict", &request).await;
        assert_eq!((&body[0]["score"], &body[0]["reward"]["truncated"]), (&json!(mean), &json!(true)));
    }
    assert_eq!(service.ask("/predict", &json!({"inputs": long})).await.0, 422);
}

#[tokio::test]
async fn texts_are_ranked() {
    let service = Service::ready().await;
    let request = json!({"query": "x", "texts": ["y", "z", "y"], "return_text": true});
    let ranked = |index: usize, mean: f64, text: &str| json!({"index": index, "score": mean, "text": text, "reward": reward(mean, 5.0)});
    let want = json!([ranked(1, 1.0, "z"), ranked(0, 0.9, "y"), ranked(2, 0.9, "y")]);
    for path in ["/rerank", "/v1/rerank"] {
        assert_eq!(service.asked(path, &request).await, want);
    }
    let body = service.asked("/rerank", &json!({"query": "x", "texts": ["y"], "raw_scores": false})).await;
    assert_eq!((&body[0]["score"], body[0].get("text")), (&json!(sigmoid(0.9)), None));
}

#[tokio::test]
async fn tokens_go_there_and_back() {
    let service = Service::ready().await;
    let token = |id: u32, text: &str, start: usize| json!({"id": id, "text": text, "special": false, "start": start, "stop": start + 1});
    let body =
        service.asked("/tokenize", &json!({"inputs": ["x y", "z"], "add_special_tokens": false})).await;
    assert_eq!(body, json!([[token(3, "x", 0), token(4, "y", 2)], [token(5, "z", 0)]]));
    assert_eq!(service.asked("/tokenize", &json!({"inputs": "z"})).await, json!([[token(5, "z", 0)]]));
    assert_eq!(service.asked("/decode", &json!({"ids": [[3, 4], [5]]})).await, json!(["x y", "z"]));
    assert_eq!(service.asked("/decode", &json!({"ids": [3]})).await, json!(["x"]));
}

#[tokio::test]
async fn the_model_is_described() {
    let service = Service::ready().await;
    let info: Value = service.get("/info").await.json().await.unwrap();
    assert_eq!((&info["model_id"], &info["served_model_name"]), (&json!("base"), &json!("bayes")));
    assert_eq!(info["max_input_length"], MAX_LENGTH);
    assert_eq!(
        info["model_type"],
        json!({"classifier": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}})
    );
    for name in
        ["max_concurrent_requests", "max_batch_tokens", "max_client_batch_size", "tokenization_workers"]
    {
        assert!(info[name].as_u64().is_some_and(|number| number > 0), "{name}: {info}");
    }
}

#[tokio::test]
async fn what_is_wrong_has_a_type() {
    let service = Service::ready().await;
    for (path, request, status, kind) in [
        ("/predict", json!({"inputs": []}), 400, "Empty"),
        ("/rerank", json!({"query": "x", "texts": []}), 400, "Empty"),
        ("/predict", json!({"inputs": ["x", "y", "z"]}), 422, "Validation"),
        ("/predict", json!({"inputs": [["x"], []]}), 422, "Validation"),
        ("/predict", json!({"inputs": 1}), 422, "Validation"),
        ("/predict", json!({}), 422, "Validation"),
        ("/predict", json!({"inputs": "x", "truncation_direction": "Up"}), 422, "Validation"),
        ("/predict", json!({"inputs": "x fail"}), 424, "Backend"),
        ("/decode", json!({"ids": "x"}), 422, "Validation"),
    ] {
        let (got, body) = service.ask(path, &request).await;
        assert_eq!((got, &body["error_type"]), (status, &json!(kind)), "{path} {request}: {body}");
        assert!(body["error"].is_string(), "{body}");
    }
}

//! vLLM's routes: verl reads `data[-1].probs[-1]`, reward-hub the last number of every list in `data[0].data`.

use serde_json::{Value, json};

use super::{certain, reward, sigmoid, take};
use crate::helpers::Service;

fn usage(tokens: usize) -> Value {
    json!({"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0, "prompt_tokens_details": null,
        "completion_tokens_details": null})
}

/// Checks what differs from answer to answer, and takes it away.
fn settle(body: &mut Value, kind: &str) {
    assert!(take(body, "id").as_str().unwrap().starts_with(&format!("{kind}-")), "{body}");
    assert!(take(body, "created").as_u64().unwrap() > 1_600_000_000);
}

#[tokio::test]
async fn classify_as_verl_calls_it() {
    let service = Service::ready().await;
    for path in ["/classify", "/v1/classify"] {
        let request = json!({"model": "bayes", "input": "x x x x", "use_activation": false});
        let mut body = service.asked(path, &request).await;
        settle(&mut body, "classify");
        let entry = json!({"index": 0, "label": "LABEL_0", "probs": [1.2], "num_classes": 1, "reward": reward(1.2, 4.0)});
        assert_eq!(body, json!({"object": "list", "model": "bayes", "data": [entry], "usage": usage(4)}));
    }
}

#[tokio::test]
async fn every_form_of_input_is_read() {
    let service = Service::ready().await;
    let probs = async |request: Value| {
        let body = service.asked("/classify", &request).await;
        body["data"].as_array().unwrap().iter().map(|entry| entry["probs"][0].clone()).collect::<Vec<_>>()
    };
    assert_eq!(probs(json!({"input": ["x", "y"]})).await, [0.3, 0.4]);
    assert_eq!(probs(json!({"input": [3, 4]})).await, [0.7]);
    assert_eq!(probs(json!({"input": [[3], [4, 4]]})).await, [0.3, 0.8]);
    let messages = json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]);
    assert_eq!(
        probs(json!({"messages": messages, "add_generation_prompt": false, "unknown": 1})).await,
        [0.9]
    );
    assert_eq!(probs(json!({"input": "x", "use_activation": true})).await, [sigmoid(0.3)]);
    assert_eq!(probs(json!({"input": "x", "use_activation": null, "messages": null})).await, [0.3]);
    assert_eq!(probs(json!({"input": "x y z", "truncate_prompt_tokens": 2})).await, [0.9]);
    assert_eq!(
        probs(json!({"input": "x y z", "truncate_prompt_tokens": 2, "truncation_side": "right"})).await,
        [0.7]
    );
    assert_eq!(probs(json!({"input": "y ".repeat(17), "truncate_prompt_tokens": -1})).await, [6.4]);
}

#[tokio::test]
async fn pooling_as_reward_hub_calls_it() {
    let service = Service::ready().await;
    let messages = json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]);
    let mut body = service.asked("/pooling", &json!({"model": "plain", "messages": messages})).await;
    settle(&mut body, "pool");
    let entry = json!({"index": 0, "object": "pooling", "data": [[0.9]], "reward": certain(0.9)});
    assert_eq!(body, json!({"object": "list", "model": "plain", "data": [entry], "usage": usage(5)}));
}

#[tokio::test]
async fn pooling_writes_bytes_where_that_is_asked_for() {
    let service = Service::ready().await;
    // Five tokens of id 3: 1.5, which is 0x3fc00000, 0x3e00 and 0x3fc0.
    let input = "x x x x x";
    for (request, want) in [
        (json!({"input": input, "encoding_format": "base64"}), "AADAPw=="),
        (json!({"input": input, "encoding_format": "base64", "endianness": "big"}), "P8AAAA=="),
        (
            json!({"input": input, "encoding_format": "base64", "embed_dtype": "float16", "endianness": "little"}),
            "AD4=",
        ),
        (json!({"input": input, "encoding_format": "base64", "embed_dtype": "bfloat16"}), "wD8="),
    ] {
        let mut body = service.asked("/pooling", &request).await;
        settle(&mut body, "pool");
        let entry = json!({"index": 0, "object": "pooling", "data": want, "reward": reward(1.5, 5.0)});
        assert_eq!(body, json!({"object": "list", "model": "bayes", "data": [entry], "usage": usage(5)}));
    }
    let request = json!({"input": input, "encoding_format": "float", "embed_dtype": "float16"});
    assert_eq!(service.asked("/pooling", &request).await["data"][0]["data"], json!([[1.5]]));
}

#[tokio::test]
async fn score_has_four_spellings_and_three_shapes() {
    let service = Service::ready().await;
    for (asking, answering) in
        [("queries", "documents"), ("queries", "items"), ("data_1", "data_2"), ("text_1", "text_2")]
    {
        for path in ["/score", "/v1/score"] {
            let mut body = service.asked(path, &json!({asking: "x", answering: ["y", "z"]})).await;
            settle(&mut body, "embd");
            // <s> x </s> y </s> and the same with z.
            let entry = |index: usize, mean: f64| json!({"index": index, "object": "score", "score": mean, "reward": reward(mean, 5.0)});
            let want = json!({"object": "list", "model": "bayes", "data": [entry(0, 0.9), entry(1, 1.0)], "usage": usage(10)});
            assert_eq!(body, want, "{asking} {answering}");
        }
    }
    let scores = async |request: Value| {
        let body = service.asked("/score", &request).await;
        body["data"].as_array().unwrap().iter().map(|entry| entry["score"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(scores(json!({"queries": "x", "documents": "y"})).await, [0.9]);
    assert_eq!(scores(json!({"queries": ["x", "y"], "documents": ["y", "y"]})).await, [0.9, 1.0]);
    assert_eq!(
        scores(json!({"queries": "x", "documents": "y", "use_activation": true})).await,
        [sigmoid(0.9)]
    );
}

#[tokio::test]
async fn score_in_our_own_words() {
    let service = Service::ready().await;
    let body = service.asked("/score", &json!({"prompt": "x", "responses": ["y", "z"]})).await;
    let (_, native) = service
        .rewards(&json!({"items": [{"prompt": "x", "response": "y"}, {"prompt": "x", "response": "z"}]}))
        .await;
    assert_eq!(body, native);
    let (status, body) = service.ask("/score", &json!({"prompt": "x"})).await;
    assert_eq!((status, &body["error"]["code"]), (422, &json!("invalid_field")));
}

#[tokio::test]
async fn what_is_wrong_is_a_bad_request_that_names_the_field() {
    let service = Service::ready().await;
    let table = [
        ("/classify", json!({"input": "x", "normalize": true}), 400, "normalize"),
        ("/classify", json!({"input": "x", "task": "score"}), 400, "task"),
        ("/classify", json!({"input": []}), 400, "input"),
        ("/classify", json!({"input": ["x", " "]}), 400, "input[1]"),
        ("/classify", json!({"input": {"x": 1}}), 400, "input"),
        ("/classify", json!({"input": "x", "messages": []}), 400, "messages"),
        ("/classify", json!({"messages": []}), 400, "messages"),
        ("/classify", json!({"input": "x", "truncate_prompt_tokens": 0}), 400, "truncate_prompt_tokens"),
        ("/classify", json!({"input": "x", "truncation_side": "up"}), 400, "truncation_side"),
        ("/classify", json!({"input": "x ".repeat(17)}), 400, "input"),
        ("/classify", json!({"input": "x", "model": "no"}), 404, "model"),
        ("/pooling", json!({"input": "x", "encoding_format": "bytes"}), 400, "encoding_format"),
        ("/pooling", json!({"input": "x", "embed_dtype": "fp8_e4m3"}), 400, "embed_dtype"),
        ("/pooling", json!({"input": "x", "endianness": "middle"}), 400, "endianness"),
        (
            "/pooling",
            json!({"messages": [{"role": "user", "content": "x"}], "add_generation_prompt": true}),
            400,
            "add_generation_prompt",
        ),
        ("/score", json!({"queries": ["x", "y"], "documents": ["x", "y", "z"]}), 400, "queries"),
        ("/score", json!({"queries": "x", "documents": []}), 400, "documents"),
        ("/score", json!({"queries": "x", "documents": [[1]]}), 400, "documents[0]"),
        ("/score", json!({"queries": "x"}), 400, "body"),
        ("/tokenize", json!({}), 400, "prompt"),
    ];
    for (path, request, status, param) in table {
        let (got, body) = service.ask(path, &request).await;
        let error = &body["error"];
        assert_eq!(
            (got, &error["param"], &error["code"]),
            (status, &json!(param), &json!(status)),
            "{path} {request}: {body}"
        );
        let kind = if status == 404 { "NotFoundError" } else { "BadRequestError" };
        assert_eq!(error["type"], kind);
    }
    assert!(service.batches.lock().unwrap().is_empty());
}

#[tokio::test]
async fn text_is_tokenised() {
    let service = Service::ready().await;
    let body = service
        .asked("/tokenize", &json!({"model": "bayes", "prompt": "x y", "return_token_strs": true}))
        .await;
    assert_eq!(body, json!({"count": 2, "max_model_len": 16, "tokens": [3, 4], "token_strs": ["x", "y"]}));
    let messages = json!([{"role": "user", "content": "x"}]);
    let body = service.asked("/tokenize", &json!({"messages": messages})).await;
    assert_eq!(body, json!({"count": 3, "max_model_len": 16, "tokens": [0, 3, 1], "token_strs": null}));
}

//! SGLang's routes: verl reads `data[-1].embedding[-1]` of `/v1/embeddings`.

use serde_json::{Value, json};

use super::{reward, sigmoid, take};
use crate::helpers::{Service, Setup};

/// An entry less its name.
fn settled(mut entry: Value) -> Value {
    assert!(take(&mut entry["meta_info"], "id").as_str().unwrap().starts_with("encode-"));
    entry
}

fn encoded(mean: f64, tokens: usize) -> Value {
    json!({"embedding": [mean], "meta_info": {"prompt_tokens": tokens}, "reward": reward(mean, tokens as f64)})
}

#[tokio::test]
async fn one_text_is_answered_with_an_object_and_a_list_with_a_list() {
    let service = Service::ready().await;
    for path in ["/classify", "/encode"] {
        assert_eq!(settled(service.asked(path, &json!({"text": "x y"})).await), encoded(0.7, 2));
        assert_eq!(settled(service.asked(path, &json!({"input_ids": [3, 4]})).await), encoded(0.7, 2));
        for (request, want) in [
            (json!({"text": ["x"], "lora_path": "bayes"}), vec![encoded(0.3, 1)]),
            (json!({"text": ["x", "y"], "rid": "r"}), vec![encoded(0.3, 1), encoded(0.4, 1)]),
            (
                json!({"input_ids": [[3], [5, 5]], "lora_path": [null, null]}),
                vec![encoded(0.3, 1), encoded(1.0, 2)],
            ),
            (json!({"text": [["x", "y"], ["x", "z"]]}), vec![encoded(0.9, 5), encoded(1.0, 5)]),
        ] {
            let body = service.asked(path, &request).await;
            let got: Vec<Value> = body.as_array().unwrap().iter().cloned().map(settled).collect();
            assert_eq!(got, want, "{request}");
        }
    }
    let put =
        service.client.put(format!("http://{}/classify", service.address)).json(&json!({"text": "x y"}));
    assert_eq!(settled(put.send().await.unwrap().json().await.unwrap()), encoded(0.7, 2));
}

#[tokio::test]
async fn items_are_scored_after_a_query() {
    let service = Service::ready().await;
    let request = json!({"query": "x", "items": ["y", "z"], "label_token_ids": [1], "model": "bayes"});
    let body = service.asked("/v1/score", &request).await;
    assert_eq!((&body["scores"], &body["object"]), (&json!([[0.9], [1.0]]), &json!("scoring")));
    assert_eq!((&body["model"], &body["usage"]["prompt_tokens"]), (&json!("bayes"), &json!(10)));
    assert_eq!(body["rewards"], json!([reward(0.9, 5.0), reward(1.0, 5.0)]));
    let body =
        service.asked("/score", &json!({"query": [3], "items": [[4], [5]], "apply_softmax": true})).await;
    assert_eq!(body["scores"], json!([[sigmoid(0.7)], [sigmoid(0.8)]]));
}

#[tokio::test]
async fn embeddings_as_verl_calls_them() {
    let service = Service::ready().await;
    let body = service.asked("/v1/embeddings", &json!({"model": "bayes", "input": "x y"})).await;
    let entry = json!({"object": "embedding", "index": 0, "embedding": [0.7], "reward": reward(0.7, 2.0)});
    assert_eq!(
        (&body["object"], &body["data"], &body["model"]),
        (&json!("list"), &json!([entry]), &json!("bayes"))
    );
    assert_eq!(body["usage"]["total_tokens"], 2);
}

#[tokio::test]
async fn a_bare_list_of_documents_only_where_it_was_chosen() {
    let request = json!({"query": "x", "documents": ["y", "z"]});
    let service = Service::ready().await;
    assert!(service.asked("/v1/rerank", &request).await["results"].is_array());
    let mut setup = Setup::default();
    setup.http.compat = Some(rewarden::http::dialect::Compat::Sglang);
    let service = Service::ready_with(setup).await;
    let body = service.asked("/v1/rerank", &request).await;
    let got: Vec<Value> = body.as_array().unwrap().iter().cloned().map(settled).collect();
    let ranked = |index: usize, document: &str, mean: f64| json!({"score": mean, "document": document, "index": index, "meta_info": {"prompt_tokens": 5}, "reward": reward(mean, 5.0)});
    assert_eq!(got, [ranked(1, "z", 1.0), ranked(0, "y", 0.9)]);
    let (status, body) =
        service.ask("/v1/rerank", &json!({"query": "x", "documents": ["y"], "top_n": 0})).await;
    assert_eq!((status, &body["object"], &body["param"]), (400, &json!("error"), &json!("top_n")));
}

#[tokio::test]
async fn what_is_wrong_is_said_as_sglang_does() {
    let service = Service::ready().await;
    for (path, request, named) in [
        ("/classify", json!({"text": "x", "input_ids": [1]}), "text"),
        ("/classify", json!({"text": [1]}), "text"),
        ("/classify", json!({"text": ["x", " "]}), "text[1]"),
        ("/classify", json!({"text": "x", "lora_path": ["a", "b"]}), "lora_path"),
        ("/classify", json!({"text": "x", "lora_path": "no"}), "unknown model: no"),
        ("/encode", json!({}), "text"),
    ] {
        let (status, body) = service.ask(path, &request).await;
        assert_eq!(status, 400, "{body}");
        assert!(body["error"]["message"].as_str().unwrap().starts_with(named), "{body}");
    }
    for (path, request, status, param) in [
        ("/v1/score", json!({"query": "x", "items": ["y"], "item_first": true}), 400, "item_first"),
        ("/v1/score", json!({"query": "x", "items": []}), 400, "items"),
        ("/v1/embeddings", json!({"input": []}), 400, "input"),
        ("/v1/embeddings", json!({"input": "x", "model": "no"}), 404, "model"),
    ] {
        let (got, body) = service.ask(path, &request).await;
        assert_eq!(
            (got, &body["object"], &body["param"]),
            (status, &json!("error"), &json!(param)),
            "{body}"
        );
        assert_eq!(body["code"], status);
    }
}

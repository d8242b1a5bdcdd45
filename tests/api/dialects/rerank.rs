//! Cohere's, Jina's and vLLM's rerankers.

use serde_json::{Value, json};

use super::{reward, sigmoid, take};
use crate::helpers::Service;

fn settled(mut body: Value) -> Value {
    assert!(take(&mut body, "id").as_str().unwrap().starts_with("rerank-"), "{body}");
    body
}

#[tokio::test]
async fn documents_come_by_falling_score() {
    let service = Service::ready().await;
    let request = json!({"model": "bayes", "query": "x", "documents": ["y", {"text": "z"}, "y y"]});
    let ranked = |index: usize, mean: f64, tokens: f64, text: &str| {
        json!({"index": index, "relevance_score": mean, "document": {"text": text, "multi_modal": null},
            "reward": reward(mean, tokens)})
    };
    let want = json!({
        "object": "rerank", "model": "bayes",
        "results": [ranked(2, 1.3, 6.0, "y y"), ranked(1, 1.0, 5.0, "z"), ranked(0, 0.9, 5.0, "y")],
        "usage": {"prompt_tokens": 16, "total_tokens": 16},
        "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 1, "total_tokens": 16}},
    });
    for path in ["/rerank", "/v1/rerank"] {
        assert_eq!(settled(service.asked(path, &request).await), want, "{path}");
    }
    let cohere = settled(service.asked("/v2/rerank", &request).await);
    assert!(cohere["results"].as_array().unwrap().iter().all(|ranked| ranked.get("document").is_none()));
    assert_eq!((&cohere["results"][0]["index"], &cohere["meta"]), (&json!(2), &want["meta"]));
}

#[tokio::test]
async fn the_request_says_how_many_and_with_what() {
    let service = Service::ready().await;
    let ask = async |more: Value| {
        let mut request = json!({"query": "x", "documents": ["y", "z"]});
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        service.asked("/rerank", &request).await["results"].as_array().unwrap().clone()
    };
    for (top_n, count) in [(json!(1), 1), (json!(0), 2), (json!(null), 2), (json!(9), 2)] {
        assert_eq!(ask(json!({"top_n": top_n})).await.len(), count);
    }
    assert!(ask(json!({"return_documents": false})).await[0].get("document").is_none());
    assert_eq!(ask(json!({"use_activation": true})).await[0]["relevance_score"], sigmoid(1.0));
    let one = service.asked("/rerank", &json!({"query": "x", "documents": "y"})).await;
    assert_eq!(one["results"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn what_is_wrong_is_said_as_cohere_does() {
    let service = Service::ready().await;
    for (request, status, named) in [
        (json!({"query": "x"}), 422, "documents"),
        (json!({"query": "x", "documents": []}), 422, "documents"),
        (json!({"query": "x", "documents": ["y", " "], "top_n": -1}), 422, "top_n"),
        (json!({"query": "x", "documents": ["y", "no"]}), 422, "documents[1]"),
        (json!({"query": "x", "documents": ["y"], "model": "no"}), 404, "unknown model"),
    ] {
        let (got, body) = service.ask("/v2/rerank", &request).await;
        assert_eq!(got, status, "{request}: {body}");
        assert!(body["message"].as_str().unwrap().contains(named), "{request}: {body}");
    }
}

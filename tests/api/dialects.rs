//! Other servers' interfaces: what their clients send, what they read, and how each says what is wrong.

mod infinity;
mod kserve;
mod lightllm;
mod openrlhf;
mod rerank;
mod sglang;
mod tei;
mod trainers;
mod vllm;

use serde_json::{Value, json};

use crate::helpers::{Hold, PRIOR, Service, Setup};

/// The posterior that stands beside a plain score: mean, and as many tokens as the variance says.
fn reward(mean: f64, variance: f64) -> Value {
    json!({"mean": mean, "variance": variance, "std": variance.sqrt(), "contraction": 1.0 - variance / PRIOR,
        "score": mean - variance.sqrt(), "novelty": null, "truncated": false})
}

/// The same of a model that gives no variance.
fn certain(mean: f64) -> Value {
    json!({"mean": mean, "variance": null, "std": null, "contraction": null, "score": mean, "novelty": null,
        "truncated": false})
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Takes a field out of an answer.
fn take(body: &mut Value, field: &str) -> Value {
    body.as_object_mut().unwrap_or_else(|| panic!("not an object")).remove(field).unwrap_or_default()
}

/// A service whose queue is full.
async fn full() -> Service {
    let mut setup = Setup::default();
    setup.engine.queue_tokens = 1;
    let service = Service::ready_with(setup).await;
    service.hold.shut();
    let first = service.rewards_later("x");
    service.until_batches(1).await;
    let second = service.rewards_later("y");
    service.until_queued(2).await;
    drop((first, second));
    service
}

/// One request in each dialect, and how that says that it is overloaded, that its server is not ready, that a score is not a
/// number, and that the body is not JSON.
fn everyone() -> Vec<Spoken> {
    let vllm = |error: &Value, status: u16| {
        error["error"]["code"] == status
            && error["error"]["message"].is_string()
            && error["error"]["type"].is_string()
    };
    let flat = |error: &Value, status: u16| {
        error["object"] == "error" && error["code"] == status && error["message"].is_string()
    };
    let tei = |error: &Value, status: u16| {
        let kind = match status {
            429 => "Overloaded",
            503 => "Unhealthy",
            424 => "Backend",
            _ => "Validation",
        };
        error["error"].is_string() && error["error_type"] == kind
    };
    let detail = |error: &Value, _: u16| error["detail"].is_string();
    let one = |path, body, overloaded, failed, says: fn(&Value, u16) -> bool| Spoken {
        path,
        body,
        overloaded,
        failed,
        says,
    };
    let texts = json!(["x WORD", "y"]);
    vec![
        one("/get_reward", json!({"query": texts}), 503, 500, detail),
        one("/classify", json!({"input": texts}), 503, 500, vllm),
        one("/v1/classify", json!({"input": texts}), 503, 500, vllm),
        one("/pooling", json!({"input": texts}), 503, 500, vllm),
        one("/score", json!({"queries": "x", "documents": texts}), 503, 500, vllm),
        one("/v1/score", json!({"text_1": "x", "text_2": texts}), 503, 500, vllm),
        one("/rerank", json!({"query": "x", "documents": texts}), 503, 500, vllm),
        one("/v2/rerank", json!({"query": "x", "documents": texts}), 429, 500, |error, _| {
            error["message"].is_string()
        }),
        one("/classify", json!({"text": texts}), 503, 500, |error, _| error["error"]["message"].is_string()),
        one("/encode", json!({"text": texts}), 503, 500, |error, _| error["error"]["message"].is_string()),
        one("/v1/score", json!({"query": "x", "items": texts}), 503, 500, flat),
        one("/v1/embeddings", json!({"input": texts}), 503, 500, flat),
        one("/predict", json!({"inputs": texts}), 429, 424, tei),
        one("/", json!({"inputs": texts}), 429, 424, tei),
        one("/invocations", json!({"inputs": texts}), 429, 424, tei),
        one("/vertex", json!({"instances": [{"inputs": texts}]}), 429, 424, tei),
        one("/rerank", json!({"query": "x", "texts": texts}), 429, 424, tei),
        one("/rerank", json!({"query": "x", "documents": texts, "raw_scores": true}), 429, 500, vllm),
        one("/classify", json!({"input": texts, "raw_scores": true}), 429, 500, vllm),
        one(
            "/v2/models/bayes/infer",
            json!({"inputs": [{"name": "text", "shape": [2], "datatype": "BYTES", "data": texts}]}),
            503,
            500,
            |error, _| error["error"].is_string(),
        ),
        one("/v1/models/bayes:predict", json!({"instances": texts}), 503, 500, |error, _| {
            error["error"].is_string()
        }),
        one("/v1/score/evaluation", json!({"messages": texts}), 503, 500, detail),
        one("/get_score", json!({"chat": "x WORD"}), 503, 417, vllm),
        one("/slime", json!({"prompt": "x", "response": "WORD"}), 503, 500, detail),
    ]
}

struct Spoken {
    path: &'static str,
    body: Value,
    overloaded: u16,
    failed: u16,
    says: fn(&Value, u16) -> bool,
}

impl Spoken {
    /// With a word for the stand-in.
    fn with(&self, word: &str) -> Value {
        serde_json::from_str(&self.body.to_string().replace("WORD", word)).unwrap()
    }

    async fn assert_refused(&self, service: &Service, word: &str, status: u16) {
        let (got, body) = service.ask(self.path, &self.with(word)).await;
        assert_eq!(got, status, "{} {}: {body}", self.path, self.body);
        assert!((self.says)(&body, status), "{} {}: {body}", self.path, self.body);
        assert!(!body.to_string().contains("stand-in"), "{body}");
    }
}

#[tokio::test]
async fn overload_is_each_dialects_own_refusal() {
    let service = full().await;
    for spoken in everyone() {
        spoken.assert_refused(&service, "x", spoken.overloaded).await;
        let response = service.post(spoken.path).json(&spoken.with("x")).send().await.unwrap();
        assert!(response.headers().contains_key("retry-after"), "{}", spoken.path);
    }
    service.hold.open();
}

#[tokio::test]
async fn a_server_that_is_not_ready_says_so_in_each_dialect() {
    let hold = Hold::default();
    hold.shut();
    let service = Service::start(Setup { hold, ..Setup::default() }).await;
    service.until_batches(1).await;
    for spoken in everyone() {
        spoken.assert_refused(&service, "x", 503).await;
    }
    for path in ["/health", "/health_generate", "/ping", "/v2/health/ready"] {
        assert_eq!(service.get(path).await.status(), 503, "{path}");
    }
    service.hold.open();
}

#[tokio::test]
async fn what_is_not_a_number_is_an_error_in_each_dialect() {
    let service = Service::ready().await;
    for spoken in everyone() {
        spoken.assert_refused(&service, "nan", spoken.failed).await;
    }
}

#[tokio::test]
async fn time_that_runs_out_is_said_in_each_dialect() {
    let mut setup = Setup::default();
    setup.http.timeout = std::time::Duration::from_millis(200);
    let service = Service::ready_with(setup).await;
    service.hold.shut();
    for spoken in everyone() {
        let status = if spoken.failed == 424 { 424 } else { 504 };
        spoken.assert_refused(&service, "x", status).await;
    }
    service.hold.open();
}

#[tokio::test]
async fn bodies_that_are_not_json_are_refused_in_each_dialect() {
    let service = Service::ready().await;
    for Spoken { path, .. } in everyone() {
        for (media, body, status) in [("application/json", "{", 400), ("text/plain", "{}", 415)] {
            let request = service.post(path).header("content-type", media).body(body);
            let response = request.send().await.unwrap();
            let status = match path {
                "/encode" => 400,
                "/get_score" => 417,
                _ => status,
            };
            assert_eq!(response.status(), status, "{path} {media}");
            let body: Value = response.json().await.unwrap();
            assert!(
                body.get("error").is_some() || body.get("message").is_some() || body.get("detail").is_some(),
                "{body}"
            );
        }
    }
}

#[tokio::test]
async fn too_many_and_too_long_are_refused_in_each_dialect() {
    let mut setup = Setup::default();
    setup.http.max_items = 1;
    let service = Service::ready_with(setup).await;
    for spoken in
        everyone().into_iter().filter(|spoken| spoken.body.to_string().contains(r#"["x WORD","y"]"#))
    {
        let (status, body) = service.ask(spoken.path, &spoken.with("x")).await;
        let pair = ["/predict", "/", "/invocations", "/vertex"].contains(&spoken.path);
        assert!(
            if pair { status == 200 } else { [400, 413, 422].contains(&status) },
            "{}: {body}",
            spoken.path
        );
    }
    let service = Service::ready().await;
    let cut = ["/get_reward", "/v1/score/evaluation"];
    for spoken in everyone() {
        let (status, body) = service.ask(spoken.path, &spoken.with(&"x ".repeat(17))).await;
        let want = if cut.contains(&spoken.path) { status == 200 } else { [400, 417, 422].contains(&status) };
        assert!(want, "{} {}: {status} {body}", spoken.path, spoken.body);
    }
}

/// What a path answers to a method that it does not take.
#[tokio::test]
async fn a_method_that_a_route_does_not_take_is_refused_in_its_dialect() {
    let service = Service::ready().await;
    for spoken in everyone() {
        let url = format!("http://{}{}", service.address, spoken.path);
        let response = service.client.patch(url).send().await.unwrap();
        assert_eq!(response.status(), 405, "{}", spoken.path);
        let allowed = response.headers()["allow"].to_str().unwrap().to_owned();
        assert!(allowed.contains("POST"), "{}: {allowed}", spoken.path);
        let body: Value = response.json().await.unwrap();
        // Where the body would tell, nothing has: vLLM's.
        let shared = ["/classify", "/score", "/v1/score", "/rerank", "/v1/rerank"].contains(&spoken.path);
        let says = if shared { everyone()[1].says } else { spoken.says };
        assert!(says(&body, 405), "{}: {body}", spoken.path);
    }
    for (path, want) in [
        ("/get_reward", json!({"detail": "the route does not take this method"})),
        ("/predict", json!({"error": "the route does not take this method", "error_type": "Validation"})),
        ("/v2/models/bayes/infer", json!({"error": "the route does not take this method"})),
        ("/v2/rerank", json!({"message": "the route does not take this method"})),
    ] {
        assert_eq!(service.get(path).await.json::<Value>().await.unwrap(), want, "{path}");
    }
    let (status, body) = service.ask("/v1/models", &json!({})).await;
    assert_eq!((status, &body["error"]["code"]), (405, &json!("method_not_allowed")));
}

#[tokio::test]
async fn plain_scores_are_what_the_flag_says() {
    let mut setup = Setup::default();
    setup.http.plain_score = rewarden::http::dialect::PlainScore::Conservative;
    let service = Service::ready_with(setup).await;
    // Four tokens of id 3: mean 1.2, variance 4.
    let body = service.asked("/classify", &json!({"input": "x x x x"})).await;
    assert_eq!(body["data"][0]["probs"], json!([1.2 - 2.0]));
    let body = service.asked("/get_reward", &json!({"query": ["x x x x"]})).await;
    assert_eq!(body["rewards"], json!([1.2 - 2.0]));
    let body = service.asked("/get_reward?reward=mean&scores=sigmoid", &json!({"query": ["x x x x"]})).await;
    assert_eq!((&body["rewards"], &body["scores"]), (&json!([1.2]), &json!([sigmoid(1.2)])));
}

#[tokio::test]
async fn a_body_that_is_nobodys_names_who_could_be_meant() {
    let service = Service::ready().await;
    for (path, names) in [("/classify", "SGLang"), ("/score", "vLLM"), ("/rerank", "Cohere")] {
        let (status, body) = service.ask(path, &json!({"nothing": 1})).await;
        assert_eq!(status, 400, "{body}");
        assert!(body["error"]["message"].as_str().unwrap().contains(names), "{body}");
    }
}

#[tokio::test]
async fn probes_have_the_names_that_others_ask_for() {
    let service = Service::ready().await;
    for path in ["/health", "/health_generate", "/ping"] {
        let body: Value = service.get(path).await.json().await.unwrap();
        assert!(body["unix"].as_u64().is_some_and(|unix| unix > 1_600_000_000), "{path}: {body}");
    }
    assert_eq!(service.post("/ping").send().await.unwrap().status(), 200);
    let version: Value = service.get("/version").await.json().await.unwrap();
    assert_eq!(version, json!({"version": env!("CARGO_PKG_VERSION")}));
    let load: Value = service.get("/load").await.json().await.unwrap();
    assert_eq!(load, json!({"server_load": 0}));
}

//! `Idempotency-Key`: what is sent again is not computed again.

use reqwest::Response;
use serde_json::{Value, json};

use crate::helpers::Service;

async fn keyed(service: &Service, path: &str, key: &str, body: &Value) -> Response {
    service.post(path).header("idempotency-key", key).json(body).send().await.unwrap()
}

fn is_replayed(response: &Response) -> bool {
    response.headers().contains_key("idempotency-replayed")
}

#[tokio::test]
async fn a_retry_has_the_first_answer() {
    let service = Service::ready().await;
    let table = [
        ("/v1/rewards", json!({"items": [{"text": "x"}]})),
        ("/v1/compare", json!({"prompt": "x", "a": "y", "b": "z"})),
        ("/v1/best-of-n", json!({"prompt": "x", "responses": ["y", "z"], "thompson": {}})),
    ];
    for (path, body) in table {
        let first = keyed(&service, path, "k", &body).await;
        assert!(first.status() == 200 && !is_replayed(&first), "{path}");
        let first: Value = first.json().await.unwrap();
        let batches = service.batches.lock().unwrap().len();
        let again = keyed(&service, path, "k", &body).await;
        assert!(again.status() == 200 && is_replayed(&again), "{path}");
        assert_eq!(again.headers()["content-type"], "application/json");
        assert_eq!(again.json::<Value>().await.unwrap(), first);
        assert_eq!(service.batches.lock().unwrap().len(), batches, "nothing is computed");
        let other = keyed(&service, path, "another", &body).await;
        assert!(other.status() == 200 && !is_replayed(&other));
    }
}

#[tokio::test]
async fn a_key_is_one_bodys() {
    let service = Service::ready().await;
    let item = |text: &str| json!({"items": [{"text": text}]});
    assert_eq!(keyed(&service, "/v1/rewards", "k", &item("x")).await.status(), 200);
    let refused = keyed(&service, "/v1/rewards", "k", &item("y")).await;
    assert_eq!(refused.status(), 422);
    assert_eq!(refused.json::<Value>().await.unwrap()["error"]["param"], "idempotency-key");
    for key in ["", &"k".repeat(129)] {
        assert_eq!(keyed(&service, "/v1/rewards", key, &item("x")).await.status(), 422);
    }
}

#[tokio::test]
async fn an_error_is_not_kept() {
    let service = Service::ready().await;
    let body = json!({"items": [{"text": "fail"}]});
    for batches in 1..3 {
        let response = keyed(&service, "/v1/rewards", "k", &body).await;
        assert!(response.status() == 500 && !is_replayed(&response));
        assert_eq!(service.batches.lock().unwrap().len(), batches);
    }
}

#[tokio::test]
async fn a_retry_waits_for_the_first_and_takes_the_place_of_one_that_left() {
    let service = Service::ready().await;
    let body = json!({"items": [{"text": "x"}]});
    for leaves in [false, true] {
        service.batches.lock().unwrap().clear();
        service.hold.shut();
        let send = || {
            let request =
                service.post("/v1/rewards").header("idempotency-key", format!("k{leaves}")).json(&body);
            tokio::spawn(async { request.send().await.unwrap() })
        };
        let first = send();
        service.until_batches(1).await;
        let again = send();
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        if leaves {
            first.abort();
            service.until_metric(r#"rewarden_requests_total{code="499",route="/v1/rewards"}"#, 1.0).await;
        }
        service.hold.open();
        let again = again.await.unwrap();
        assert_eq!((again.status().as_u16(), is_replayed(&again)), (200, !leaves));
        assert_eq!(service.batches.lock().unwrap().len(), 1 + usize::from(leaves));
    }
}

//! Who is served, when, and who is told to come later.

use std::time::{Duration, Instant};

use reqwest::{RequestBuilder, Response};
use rewarden::engine;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::helpers::{Service, Setup};

const PATIENCE: &str = "x-request-timeout-ms";

/// A request for one text.
fn text(service: &Service, text: &str) -> RequestBuilder {
    service.post("/v1/rewards").json(&json!({"items": [{"text": text}]}))
}

fn sent(request: RequestBuilder) -> JoinHandle<Response> {
    tokio::spawn(async { request.send().await.unwrap() })
}

fn retry_after(response: &Response) -> u64 {
    response.headers()["retry-after"].to_str().unwrap().parse().unwrap()
}

async fn code(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    (status, response.json::<Value>().await.unwrap()["error"]["code"].take())
}

/// A service whose worker was seen to take a second and more for a token, and is in the middle of a batch.
async fn slow() -> (Service, JoinHandle<Response>) {
    let engine = engine::Config { batch_tokens: 4, ..Default::default() };
    let service = Service::ready_with(Setup { engine, ..Setup::default() }).await;
    service.hold.shut();
    let first = service.rewards_later("x");
    service.until_batches(1).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    service.hold.open();
    assert_eq!(first.await.unwrap().status(), 200);
    service.hold.shut();
    let under_way = service.rewards_later("y");
    service.until_batches(2).await;
    (service, under_way)
}

#[tokio::test]
async fn a_request_that_would_wait_past_its_deadline_is_refused_at_once() {
    let (service, under_way) = slow().await;
    let queued = service.rewards_later("x x x x");
    service.until_queued(3).await;
    let started = Instant::now();
    let refused = text(&service, "z").header(PATIENCE, "2000").send().await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(1));
    // Four tokens wait, and one is under way; of the time that they take, the request itself has two seconds.
    let retry = retry_after(&refused);
    assert!((3..=60).contains(&retry), "{retry}");
    assert_eq!(code(refused).await, (503, json!("overloaded")));
    let accepted = sent(text(&service, "z").header(PATIENCE, "60000"));
    service.until_queued(4).await;
    service.hold.open();
    for answer in [under_way, queued, accepted] {
        assert_eq!(answer.await.unwrap().status(), 200);
    }
}

#[tokio::test]
async fn what_is_late_is_504_and_costs_no_compute() {
    let service = Service::ready().await;
    service.hold.shut();
    let first = service.rewards_later("x");
    service.until_batches(1).await;
    // The pace is not known yet, so that it is let in.
    let late = text(&service, "y").header(PATIENCE, "100").send().await.unwrap();
    assert_eq!(code(late).await, (504, json!("deadline_exceeded")));
    service.hold.open();
    assert_eq!(first.await.unwrap().status(), 200);
    assert_eq!(text(&service, "z").send().await.unwrap().status(), 200);
    assert_eq!(*service.batches.lock().unwrap(), [vec![vec![3]], vec![vec![5]]]);
}

#[tokio::test]
async fn a_timeout_is_a_number_of_milliseconds() {
    let service = Service::ready().await;
    for wrong in ["", "0", "-1", "1.5", "1s"] {
        let refused = text(&service, "x").header(PATIENCE, wrong).send().await.unwrap();
        assert_eq!(code(refused).await, (422, json!("invalid_field")), "{wrong}");
    }
    let most = text(&service, "x").header(PATIENCE, u64::MAX.to_string()).send().await.unwrap();
    assert_eq!(most.status(), 200, "the service's own timeout is the shorter one");
}

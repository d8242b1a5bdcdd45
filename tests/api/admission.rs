//! Who is served, when, and who is told to come later.

use std::time::{Duration, Instant};

use reqwest::{RequestBuilder, Response};
use rewarden::{
    engine::{self, rate::Allowance},
    http::{
        self,
        access::{
            Role,
            keys::{Key, Keys, Secret},
        },
    },
};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::helpers::{Service, Setup};

const PATIENCE: &str = "x-request-timeout-ms";
const PRIORITY: &str = "x-rewarden-priority";

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

/// A service with a cache.
async fn remembering() -> Service {
    let engine = engine::Config { batch_tokens: 8, cache_bytes: 1 << 20, ..Default::default() };
    Service::ready_with(Setup { engine, ..Setup::default() }).await
}

/// Hits, misses and joins.
async fn counted(service: &Service) -> [f64; 3] {
    let mut counts = [0.0; 3];
    for (count, name) in counts.iter_mut().zip(["hits", "misses", "joins"]) {
        *count = service.metric(&format!("rewarden_cache_{name}_total")).await;
    }
    counts
}

/// A service of two keys, `one` and `other`, which are their own names.
async fn with_keys(allowance: Allowance, batch_tokens: usize) -> Service {
    let mut keys = Keys::default();
    for name in ["one", "other"] {
        let roles = vec![Role::Score, Role::Metrics];
        keys.add(Key::new(name, &Secret::from(name.to_owned()), roles).unwrap()).unwrap();
    }
    let engine = engine::Config { batch_tokens, allowance, ..Default::default() };
    let http = http::Config { keys, ..Default::default() };
    Service::ready_with(Setup { engine, http, ..Setup::default() }).await
}

/// Waits until so many requests in all have been put into the queue of a service with keys.
async fn until_queued(service: &Service, requests: usize) {
    let counted = format!(r#"rewarden_stage_seconds_count{{stage="tokenize"}} {requests}"#);
    let metrics = format!("http://{}/metrics", service.address);
    service
        .until(async || {
            let shown = service.client.get(&metrics).bearer_auth("one").send().await.unwrap();
            shown.text().await.unwrap().lines().any(|line| line == counted)
        })
        .await;
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

#[tokio::test]
async fn what_is_known_is_not_computed_again_and_is_the_same_to_the_last_bit() {
    let service = remembering().await;
    let request = json!({"items": [{"text": "x y"}, {"text": "z"}]});
    let first = service.asked("/v1/rewards", &request).await;
    let again = service.asked("/v1/rewards", &request).await;
    assert_eq!(first, again);
    assert_eq!(service.batches.lock().unwrap().len(), 1);
    assert_eq!(counted(&service).await, [2.0, 2.0, 0.0]);
    assert!(service.metric("rewarden_cache_bytes").await > 0.0);
    // Another kind of result, another model and other tokens are others.
    for (field, value) in [("variance", json!(false)), ("model", json!("plain"))] {
        let mut other = request.clone();
        other[field] = value;
        service.asked("/v1/rewards", &other).await;
    }
    service.asked("/v1/rewards", &json!({"items": [{"text": "y x"}]})).await;
    assert_eq!(service.batches.lock().unwrap().len(), 4);
    assert_eq!(counted(&service).await, [2.0, 7.0, 0.0]);
}

#[tokio::test]
async fn without_a_cache_everything_is_computed() {
    let service = Service::ready().await;
    for _ in 0..2 {
        assert_eq!(text(&service, "x").send().await.unwrap().status(), 200);
    }
    assert_eq!(service.batches.lock().unwrap().len(), 2);
    assert_eq!(counted(&service).await, [0.0; 3]);
}

#[tokio::test]
async fn equal_sequences_under_way_are_computed_once() {
    let service = remembering().await;
    service.hold.shut();
    let mut answers = vec![service.rewards_later("x")];
    service.until_batches(1).await;
    // One joins what is being computed, the others what waits.
    for (at, text) in ["x", "y", "y"].into_iter().enumerate() {
        answers.push(service.rewards_later(text));
        service.until_queued(at + 2).await;
    }
    service.hold.open();
    let mut means = Vec::new();
    for answer in answers {
        let body: Value = answer.await.unwrap().json().await.unwrap();
        means.push(body["data"][0]["mean"].as_f64().unwrap());
    }
    assert_eq!(means, [0.3, 0.3, 0.4, 0.4]);
    assert_eq!(*service.batches.lock().unwrap(), [vec![vec![3]], vec![vec![4]]]);
    assert_eq!(counted(&service).await, [0.0, 2.0, 2.0]);
}

#[tokio::test]
async fn what_somebody_still_waits_for_is_computed_though_the_first_has_gone() {
    let service = remembering().await;
    service.hold.shut();
    let under_way = service.rewards_later("x");
    service.until_batches(1).await;
    let (first, second) = (service.rewards_later("y"), service.rewards_later("z"));
    service.until_queued(3).await;
    let joins = service.rewards_later("y");
    service.until_queued(4).await;
    first.abort();
    second.abort();
    service.until_metric(r#"rewarden_requests_total{code="499",route="/v1/rewards"}"#, 2.0).await;
    service.hold.open();
    for answer in [under_way, joins] {
        assert_eq!(answer.await.unwrap().status(), 200);
    }
    assert_eq!(*service.batches.lock().unwrap(), [vec![vec![3]], vec![vec![4]]]);
    assert_eq!(service.metric(r#"rewarden_dropped_items_total{reason="gone"}"#).await, 1.0);
    // What was dropped can be asked for again.
    assert_eq!(text(&service, "z").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_failure_is_told_to_all_who_wait_and_not_kept() {
    let service = remembering().await;
    service.hold.shut();
    let under_way = service.rewards_later("x");
    service.until_batches(1).await;
    let answers = [service.rewards_later("fail"), service.rewards_later("fail")];
    service.until_queued(3).await;
    service.hold.open();
    assert_eq!(under_way.await.unwrap().status(), 200);
    for answer in answers {
        assert_eq!(code(answer.await.unwrap()).await, (500, json!("internal")));
    }
    assert_eq!(code(text(&service, "fail").send().await.unwrap()).await, (500, json!("internal")));
    assert_eq!(service.batches.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn a_key_has_so_many_requests_at_once() {
    let service = with_keys(Allowance { concurrency: Some(1), rate: None }, 8).await;
    service.hold.shut();
    let first = sent(text(&service, "x").bearer_auth("one"));
    service.until_batches(1).await;
    let refused = text(&service, "x").bearer_auth("one").send().await.unwrap();
    assert_eq!(retry_after(&refused), 1);
    let body: Value = refused.json().await.unwrap();
    assert_eq!(
        (&body["error"]["code"], &body["error"]["type"]),
        (&json!("rate_limited"), &json!("rate_limit_error"))
    );
    let other = sent(text(&service, "x").bearer_auth("other"));
    until_queued(&service, 2).await;
    service.hold.open();
    for answer in [first, other] {
        assert_eq!(answer.await.unwrap().status(), 200);
    }
    assert_eq!(text(&service, "x").bearer_auth("one").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_key_has_so_many_items_a_second() {
    let rate = Some("1items".parse().unwrap());
    let service = with_keys(Allowance { concurrency: None, rate }, 8).await;
    let ask = async |key: &str, items: usize| {
        let body = json!({"items": vec![json!({"text": "x"}); items]});
        service.post("/v1/rewards").bearer_auth(key).json(&body).send().await.unwrap()
    };
    // More than a second brings; it is paid back afterwards.
    assert_eq!(ask("one", 60).await.status(), 200);
    let refused = ask("one", 1).await;
    let retry = retry_after(&refused);
    assert!((30..=60).contains(&retry), "{retry}");
    assert_eq!(code(refused).await, (429, json!("rate_limited")));
    assert_eq!(ask("other", 1).await.status(), 200);
}

#[tokio::test]
async fn keys_take_turns() {
    let service = with_keys(Allowance::default(), 2).await;
    service.hold.shut();
    let mut answers = vec![sent(text(&service, "x").bearer_auth("one"))];
    service.until_batches(1).await;
    for (at, (key, words)) in
        [("one", "x x"), ("one", "x y"), ("one", "x z"), ("other", "z z")].into_iter().enumerate()
    {
        answers.push(sent(text(&service, words).bearer_auth(key)));
        until_queued(&service, at + 2).await;
    }
    service.hold.open();
    for answer in answers {
        assert_eq!(answer.await.unwrap().status(), 200);
    }
    let order: Vec<_> = service.batches.lock().unwrap().iter().map(|batch| batch[0].clone()).collect();
    let place = |ids: &[u32]| order.iter().position(|other| other == ids).unwrap();
    assert!(
        place(&[5, 5]) < place(&[3, 4]),
        "the other key does not wait for all that came before it: {order:?}"
    );
}

#[tokio::test]
async fn the_urgent_come_first() {
    let engine = engine::Config { batch_tokens: 1, ..Default::default() };
    let service = Service::ready_with(Setup { engine, ..Setup::default() }).await;
    service.hold.shut();
    let mut answers = vec![service.rewards_later("x")];
    service.until_batches(1).await;
    for (at, (priority, word)) in [("low", "w"), ("normal", "y"), ("high", "z")].into_iter().enumerate() {
        answers.push(sent(text(&service, word).header(PRIORITY, priority)));
        service.until_queued(at + 2).await;
    }
    service.hold.open();
    for answer in answers {
        assert_eq!(answer.await.unwrap().status(), 200);
    }
    let ids: Vec<_> = service.batches.lock().unwrap().iter().map(|batch| batch[0][0]).collect();
    assert_eq!(ids, [3, 5, 4, 2]);
    let refused = text(&service, "x").header(PRIORITY, "highest").send().await.unwrap();
    assert_eq!(code(refused).await, (422, json!("invalid_field")));
}

//! Requests that are meant to do harm: each is refused or bounded, and others are served meanwhile.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use reqwest::{RequestBuilder, Response};
use rewarden::{
    engine::{
        self,
        rate::{Allowance, Rate},
        terms::Priority,
    },
    http::{
        self,
        access::{
            Role,
            keys::{Key, Keys, Secret},
        },
    },
};
use serde_json::{Value, json};
use tokio::task::{JoinHandle, spawn_blocking};

use crate::helpers::{Service, Setup};

/// Much more than any of it takes, and much less than the work that is refused.
const SOON: Duration = Duration::from_secs(10);

/// A service of two keys, `one` and `other`, which are their own names; the first may be urgent.
async fn with_keys(engine: engine::Config, bodies: usize) -> Service {
    let mut keys = Keys::default();
    for (name, highest) in [("one", Priority::High), ("other", Priority::Normal)] {
        let roles = vec![Role::Score, Role::Metrics];
        let key = Key::new(name, &Secret::from(name.to_owned()), roles).unwrap();
        keys.add(key.up_to(highest)).unwrap();
    }
    let http = http::Config { keys, bodies, ..Default::default() };
    Service::ready_with(Setup { engine, http, ..Setup::default() }).await
}

const BODIES: usize = 128 << 20;

fn text(service: &Service, key: &str, text: &str) -> RequestBuilder {
    service.post("/v1/rewards").bearer_auth(key).json(&json!({"items": [{"text": text}]}))
}

fn sent(request: RequestBuilder) -> JoinHandle<Response> {
    tokio::spawn(async { request.send().await.unwrap() })
}

async fn code(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    (status, response.json::<Value>().await.unwrap()["error"]["code"].take())
}

/// Every route that takes several answers to one prompt, in the words of each dialect.
#[tokio::test]
async fn answers_are_counted_before_anything_is_made_of_them() {
    let service = Service::ready().await;
    let (prompt, answers) = ("x".repeat(200_000), vec![""; 60_000]);
    let ids = vec![vec![1]; 60_000];
    let table = [
        ("/rerank", json!({"query": prompt, "documents": answers})),
        ("/v1/rerank", json!({"query": prompt, "documents": answers})),
        ("/v2/rerank", json!({"query": prompt, "documents": answers})),
        ("/rerank", json!({"query": prompt, "texts": answers})),
        ("/rerank", json!({"query": prompt, "documents": answers, "raw_scores": true})),
        ("/score", json!({"queries": prompt, "documents": answers})),
        ("/score", json!({"queries": vec![3; 100_000], "documents": ids})),
        ("/v1/score", json!({"query": prompt, "items": answers})),
        ("/v1/best-of-n", json!({"prompt": prompt, "responses": answers})),
        ("/v1/best-of-n", json!({"messages": [{"role": "user", "content": prompt}], "responses": answers})),
        ("/v1/best-of-n", json!({"pools": [{"prompt": prompt, "responses": answers}]})),
        ("/v1/compare", json!({"prompt": prompt, "responses": answers})),
        ("/v1/score/evaluation", json!({"messages": answers})),
        ("/get_reward", json!({"query": answers})),
        ("/classify", json!({"input": answers})),
        ("/predict", json!({"inputs": vec![[""]; 60_000]})),
    ];
    for (path, body) in table {
        let started = Instant::now();
        let refused = sent(service.post(path).json(&body));
        assert_eq!(service.get("/livez").await.status(), 200);
        let refused = refused.await.unwrap();
        let (status, text) = (refused.status().as_u16(), refused.text().await.unwrap());
        assert!((400..500).contains(&status), "{path}: {status} {text}");
        assert!(text.contains("60000 given, more than the limit of 256"), "{path}: {text}");
        assert!(started.elapsed() < SOON, "{path}: {:?}", started.elapsed());
    }
    assert!(service.batches.lock().unwrap().is_empty());
}

#[tokio::test]
async fn long_texts_are_cut_before_they_are_tokenised() {
    let service = Service::ready().await;
    // Three and a half million tokens.
    let long = "x ".repeat(3_500_000);
    for truncation in ["left", "right"] {
        let started = Instant::now();
        let body = json!({"items": [{"text": long}], "truncation": truncation});
        let (status, answer) = service.rewards(&body).await;
        assert_eq!(status, 200, "{answer}");
        assert_eq!(answer["data"][0]["tokens"], 16);
        assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    }
    let (status, answer) = service.rewards(&json!({"items": [{"text": long}]})).await;
    let message = answer["error"]["message"].as_str().unwrap();
    assert_eq!(status, 422, "{message}");
    assert!(message.contains("more than 3") && message.contains("limit of 16"), "{message}");
}

#[tokio::test]
async fn long_prompts_of_one_key_keep_no_other_waiting() {
    let service = with_keys(engine::Config::default(), BODIES).await;
    let flood = json!({"prompt": "x ".repeat(100_000), "responses": vec!["y"; 256], "truncation": "left"});
    let flood: Vec<JoinHandle<()>> = (0..4)
        .map(|_| {
            let request = service.post("/v1/best-of-n").bearer_auth("one").json(&flood);
            tokio::spawn(async move {
                loop {
                    drop(request.try_clone().unwrap().send().await);
                }
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    for _ in 0..20 {
        let started = Instant::now();
        let answer = text(&service, "other", "x").send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert!(started.elapsed() < SOON / 2, "{:?}", started.elapsed());
    }
    flood.iter().for_each(JoinHandle::abort);
}

#[tokio::test]
async fn one_key_cannot_fill_the_queue() {
    let engine = engine::Config { batch_tokens: 1, queue_tokens: 100, ..Default::default() };
    let service = with_keys(engine, BODIES).await;
    service.hold.shut();
    let first = sent(text(&service, "one", "x"));
    service.until_batches(1).await;
    let mut waiting = vec![first];
    let full = loop {
        let request = text(&service, "one", "x x x x").header("x-request-timeout-ms", "60000");
        let answer = sent(request);
        let queued = async || service.metric_by("one", "rewarden_queue_items").await == waiting.len() as f64;
        service.until(async || answer.is_finished() || queued().await).await;
        match answer.is_finished() {
            true => break answer.await.unwrap(),
            false => waiting.push(answer),
        }
    };
    assert_eq!(code(full).await, (503, json!("overloaded")));
    // Four fifths of 100 tokens, four each, and the first that is being computed.
    assert!((15..=21).contains(&waiting.len()), "{}", waiting.len());
    let other = sent(text(&service, "other", "x x x x"));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!other.is_finished(), "it is admitted");
    service.hold.open();
    assert_eq!(other.await.unwrap().status(), 200);
    for answer in waiting {
        assert_eq!(answer.await.unwrap().status(), 200);
    }
}

#[tokio::test]
async fn tokenising_and_decoding_are_charged() {
    let rate: Rate = "10".parse().unwrap();
    let engine =
        engine::Config { allowance: Allowance { rate: Some(rate), concurrency: None }, ..Default::default() };
    let table = [
        ("/tokenize", json!({"inputs": "x ".repeat(1000)})),
        ("/tokenize", json!({"prompt": "x ".repeat(1000)})),
        ("/decode", json!({"ids": vec![3; 1000]})),
    ];
    for (path, body) in table {
        let service = with_keys(engine.clone(), BODIES).await;
        let ask = async |key| service.post(path).bearer_auth(key).json(&body).send().await.unwrap();
        assert_eq!(ask("one").await.status(), 200, "{path}");
        let refused = ask("one").await;
        assert_eq!(refused.status(), 429, "{path}");
        let retry: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((1..=60).contains(&retry), "{retry}");
        assert_eq!(text(&service, "one", "x").send().await.unwrap().status(), 429, "one account for all");
        assert_eq!(ask("other").await.status(), 200, "{path}");
    }
}

#[tokio::test]
async fn a_key_is_as_urgent_as_it_may_be() {
    let service = with_keys(engine::Config::default(), BODIES).await;
    let ask = async |key, priority| {
        let request = text(&service, key, "x").header("x-rewarden-priority", priority);
        request.send().await.unwrap()
    };
    for (key, priority) in [("one", "high"), ("one", "low"), ("other", "normal"), ("other", "low")] {
        assert_eq!(ask(key, priority).await.status(), 200, "{key} {priority}");
    }
    assert_eq!(code(ask("other", "high").await).await, (403, json!("priority_too_high")));
}

#[tokio::test]
async fn what_a_body_becomes_is_bounded() {
    let service = Service::ready().await;
    let send = async |path: &str, body: String| {
        let request = service.post(path).header("content-type", "application/json").body(body);
        request.send().await.unwrap()
    };
    let ask = async |path: &str, body: String| code(send(path, body).await).await;
    let many = |what: &str, count| format!(r#"{{"items":[{}]}}"#, vec![what; count].join(","));
    for path in ["/v1/rewards", "/v1/rewards/stream"] {
        assert_eq!(ask(path, many("{}", 2_000_000)).await, (413, json!("too_many_items")), "{path}");
    }
    assert_eq!(ask("/v1/rewards/stream", many("0", 3_000_000)).await, (413, json!("too_many_items")));
    assert_eq!(send("/v1/rewards/stream", many("0", 65_536)).await.status(), 200);
}

#[tokio::test]
async fn bodies_of_one_key_leave_room_for_others() {
    let service = with_keys(engine::Config::default(), 10_000).await;
    service.hold.shut();
    let large = |key| {
        let id = "i".repeat(5000);
        service.post("/v1/rewards").bearer_auth(key).json(&json!({"items": [{"id": id, "text": "x"}]}))
    };
    let first = sent(large("one"));
    service.until_batches(1).await;
    assert_eq!(code(large("one").send().await.unwrap()).await, (503, json!("overloaded")));
    let other = sent(text(&service, "other", "x"));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!other.is_finished());
    service.hold.open();
    assert_eq!(first.await.unwrap().status(), 200);
    assert_eq!(other.await.unwrap().status(), 200);
    assert_eq!(large("one").send().await.unwrap().status(), 200);
}

/// Opens a connection that says nothing.
fn idle(service: &Service) -> TcpStream {
    let stream = TcpStream::connect(service.address).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

#[tokio::test]
async fn idle_connections_keep_nobody_out() {
    let http = http::Config { connections: 8, peer_connections: Some(8), ..Default::default() };
    let service = Service::ready_with(Setup { http, ..Setup::default() }).await;
    let held: Vec<TcpStream> = (0..64).map(|_| idle(&service)).collect();
    let mut asking = idle(&service);
    let started = Instant::now();
    let text = spawn_blocking(move || {
        asking.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        asking.read_to_string(&mut text).unwrap();
        text
    });
    let text = text.await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK"), "{text}");
    // Their headers may take ten seconds.
    assert!(started.elapsed() < SOON / 2, "{:?}", started.elapsed());
    drop(held);
}

#[tokio::test]
async fn one_address_has_so_many_connections_at_work() {
    let http = http::Config { connections: 64, peer_connections: Some(2), ..Default::default() };
    let service = Service::ready_with(Setup { http, ..Setup::default() }).await;
    service.hold.shut();
    let held = [service.rewards_later("x"), service.rewards_later("y")];
    service.until_batches(1).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut third = idle(&service);
    let refused = spawn_blocking(move || {
        // It may be closed before or after it is written to.
        drop(third.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n"));
        let mut text = String::new();
        drop(third.read_to_string(&mut text));
        text
    });
    assert_eq!(refused.await.unwrap(), "");
    service.hold.open();
    for answer in held {
        assert_eq!(answer.await.unwrap().status(), 200);
    }
}

//! Connections that say nothing, or not enough.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use rewarden::http;
use serde_json::json;
use tokio::task::spawn_blocking;

use crate::helpers::{Service, Setup};

const PATIENCE: Duration = Duration::from_millis(300);
/// Far more than any of it takes.
const LONG: Duration = Duration::from_secs(20);

async fn impatient(connections: usize) -> Service {
    let http = http::Config { header_timeout: PATIENCE, connections, ..Default::default() };
    Service::ready_with(Setup { http, ..Setup::default() }).await
}

fn connect(service: &Service) -> TcpStream {
    let stream = TcpStream::connect(service.address).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream
}

/// Reads until the other side hangs up.
fn rest(mut stream: TcpStream) -> String {
    let mut text = String::new();
    match stream.read_to_string(&mut text) {
        Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => panic!("{error}"),
        _ => text,
    }
}

#[tokio::test]
async fn headers_that_do_not_end_are_hung_up_on() {
    let service = impatient(8).await;
    for sent in ["", "GET /livez HTTP/1.1\r\nhost: localhost\r\nx-half: "] {
        let mut stream = connect(&service);
        stream.write_all(sent.as_bytes()).unwrap();
        let started = Instant::now();
        let text = spawn_blocking(|| rest(stream)).await.unwrap();
        assert!(!text.contains("200 OK"), "{text}");
        assert!(started.elapsed() < LONG / 2);
    }
}

#[tokio::test]
async fn headers_drop_by_drop_are_hung_up_on() {
    let service = impatient(8).await;
    let mut stream = connect(&service);
    let dripping = spawn_blocking(move || {
        stream.write_all(b"GET /livez HTTP/1.1\r\n").unwrap();
        let started = Instant::now();
        while started.elapsed() < LONG {
            if stream.write_all(b"x: y\r\n").is_err() {
                return true;
            }
            std::thread::sleep(PATIENCE / 10);
        }
        false
    });
    assert!(dripping.await.unwrap());
}

/// A stream of so many items, each with a long id.
fn many(items: usize) -> Vec<serde_json::Value> {
    (0..items).map(|index| json!({"id": format!("{index:0>100}"), "text": "x"})).collect()
}

#[tokio::test]
async fn a_stream_may_take_longer_than_a_connection_may_rest() {
    let http = http::Config { rest: PATIENCE, ..Default::default() };
    let service = Service::ready_with(Setup { http, ..Setup::default() }).await;
    let mut answer =
        service.post("/v1/rewards/stream").json(&json!({"items": many(1000)})).send().await.unwrap();
    let mut text = String::new();
    service.hold.shut();
    let mut chunks = 0;
    while let Some(chunk) = answer.chunk().await.unwrap() {
        text.push_str(std::str::from_utf8(&chunk).unwrap());
        chunks += 1;
        if chunks == 1 {
            tokio::time::sleep(PATIENCE * 3).await;
            service.hold.open();
        }
    }
    assert!(text.trim_end().ends_with(r#""tokens":1000}}"#), "{}", &text[text.len().saturating_sub(300)..]);
    assert_eq!(text.lines().count(), 1001);
}

#[tokio::test]
async fn who_takes_nothing_of_an_answer_is_hung_up_on() {
    let http = http::Config { rest: PATIENCE, ..Default::default() };
    let service = Service::ready_with(Setup { http, ..Setup::default() }).await;
    let body = json!({"items": many(60_000)}).to_string();
    let mut stream = connect(&service);
    let head = format!(
        "POST /v1/rewards/stream HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let sent = spawn_blocking(move || {
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body.as_bytes()).unwrap();
        stream
    });
    let stream = sent.await.unwrap();
    // What does not fit into the system's buffers is not scored.
    let mut scored = -1.0;
    loop {
        let before = std::mem::replace(&mut scored, service.metric("rewarden_scored_items_total").await);
        if before == scored && scored > 0.0 {
            break;
        }
        tokio::time::sleep(PATIENCE * 6).await;
    }
    assert!(scored < 60_000.0, "{scored}");
    let text = spawn_blocking(|| rest(stream)).await.unwrap();
    assert!(!text.contains(r#""object":"end""#));
}

#[tokio::test]
async fn a_request_may_take_longer_than_its_headers() {
    let service = impatient(8).await;
    service.hold.shut();
    let answer = service.rewards_later("x");
    service.until_batches(1).await;
    tokio::time::sleep(PATIENCE * 2).await;
    service.hold.open();
    assert_eq!(answer.await.unwrap().status(), 200);
    tokio::time::sleep(PATIENCE * 2).await;
    assert_eq!(service.rewards(&json!({"items": [{"text": "x"}]})).await.0, 200);
}

#[tokio::test]
async fn the_last_requests_are_answered_and_their_connections_closed() {
    let mut service = Service::ready().await;
    let ask = |mut stream: TcpStream| {
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
        stream
    };
    let mut kept = ask(connect(&service));
    let asked = spawn_blocking(move || {
        let mut answer = [0; 4096];
        let size = kept.read(&mut answer).unwrap();
        (kept, String::from_utf8_lossy(&answer[..size]).into_owned())
    });
    let (kept, answer) = asked.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK") && !answer.contains("connection: close"), "{answer}");
    service.shutdown.take().unwrap().send(()).unwrap();
    // As if a busy machine had been this late to read what was there before.
    tokio::time::sleep(Duration::from_millis(50)).await;
    for stream in [ask(kept), ask(connect(&service))] {
        let answer = spawn_blocking(|| rest(stream)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("connection: close"), "{answer}");
    }
    tokio::time::timeout(LONG, service.server).await.unwrap().unwrap().unwrap();
}

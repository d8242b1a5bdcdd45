//! `POST /v1/rewards/stream`: a line for each item, an error where one is bad.

use std::time::Duration;

use rewarden::{engine, http};
use serde_json::{Value, json};

use crate::helpers::{Service, Setup};

const PATH: &str = "/v1/rewards/stream";

async fn lines(service: &Service, request: &Value) -> Vec<Value> {
    let response = service.post(PATH).json(request).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/x-ndjson");
    let text = response.text().await.unwrap();
    assert!(text.ends_with('\n'));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn many_items_are_as_by_the_plain_route() {
    let service = Service::ready().await;
    let items: Vec<Value> = (0..200).map(|i| json!({"id": i, "text": "x y z ".repeat(1 + i % 5)})).collect();
    let (_, plain) = service.rewards(&json!({ "items": items })).await;
    let mut lines = lines(&service, &json!({ "items": items })).await;
    let end = lines.pop().unwrap();
    assert_eq!(lines, *plain["data"].as_array().unwrap());
    let want = json!({"object": "end", "model": "bayes", "scored": 200, "refused": 0, "usage": plain["usage"], "penalty": plain["penalty"]});
    assert_eq!(end, want);
    assert_eq!(service.metric(r#"rewarden_reward_mean_count{model="bayes"}"#).await, 400.0);
}

#[tokio::test]
async fn a_bad_item_is_an_error_on_its_line() {
    let service = Service::ready().await;
    let items = json!([
        {"id": "good", "text": "x"},
        {"id": "typo", "txt": "x"},
        {"id": "long", "text": "x ".repeat(17)},
        {"id": "nan", "text": "nan"},
        7,
        {"id": "both", "text": "x", "prompt": "y", "response": "z"},
        {"text": "y", "id": 8},
    ]);
    let lines = lines(&service, &json!({ "items": items })).await;
    let told =
        |line: &Value| (line["id"].clone(), line["error"]["code"].clone(), line["error"]["param"].clone());
    let wrong = |id: Value, code: &str, param: &str| (id, json!(code), json!(param));
    let want = [
        (json!("good"), Value::Null, Value::Null),
        wrong(json!("typo"), "invalid_field", "items[1].txt"),
        wrong(json!("long"), "too_long", "items[2]"),
        (json!("nan"), json!("not_finite"), Value::Null),
        wrong(Value::Null, "invalid_field", "items[4]"),
        wrong(json!("both"), "invalid_field", "items[5].text"),
        (json!(8), Value::Null, Value::Null),
    ];
    for (index, (line, want)) in lines.iter().zip(want).enumerate() {
        assert_eq!((line["index"].clone(), told(line)), (json!(index), want), "{line}");
    }
    assert_eq!((&lines[7]["scored"], &lines[7]["refused"]), (&json!(2), &json!(5)));
    assert_eq!(lines[6]["mean"], 0.4);
}

#[tokio::test]
async fn what_is_wrong_with_the_request_is_a_status() {
    let mut setup = Setup::default();
    setup.http.max_stream_items = 3;
    let service = Service::ready_with(setup).await;
    let table = [
        (json!({}), 422, "items"),
        (json!({"items": []}), 422, "items"),
        (json!({"items": [1, 2, 3, 4]}), 413, "items"),
        (json!({"items": [1], "model": "no"}), 404, "model"),
        (json!({"items": [1], "stream": true}), 422, "stream"),
        (json!({"items": [1], "model": "plain", "variance": true}), 422, "variance"),
    ];
    for (request, status, param) in table {
        let (got, body) = service.ask(PATH, &request).await;
        assert_eq!((got, &body["error"]["param"]), (status, &json!(param)), "{request}: {body}");
    }
}

#[tokio::test]
async fn a_stream_waits_for_room_but_its_first_items_do_not() {
    let engine = engine::Config { batch_tokens: 8, queue_tokens: 80, ..Default::default() };
    let service = Service::ready_with(Setup { engine, ..Setup::default() }).await;
    let items = vec![json!({"text": "x"}); 130];
    service.hold.shut();
    let first = service.rewards_later("x");
    service.until_batches(1).await;
    // The first window fits; the second waits behind it for its turn.
    let request = service.post(PATH).json(&json!({ "items": items }));
    let answer = tokio::spawn(async { request.send().await.unwrap().text().await.unwrap() });
    service.until_queued(2).await;
    let (status, body) = service.ask(PATH, &json!({ "items": items })).await;
    assert_eq!((status, &body["error"]["code"]), (503, &json!("overloaded")));
    service.hold.open();
    assert_eq!(first.await.unwrap().status(), 200);
    let text = answer.await.unwrap();
    assert_eq!(text.lines().count(), 131);
    assert!(text.lines().last().unwrap().contains(r#""scored":130,"refused":0"#), "{text}");
}

#[tokio::test]
async fn items_whose_time_runs_out_say_so() {
    let http = http::Config { timeout: Duration::from_millis(200), ..Default::default() };
    let service = Service::ready_with(Setup { http, ..Setup::default() }).await;
    service.hold.shut();
    let (status, body) = service.ask(PATH, &json!({"items": [{"text": "x"}]})).await;
    assert_eq!((status, &body["error"]["code"]), (504, &json!("deadline_exceeded")));
    service.hold.open();
}

//! Under load and in trouble: batches, refusals, clients that leave, scorers that fail, the end.

use std::{sync::atomic::Ordering, time::Duration};

use rewarden::{engine, http};
use serde_json::{Value, json};

use crate::helpers::{Hold, Service, Setup};

fn tight(queue_tokens: usize) -> Setup {
    let engine = engine::Config { batch_tokens: 8, queue_tokens, ..Default::default() };
    Setup { engine, ..Setup::default() }
}

#[tokio::test]
async fn waiting_requests_share_batches_by_token_budget() {
    let service = Service::ready_with(tight(1000)).await;
    service.hold.shut();
    let first = service.rewards_later("x");
    service.until_batches(1).await;
    let mut answers = vec![first];
    for text in ["y y y y", "z z z z z", "x x x x"] {
        answers.push(service.rewards_later(text));
        service.until_queued(answers.len()).await;
    }
    service.hold.open();
    for answer in answers {
        assert_eq!(answer.await.unwrap().status(), 200);
    }
    // Five tokens do not fit beside the oldest four, but the four that came later do.
    let batches = service.batches.lock().unwrap().clone();
    assert_eq!(batches, [vec![vec![3]], vec![vec![4; 4], vec![3; 4]], vec![vec![5; 5]]]);
}

#[tokio::test]
async fn variances_are_computed_only_where_they_are_wanted() {
    let service = Service::ready_with(tight(1000)).await;
    service.hold.shut();
    let first = service.rewards_later("x");
    service.until_batches(1).await;
    let with = service.rewards_later("y");
    let plain = json!({"items": [{"text": "z"}], "variance": false});
    let without = tokio::spawn(service.post("/v1/rewards").json(&plain).send());
    service.until_queued(3).await;
    service.hold.open();
    assert_eq!(first.await.unwrap().status(), 200);
    assert!(with.await.unwrap().json::<Value>().await.unwrap()["data"][0]["variance"].is_number());
    assert!(without.await.unwrap().unwrap().json::<Value>().await.unwrap()["data"][0]["variance"].is_null());
    assert_eq!(service.batches.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn a_full_queue_is_503_with_retry_after_and_admits_all_or_nothing() {
    let service = Service::ready_with(tight(6)).await;
    service.hold.shut();
    let first = service.rewards_later("x");
    service.until_batches(1).await;
    let second = service.rewards_later("x x x x");
    service.until_queued(2).await;
    assert_eq!(service.metric("rewarden_queue_tokens").await, 4.0);
    let many = json!({"items": vec![json!({"text": "x"}); 3]});
    let refused = service.post("/v1/rewards").json(&many).send().await.unwrap();
    assert_eq!((refused.status().as_u16(), &refused.headers()["retry-after"]), (503, &"1".parse().unwrap()));
    let body: Value = refused.json().await.unwrap();
    assert_eq!(
        (&body["error"]["code"], &body["error"]["type"]),
        (&json!("overloaded"), &json!("overloaded_error"))
    );
    assert_eq!(service.metric("rewarden_queue_items").await, 1.0, "no part of it was admitted");
    service.hold.open();
    assert_eq!(first.await.unwrap().status(), 200);
    assert_eq!(second.await.unwrap().status(), 200);
    assert_eq!(service.rewards(&many).await.0, 200);
}

#[tokio::test]
async fn a_client_that_leaves_costs_no_compute() {
    let service = Service::ready().await;
    service.hold.shut();
    let first = service.rewards_later("x");
    service.until_batches(1).await;
    let leaves = service.rewards_later("y");
    service.until_queued(2).await;
    leaves.abort();
    service.until_metric(r#"rewarden_requests_total{code="499",route="/v1/rewards"}"#, 1.0).await;
    service.hold.open();
    assert_eq!(first.await.unwrap().status(), 200);
    assert_eq!(service.rewards(&json!({"items": [{"text": "z"}]})).await.0, 200);
    assert_eq!(*service.batches.lock().unwrap(), [vec![vec![3]], vec![vec![5]]]);
    assert_eq!(service.metric(r#"rewarden_dropped_items_total{reason="gone"}"#).await, 1.0);
}

#[tokio::test]
async fn time_that_runs_out_is_504() {
    let http = http::Config { timeout: Duration::from_millis(200), ..Default::default() };
    let service = Service::ready_with(Setup { http, ..Setup::default() }).await;
    service.hold.shut();
    let (status, body) = service.rewards(&json!({"items": [{"text": "x"}]})).await;
    assert_eq!((status, &body["error"]["code"]), (504, &json!("deadline_exceeded")));
    assert_eq!(body["error"]["type"], "timeout_error");
    service.hold.open();
    assert_eq!(service.rewards(&json!({"items": [{"text": "x"}]})).await.0, 200);
}

#[tokio::test]
async fn a_scorer_that_fails_is_500_and_the_service_goes_on() {
    let service = Service::ready().await;
    for (text, code) in
        [("x panic", "internal"), ("x fail", "internal"), ("x nan", "not_finite"), ("inf", "not_finite")]
    {
        let (status, body) = service.rewards(&json!({"items": [{"text": text}]})).await;
        assert_eq!((status, &body["error"]["code"]), (500, &json!(code)), "{text}");
        assert_eq!(body["error"]["type"], "server_error");
        assert!(!body.to_string().contains("stand-in"), "{body}");
        assert_eq!(service.rewards(&json!({"items": [{"text": "x"}]})).await.0, 200);
    }
}

#[tokio::test]
async fn what_is_not_a_number_fails_its_own_request_only() {
    // What passes the model is found by item; where the model refuses its batch, each sequence is scored again alone.
    for (word, batches) in [("nan", 2), ("inf", 4)] {
        let service = Service::ready().await;
        service.hold.shut();
        let first = service.rewards_later("x");
        service.until_batches(1).await;
        let (good, bad) = (service.rewards_later("y"), service.rewards_later(word));
        service.until_queued(3).await;
        service.hold.open();
        assert_eq!(first.await.unwrap().status(), 200);
        let (good, bad) = (good.await.unwrap().status(), bad.await.unwrap().status());
        assert_eq!((good.as_u16(), bad.as_u16()), (200, 500), "{word}");
        assert_eq!(service.batches.lock().unwrap().len(), batches, "{word}");
    }
}

#[tokio::test]
async fn shutting_down_finishes_what_was_accepted() {
    let mut service = Service::ready().await;
    service.hold.shut();
    let accepted = [service.rewards_later("x"), service.rewards_later("y")];
    service.until_batches(1).await;
    service.until_queued(2).await;
    service.shutdown.take().unwrap().send(()).unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!service.server.is_finished());
    service.hold.open();
    for answer in accepted {
        assert_eq!(answer.await.unwrap().status(), 200);
    }
    service.server.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_draining_service_is_not_ready_but_still_scores() {
    let http = http::Config { drain: Duration::from_secs(3600), ..Default::default() };
    let mut service = Service::ready_with(Setup { http, ..Setup::default() }).await;
    service.shutdown.take().unwrap().send(()).unwrap();
    service.until(async || service.get("/readyz").await.status() == 503).await;
    assert_eq!(service.get("/livez").await.status(), 200);
    assert_eq!(service.rewards(&json!({"items": [{"text": "x"}]})).await.0, 200);
}

#[tokio::test]
async fn nothing_is_scored_before_the_models_are_warm() {
    let hold = Hold::default();
    hold.shut();
    let service = Service::start(Setup { hold, ..Setup::default() }).await;
    service.until_batches(1).await;
    let response = service.get("/readyz").await;
    assert_eq!((response.status().as_u16(), response.headers().contains_key("retry-after")), (503, true));
    assert_eq!(service.get("/livez").await.status(), 200);
    let (status, body) = service.rewards(&json!({"items": [{"text": "x"}]})).await;
    assert_eq!((status, &body["error"]["code"]), (503, &json!("not_ready")));
    service.hold.open();
    service.until(async || service.get("/readyz").await.status() == 200).await;
    assert_eq!(
        service.warmed.load(Ordering::Relaxed),
        2,
        "each model has been warmed up, with a posterior or not"
    );
    assert_eq!(service.batches.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_model_that_does_not_warm_up_ends_the_service() {
    let service = Service::start(Setup { broken: true, ..Setup::default() }).await;
    let message = service.server.await.unwrap().unwrap_err().to_string();
    assert!(message.contains("warm-up of model `bayes`: the stand-in fails"), "{message}");
}

//! `POST /v1/rewards`: what it answers, and what it refuses.

use serde_json::{Value, json};

use rewarden::score::rule::{Calibration, PenaltyRule};

use crate::helpers::{PRIOR, Service, Setup};

fn data(body: &Value) -> Vec<&Value> {
    body["data"].as_array().unwrap_or_else(|| panic!("{body}")).iter().collect()
}

#[tokio::test]
async fn every_item_is_scored_in_order() {
    let service = Service::ready().await;
    let items = json!([
        {"id": "a", "prompt": "x", "response": "y"},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]},
        {"id": "c", "text": "x x x x"},
        {"input_ids": [5]},
    ]);
    let (status, body) = service.rewards(&json!({"items": items})).await;
    assert_eq!(status, 200, "{body}");
    let reward = |index: usize, id: Value, mean: f64, tokens: usize| {
        let variance = tokens as f64;
        json!({
            "index": index, "id": id, "mean": mean, "variance": variance, "std": variance.sqrt(),
            "contraction": 1.0 - variance / PRIOR, "score": mean - variance.sqrt(), "novelty": null,
            "variance_percentile": null, "novel": null, "tokens": tokens, "truncated": false,
        })
    };
    let want = json!({
        "object": "list", "model": "bayes", "usage": {"tokens": 13}, "penalty": {"kind": "std", "k": 1.0},
        "data": [
            reward(0, json!("a"), 0.9, 5), reward(1, Value::Null, 0.4, 3), reward(2, json!("c"), 1.2, 4),
            reward(3, Value::Null, 0.5, 1),
        ],
    });
    assert_eq!(body, want);
}

#[tokio::test]
async fn penalty_and_variance_follow_the_request_and_the_model() {
    let service = Service::ready().await;
    // Four tokens of id 3: mean 1.2, variance 4.
    let table = [
        (json!({}), Some(4.0), 1.2 - 2.0),
        (json!({"penalty": {"kind": "std", "k": 0.5}}), Some(4.0), 1.2 - 1.0),
        (json!({"penalty": {"kind": "variance"}}), Some(4.0), 1.2 - 4.0),
        (json!({"penalty": {"kind": "std", "k": 0}}), Some(4.0), 1.2),
        (json!({"penalty": {"kind": "none"}}), None, 1.2),
        (json!({"penalty": {"kind": "none"}, "variance": true}), Some(4.0), 1.2),
        (json!({"penalty": null, "variance": null, "model": null}), Some(4.0), 1.2 - 2.0),
        (json!({"variance": false}), None, 1.2),
        (json!({"variance": false, "penalty": {"kind": "std", "k": 0}}), None, 1.2),
        (json!({"model": "plain"}), None, 1.2),
        (json!({"model": "plain", "variance": false}), None, 1.2),
        (json!({"model": "plain", "penalty": {"kind": "std", "k": 0}}), None, 1.2),
        (json!({"model": "plain", "penalty": {"kind": "none", "k": 3}}), None, 1.2),
    ];
    for (mut request, variance, score) in table {
        request["items"] = json!([{"text": "x x x x"}]);
        let (status, body) = service.rewards(&request).await;
        assert_eq!(status, 200, "{request}: {body}");
        let reward = data(&body)[0];
        assert_eq!(reward["variance"], json!(variance), "{request}");
        assert_eq!(reward["std"], json!(variance.map(f64::sqrt)), "{request}");
        assert_eq!(reward["score"], json!(score), "{request}");
    }
}

/// A service whose `bayes` has these numbers of held-out pairs.
async fn calibrated(rule: Option<PenaltyRule>) -> Service {
    let calibration = Calibration {
        spread: Some(0.5),
        baseline: Some(-1.0),
        k: Some(4.0),
        rule,
        variances: vec![(0.5, 1.0), (0.9, 2.25)],
        uncontracted: vec![(0.5, 0.0625), (0.9, 0.125)],
    };
    Service::ready_with(Setup { calibration: Some(calibration), ..Setup::default() }).await
}

#[tokio::test]
async fn penalties_read_what_the_fit_stored_and_are_echoed() {
    let service = calibrated(None).await;
    // Four tokens: mean 1.2, variance 4, and 1 - contraction is a quarter.
    let contracted = |k: f64, share: f64| 1.2 - k * 0.5 * share;
    let table = [
        (json!(null), json!({"kind": "std", "k": 1.0}), 1.2 - 2.0),
        (json!({"kind": "contraction"}), json!({"kind": "contraction", "k": 4.0}), contracted(4.0, 0.25)),
        (
            json!({"kind": "contraction", "k": 2}),
            json!({"kind": "contraction", "k": 2.0}),
            contracted(2.0, 0.25),
        ),
        (
            json!({"kind": "contraction", "k": 2, "above": 0.9}),
            json!({"kind": "contraction", "k": 2.0, "above": 0.9}),
            contracted(2.0, 0.125),
        ),
        (
            json!({"kind": "std", "k": 2, "above": 0.9}),
            json!({"kind": "std", "k": 2.0, "above": 0.9}),
            1.2 - 1.0,
        ),
        (json!({"kind": "shrink"}), json!({"kind": "shrink", "baseline": -1.0}), -1.0 + 0.75 * 2.2),
        (json!({"kind": "shrink", "baseline": 0}), json!({"kind": "shrink", "baseline": 0.0}), 0.75 * 1.2),
        (json!({"kind": "kl", "beta": 4}), json!({"kind": "kl", "beta": 4.0}), 1.2 - 0.5),
        (json!({"kind": "none"}), json!({"kind": "none"}), 1.2),
    ];
    for (penalty, echoed, score) in table {
        let request = json!({"items": [{"text": "x x x x"}], "penalty": penalty});
        let (status, body) = service.rewards(&request).await;
        assert_eq!((status, &body["penalty"]), (200, &echoed), "{request}: {body}");
        let got = data(&body)[0]["score"].as_f64().unwrap();
        assert!((got - score).abs() < 1e-12, "{request}: {got}, not {score}");
        let line =
            service.post("/v1/rewards/stream").json(&request).send().await.unwrap().text().await.unwrap();
        let end: Value = serde_json::from_str(line.lines().last().unwrap()).unwrap();
        assert_eq!(end["penalty"], echoed);
    }
}

#[tokio::test]
async fn the_stored_rule_is_the_default_and_gives_way_to_a_request() {
    let rule: PenaltyRule = serde_json::from_value(json!({"kind": "contraction", "k": 8})).unwrap();
    let service = calibrated(Some(rule)).await;
    let score = async |more: Value| {
        let mut request = json!({"items": [{"text": "x x x x"}]});
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (_, body) = service.rewards(&request).await;
        (data(&body)[0]["score"].as_f64().unwrap(), body["penalty"].clone())
    };
    assert_eq!(score(json!({})).await, (1.2 - 8.0 * 0.5 * 0.25, json!({"kind": "contraction", "k": 8.0})));
    assert_eq!(
        score(json!({"penalty": {"kind": "std"}})).await,
        (1.2 - 2.0, json!({"kind": "std", "k": 1.0}))
    );
    assert_eq!(score(json!({"variance": false})).await, (1.2, json!({"kind": "none"})));
    assert_eq!(score(json!({"model": "plain"})).await, (1.2, json!({"kind": "none"})));
    let request = json!({"prompt": "x", "responses": ["y", "z z"]});
    let best = service.asked("/v1/best-of-n", &request).await;
    let compared = service.asked("/v1/compare", &request).await;
    assert_eq!((&best["penalty"]["kind"], &compared["penalty"]["k"]), (&json!("contraction"), &json!(8.0)));
}

#[tokio::test]
async fn what_the_fit_did_not_store_is_refused_by_name() {
    let service = Service::ready().await;
    for (penalty, field) in [
        (json!({"kind": "contraction"}), "penalty.kind"),
        (json!({"kind": "contraction", "k": 1}), "penalty.kind"),
        (json!({"kind": "shrink"}), "penalty.baseline"),
        (json!({"kind": "kl"}), "penalty.beta"),
        (json!({"kind": "std", "above": 0.9}), "penalty.above"),
        (json!({"kind": "kl", "beta": 1, "k": 1}), "penalty.k"),
    ] {
        let (status, body) = service.rewards(&json!({"items": [{"text": "x"}], "penalty": penalty})).await;
        assert_eq!((status, &body["error"]["param"]), (422, &json!(field)), "{penalty}: {body}");
    }
}

#[tokio::test]
async fn truncation_is_reported() {
    let service = Service::ready().await;
    let items = json!([{"text": "x ".repeat(17)}, {"text": "x"}]);
    let (_, body) = service.rewards(&json!({"items": items, "truncation": "left"})).await;
    let told: Vec<_> = data(&body).iter().map(|reward| (&reward["tokens"], &reward["truncated"])).collect();
    assert_eq!(told, [(&json!(16), &json!(true)), (&json!(1), &json!(false))]);
}

/// A request, status and code of its refusal, and the field that is named.
type Refused = (Value, (u16, &'static str), &'static str);

const FIELD: (u16, &str) = (422, "invalid_field");

/// Items that are wrong.
fn wrong_items() -> Vec<Refused> {
    let items = |items: Value| json!({ "items": items });
    let second = |item: Value| json!({"items": [{"text": "x"}, item]});
    let said = |message: Value| json!({"items": [{"messages": [message]}]});
    let asked = |prompt: Value| json!({"items": [{"prompt": prompt, "response": "x"}]});
    vec![
        (json!({}), FIELD, "items"),
        (items(json!([])), FIELD, "items"),
        (items(json!({})), FIELD, "items"),
        (json!([null, [{"text": "x"}]]), FIELD, "body"),
        (items(json!([["x"]])), FIELD, "items[0]"),
        (second(json!({"respnse": "x", "prompt": "y"})), FIELD, "items[1].respnse"),
        (second(json!({"prompt": "x"})), FIELD, "items[1].response"),
        (second(json!({"text": 1})), FIELD, "items[1].text"),
        (second(json!({"text": "x", "id": true})), FIELD, "items[1].id"),
        (second(json!({"text": "x", "id": 1e300})), FIELD, "items[1].id"),
        (second(json!({"text": "  "})), FIELD, "items[1].text"),
        (second(json!({"input_ids": [10]})), FIELD, "items[1].input_ids"),
        (second(json!({"text": "x ".repeat(17)})), (422, "too_long"), "items[1]"),
        (said(json!({"role": "user", "content": 1})), FIELD, "items[0].messages[0].content"),
        (said(json!({"role": "user", "content": "x", "nam": 1})), FIELD, "items[0].messages[0].nam"),
        (said(json!({"role": "no", "content": "x"})), FIELD, "items[0].messages"),
        (asked(json!([{"role": "user", "content": "x", "nam": 1}])), FIELD, "items[0].prompt[0].nam"),
        (asked(json!([{"role": "user"}])), FIELD, "items[0].prompt[0]"),
        (asked(json!([{"role": "no", "content": "x"}])), FIELD, "items[0].prompt"),
        (asked(json!("no")), FIELD, "items[0].prompt"),
        (asked(json!(1)), FIELD, "items[0].prompt"),
    ]
}

/// Everything else that can be wrong with a request.
fn wrong_settings() -> Vec<Refused> {
    let with = |name: &str, value: Value| json!({"items": [{"text": "x"}], name: value});
    let two = |one: (&str, Value), other: (&str, Value)| {
        let mut request = with(one.0, one.1);
        request[other.0] = other.1;
        request
    };
    let std = || ("penalty", json!({"kind": "std"}));
    vec![
        (with("modle", json!("bayes")), FIELD, "modle"),
        (with("model", json!("other")), (404, "model_not_found"), "model"),
        (with("truncation", json!("middle")), FIELD, "truncation"),
        (with("variance", json!(1)), FIELD, "variance"),
        (with("penalty", json!({"kind": "most"})), FIELD, "penalty.kind"),
        (with("penalty", json!({"kind": "std", "k": -1})), FIELD, "penalty.k"),
        (with("penalty", json!({"kind": "std", "b": 1})), FIELD, "penalty.b"),
        (with("penalty", json!({"kind": "std", "relative": true})), FIELD, "penalty.relative"),
        (two(("model", json!("plain")), ("variance", json!(true))), FIELD, "variance"),
        (two(("model", json!("plain")), std()), FIELD, "penalty"),
        (two(("variance", json!(false)), std()), FIELD, "variance"),
        (
            json!({"items": [{"text": "x"}, {"text": "x ".repeat(17)}], "truncation": "keep-suffix"}),
            FIELD,
            "truncation",
        ),
    ]
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let service = Service::ready().await;
    for (request, (status, code), param) in wrong_items().into_iter().chain(wrong_settings()) {
        let (got, body) = service.rewards(&request).await;
        let error = &body["error"];
        assert_eq!((got, &error["code"]), (status, &json!(code)), "{request}: {body}");
        assert_eq!(error["param"], param, "{request}: {body}");
        assert_eq!(error["type"], "invalid_request_error");
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{body}");
    }
    assert!(service.batches.lock().unwrap().is_empty(), "nothing that is refused costs compute");
    assert_eq!(service.metric("rewarden_queue_items").await, 0.0);
}

#[tokio::test]
async fn ids_go_back_as_they_came() {
    let service = Service::ready().await;
    let ids = [json!("a"), json!("7"), json!(7), json!(-7), json!(u64::MAX), json!(1.5), json!(null)];
    let items: Vec<_> = ids.iter().map(|id| json!({"id": id, "text": "x"})).collect();
    let (status, body) = service.rewards(&json!({"items": items})).await;
    assert_eq!(status, 200, "{body}");
    let got: Vec<_> = data(&body).iter().map(|reward| reward["id"].clone()).collect();
    assert_eq!(got, ids);
}

#[tokio::test]
async fn a_penalty_beyond_all_numbers_is_refused() {
    let service = Service::ready().await;
    let request = json!({"items": [{"text": "x x x x"}], "penalty": {"kind": "variance", "k": 1e308}});
    let (status, body) = service.rewards(&request).await;
    assert_eq!((status, &body["error"]["param"]), (422, &json!("penalty.k")), "{body}");
}

#[tokio::test]
async fn too_long_says_both_numbers() {
    let service = Service::ready().await;
    let (_, body) = service.rewards(&json!({"items": [{"text": "x ".repeat(17)}]})).await;
    let message = body["error"]["message"].as_str().unwrap();
    assert!(message.contains("17 tokens") && message.contains("limit of 16"), "{message}");
}

#[tokio::test]
async fn bodies_that_are_not_json_are_refused() {
    let mut setup = Setup::default();
    setup.http.body_limit = 100;
    setup.http.max_items = 2;
    let service = Service::ready_with(setup).await;
    let items = |items: usize| json!({"items": vec![json!({"text": "x"}); items]}).to_string();
    let table = [
        ("application/json", "{".into(), 400, "invalid_json"),
        ("application/json", String::new(), 400, "invalid_json"),
        ("application/json", "\"\\ud800\"".into(), 400, "invalid_json"),
        ("text/plain", items(1), 415, "unsupported_media_type"),
        ("application/json", " ".repeat(101), 413, "body_too_large"),
        ("application/json", items(3), 413, "too_many_items"),
        ("application/json; charset=utf-8", items(2), 200, ""),
    ];
    for (media, body, status, code) in table {
        let shown = body.clone();
        let request = service.post("/v1/rewards").header("content-type", media).body(body);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), status, "{media} {shown}");
        let body: Value = response.json().await.unwrap();
        assert_eq!(body["error"]["code"].as_str().unwrap_or_default(), code, "{media} {shown}");
    }
}

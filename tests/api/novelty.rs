//! How unusual variances are: of each item in its reward, of the latest in the metrics.

use rewarden::{
    engine::registry::Model,
    evaluate::stability::{bin, percentile, stability_index},
    posterior::{FitConfig, config::Quantiles},
};
use serde_json::{Value, json};

use crate::helpers::{Fixture, Service, Setup};

/// Of the stand-in, whose variances are numbers of tokens.
const QUANTILES: [(f64, f64); 3] = [(0.25, 1.0), (0.5, 2.0), (0.75, 4.0)];

async fn stand_in() -> Service {
    Service::ready_with(Setup { quantiles: QUANTILES.into(), ..Setup::default() }).await
}

/// Texts of so many tokens each.
fn texts(tokens: impl IntoIterator<Item = usize>) -> Value {
    tokens.into_iter().map(|tokens| json!({"text": "x ".repeat(tokens)})).collect()
}

/// The values of a field in the answer to a request that must succeed.
async fn answered(service: &Service, request: &Value, field: &str) -> Vec<Value> {
    let (status, body) = service.rewards(request).await;
    assert_eq!(status, 200, "{body}");
    body["data"].as_array().unwrap().iter().map(|reward| reward[field].clone()).collect()
}

#[tokio::test]
async fn it_is_the_percentile_of_the_variance() {
    let service = stand_in().await;
    let items = texts([1, 2, 3, 4, 16]);
    let novelty = answered(&service, &json!({ "items": items }), "novelty").await;
    assert_eq!(novelty, [0.25, 0.5, 0.625, 0.75, 0.75]);
    let novel = answered(&service, &json!({ "items": items }), "novel").await;
    assert_eq!(novel, [false; 5], "the threshold is past what can be told");
    for request in [
        json!({"items": items, "variance": false}),
        json!({"items": items, "penalty": {"kind": "none"}}),
        json!({"items": items, "model": "plain"}),
    ] {
        let novelty = answered(&service, &request, "novelty").await;
        assert!(novelty.iter().all(Value::is_null), "{request}");
    }
    for (name, want) in [
        (r#"rewarden_novelty_bucket{model="bayes",le="0.25"}"#, 2.0),
        (r#"rewarden_novelty_bucket{model="bayes",le="0.5"}"#, 4.0),
        (r#"rewarden_novelty_bucket{model="bayes",le="0.75"}"#, 10.0),
        (r#"rewarden_novelty_count{model="bayes"}"#, 10.0),
        (r#"rewarden_novelty_sum{model="bayes"}"#, 5.75),
        (r#"rewarden_novelty_count{model="plain"}"#, 0.0),
    ] {
        assert_eq!(service.metric(name).await, want, "{name}");
    }
}

#[tokio::test]
async fn past_the_threshold_a_reward_is_flagged() {
    let mut setup = Setup { quantiles: QUANTILES.into(), ..Setup::default() };
    setup.http.novelty_threshold = 0.625;
    let service = Service::ready_with(setup).await;
    let request = json!({"items": texts([1, 2, 3, 4])});
    assert_eq!(answered(&service, &request, "novel").await, [false, false, true, true]);
    let request = json!({"items": texts([1, 4]), "variance": false});
    assert_eq!(answered(&service, &request, "novel").await, [Value::Null, Value::Null]);
}

#[tokio::test]
async fn drift_is_reported_once_there_is_enough_to_tell() {
    const DRIFT: &str = r#"rewarden_drift{model="bayes"}"#;
    let service = stand_in().await;
    let drift = async |tokens: &[usize], requests: usize| {
        for _ in 0..requests {
            let items = texts(tokens.iter().copied().cycle().take(128));
            answered(&service, &json!({ "items": items }), "mean").await;
        }
        let text = service.get("/metrics").await.text().await.unwrap();
        text.contains("\nrewarden_drift{").then_some(service.metric(DRIFT).await)
    };
    let usual = [1, 2, 4, 5];
    assert_eq!(drift(&usual, 1).await, None);
    assert_eq!(drift(&usual, 1).await, Some(0.0));
    let mut counts = [64; 4];
    counts[bin(&QUANTILES, 16.0)] += 128;
    assert_eq!(drift(&[16], 1).await, stability_index(&QUANTILES, &counts));
    assert!(drift(&[16], 7).await.unwrap() > 2.0);
    assert_eq!(drift(&usual, 8).await, Some(0.0), "it follows what comes");
    let request = json!({"model": "plain", "items": texts([1; 256])});
    answered(&service, &request, "mean").await;
    let text = service.get("/metrics").await.text().await.unwrap();
    assert!(!text.contains(r#"rewarden_drift{model="plain"}"#), "{text}");
}

/// A model of the fixtures, whose posterior has these quantiles.
fn fixture(name: &str, quantiles: Option<Vec<(f64, f64)>>) -> Model {
    let quantiles = quantiles.map(|single| Quantiles { single, ..Quantiles::default() });
    Fixture::new(|posterior| posterior.config = Some(FitConfig { quantiles, ..FitConfig::default() }))
        .model(name)
}

#[tokio::test]
async fn quantiles_come_with_the_posterior() {
    let items: Vec<Value> = (1..6).map(|tokens| json!({"input_ids": vec![7; tokens]})).collect();
    let answer = async |model: Model| {
        let service = Service::serve(vec![model], &Default::default(), Default::default()).await;
        service.until_ready().await;
        let (status, body) = service.rewards(&json!({ "items": items })).await;
        assert_eq!(status, 200, "{body}");
        let of = |field: &str| -> Vec<Option<f64>> {
            body["data"].as_array().unwrap().iter().map(|reward| reward[field].as_f64()).collect()
        };
        (of("variance"), of("novelty"))
    };
    let (variances, novelty) = answer(fixture("without", None)).await;
    let variances: Vec<f64> = variances.into_iter().map(Option::unwrap).collect();
    assert_eq!(novelty, [None; 5]);
    let mut sorted = variances.clone();
    sorted.sort_by(f64::total_cmp);
    let quantiles = vec![(0.2, sorted[1]), (0.6, sorted[3])];
    let (again, novelty) = answer(fixture("with", Some(quantiles.clone()))).await;
    assert!(again.iter().flatten().eq(&variances));
    for (variance, novelty) in variances.iter().zip(novelty) {
        let novelty = novelty.unwrap();
        assert!((0.0..=1.0).contains(&novelty));
        assert_eq!(novelty, percentile(&quantiles, *variance));
    }
    let [low, high] = [sorted[0], sorted[2]].map(|variance| percentile(&quantiles, variance));
    assert!(0.0 < low && low < 0.2 && 0.2 < high && high < 0.6, "{sorted:?}");
}

//! How unusual answers are, by contraction: of each item in its reward, of the latest in the metrics.

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
async fn it_is_the_percentile_of_what_the_pairs_left_of_the_prior_variance() {
    let service = stand_in().await;
    let items = texts([1, 2, 3, 4, 16]);
    let novelty = answered(&service, &json!({ "items": items }), "novelty").await;
    assert_eq!(novelty, [0.25, 0.5, 0.625, 0.75, 0.75]);
    let variance = answered(&service, &json!({ "items": items }), "variance_percentile").await;
    assert_eq!(variance, novelty);
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
        (r#"rewarden_novelty_bucket{model="bayes",le="0.25"}"#, 3.0),
        (r#"rewarden_novelty_bucket{model="bayes",le="0.5"}"#, 6.0),
        (r#"rewarden_novelty_bucket{model="bayes",le="0.75"}"#, 15.0),
        (r#"rewarden_novelty_count{model="bayes"}"#, 15.0),
        (r#"rewarden_novelty_sum{model="bayes"}"#, 8.625),
        (r#"rewarden_contraction_count{model="bayes"}"#, 15.0),
        (r#"rewarden_contraction_bucket{model="bayes",le="0.01"}"#, 3.0),
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
fn fixture(name: &str, quantiles: Option<Quantiles>) -> Model {
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
        ["variance", "contraction", "novelty", "variance_percentile"].map(of)
    };
    let sorted = |values: &[Option<f64>]| {
        let mut sorted: Vec<f64> = values.iter().map(|value| value.unwrap()).collect();
        sorted.sort_by(f64::total_cmp);
        sorted
    };
    let [variances, contractions, novelty, percentiles] = answer(fixture("without", None)).await;
    assert_eq!((novelty, percentiles), (vec![None; 5], vec![None; 5]));
    let (by_variance, by_contraction) = (sorted(&variances), sorted(&contractions));
    let quantiles = Quantiles {
        single: vec![(0.2, by_variance[1]), (0.6, by_variance[3])],
        contraction_single: vec![(0.2, by_contraction[1]), (0.6, by_contraction[3])],
        ..Quantiles::default()
    };
    let [_, again, novelty, percentiles] = answer(fixture("with", Some(quantiles.clone()))).await;
    assert_eq!(again, contractions);
    for at in 0..5 {
        let (novelty, share) = (novelty[at].unwrap(), 1.0 - contractions[at].unwrap());
        assert!((0.0..=1.0).contains(&novelty));
        assert_eq!(novelty, percentile(&quantiles.uncontracted(), share));
        assert_eq!(percentiles[at].unwrap(), percentile(&quantiles.single, variances[at].unwrap()));
    }
}

#[tokio::test]
async fn a_posterior_of_before_has_percentiles_of_variances_alone() {
    let single = vec![(0.2, 1.0), (0.6, 2.0)];
    let model = fixture("old", Some(Quantiles { single, ..Quantiles::default() }));
    let service = Service::serve(vec![model], &Default::default(), Default::default()).await;
    service.until_ready().await;
    let (_, body) = service.rewards(&json!({"items": [{"input_ids": [7, 7]}]})).await;
    let reward = &body["data"][0];
    assert!(reward["novelty"].is_null() && reward["novel"].is_null(), "{body}");
    assert!(reward["contraction"].is_number() && reward["variance_percentile"].is_number(), "{body}");
}

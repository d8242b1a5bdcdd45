use std::path::Path;

use candle_core::{DType, Device};

use super::*;
use crate::model::{adapter::Adapter, checkpoint::Checkpoint};

/// A model of the fixtures, without its posterior.
fn scorer() -> Scorer {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/cases/llama-0");
    let base = Checkpoint::open(&folder.join("base")).unwrap();
    let adapter = Adapter::load(&folder.join("adapter"), &base.config).unwrap();
    let model = RewardModel::new(&base, Some(&adapter), DType::F32, &Device::Cpu).unwrap();
    Scorer::new(model, None, Sharing::default())
}

#[test]
fn passes_keep_the_order_and_the_limit() {
    let of = |n: usize, first: u32| TokenSeq { ids: vec![first; n], pooled: n - 1, truncated: false };
    let sequences =
        [(3, 1), (4, 2), (9, 3), (2, 4), (1, 5), (1, 6), (7, 7), (7, 7)].map(|(n, first)| of(n, first));
    let batch: Vec<&TokenSeq> = sequences.iter().collect();
    let lengths: Vec<Vec<usize>> =
        passes(&batch, 8).iter().map(|pass| pass.iter().map(|s| s.ids.len()).collect()).collect();
    assert_eq!(lengths, [vec![3, 4], vec![9], vec![2, 1, 1], vec![7, 7]]);
    assert_eq!(passes(&batch, 0).len(), batch.len(), "alone");
}

#[test]
fn without_a_posterior_it_warms_up_and_scores() {
    let sequence = TokenSeq { ids: vec![0; 8], pooled: 7, truncated: false };
    let mut scorer = scorer();
    scorer.warm_up(&sequence).unwrap();
    let estimates = scorer.score(&[&sequence, &sequence], Want::MeanAndVariance).unwrap();
    assert!(estimates.iter().all(|e| e.mean.is_finite() && e.variance.is_none()));
}

#[test]
fn only_finite_estimates_pass() {
    use Want::{Mean, MeanAndVariance};
    let table = [
        (1.0, Some(0.5), MeanAndVariance, true),
        (1.0, Some(0.0), MeanAndVariance, true),
        (1.0, None, Mean, true),
        (1.0, None, MeanAndVariance, false),
        (f64::NAN, Some(0.5), MeanAndVariance, false),
        (f64::INFINITY, None, Mean, false),
        (1.0, Some(f64::NAN), MeanAndVariance, false),
        (1.0, Some(-1e-9), MeanAndVariance, false),
        (1.0, Some(f64::INFINITY), Mean, false),
    ];
    for (mean, variance, want, passes) in table {
        let estimate = Estimate { mean, variance, contraction: None };
        assert_eq!(estimate.finite(want).is_ok(), passes, "{estimate:?} {want:?}");
    }
}

#[test]
fn a_contraction_is_a_share_whatever_the_rounding() {
    for (v, prior, want) in [
        (1.0, 4.0, Some(0.75)),
        (4.0, 4.0, Some(0.0)),
        (4.1, 4.0, Some(0.0)),
        (0.0, 4.0, Some(1.0)),
        (0.0, 0.0, None),
    ] {
        assert_eq!(contraction(v, prior), want, "{v} {prior}");
    }
}

#[test]
fn a_score_is_finite_or_names_the_factor() {
    let estimate = Estimate::of_variances(1.0, 4.0, 16.0);
    let rated = estimate.rated(Penalty::default()).unwrap();
    let want = Rated { mean: 1.0, variance: Some(4.0), std: Some(2.0), contraction: Some(0.75), score: -1.0 };
    assert_eq!(rated, want);
    let message = estimate.rated(Penalty::variance(1e308)).unwrap_err().to_string();
    assert!(message.starts_with("penalty.k: out of range"), "{message}");
}

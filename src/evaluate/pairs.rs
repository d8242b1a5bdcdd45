//! Accuracy, likelihood, Brier score and calibration on pairs.
//!
//! A pair brings one number, the logit of the probability that the preferred answer wins: the difference of the rewards
//! for the point estimate, and [`mackay`] of that difference and its variance for the posterior predictive.

use super::{
    Z,
    bootstrap::bootstrap,
    calibration::{Sides, ece, ece_of},
    mean,
};
use crate::train::loss::{sigmoid, softplus};
use serde::Serialize;
use std::f64::consts::PI;

const RESAMPLES: usize = 1000;
const SEED: u64 = 0;

/// Measures over pairs, p = sigma(logit) being the probability of what was preferred.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PairMeasures {
    pub pairs: usize,
    /// Share of pairs whose chosen answer scores higher; a tie counts one half.
    pub accuracy: f64,
    /// 95 % interval of the accuracy (Wilson, 1927).
    pub interval: [f64; 2],
    /// Mean of -log p, in nats.
    pub nll: f64,
    /// Mean of (1 - p)^2 (Brier, 1950, by one of the two answers). The flipped pair adds the same, (0 - (1 - p))^2: the
    /// mean over both is this.
    pub brier: f64,
    /// Expected calibration error over 20 equal bins, each pair counted with its flipped self.
    pub ece: f64,
    pub intervals: Intervals,
}

/// 95 % percentile intervals over 1000 resamples of the pairs.
///
/// That of the calibration error lies too high: a resample repeats pairs, so that its bins are rougher than those of the
/// sample, and errors of either sign add up.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Intervals {
    pub nll: [f64; 2],
    pub brier: [f64; 2],
    pub ece: [f64; 2],
}

impl PairMeasures {
    /// From the logits of the pairs; `None` if there are none.
    pub fn of(logits: &[f64]) -> Option<Self> {
        if logits.is_empty() {
            return None;
        }
        let each = |f: fn(f64) -> f64| logits.iter().map(|logit| f(*logit)).collect::<Vec<_>>();
        let (losses, squares) = (each(|logit| softplus(-logit)), each(|logit| sigmoid(-logit).powi(2)));
        let (accuracy, pairs) = (mean(&each(right)), logits.len());
        Some(Self {
            pairs,
            accuracy,
            interval: wilson(accuracy, pairs as f64),
            nll: mean(&losses),
            brier: mean(&squares),
            ece: ece(logits),
            intervals: Intervals { nll: of_mean(&losses), brier: of_mean(&squares), ece: of_ece(logits) },
        })
    }
}

/// 1 where the chosen answer scores higher, 0 where the other does, and one half for a tie.
pub fn right(logit: f64) -> f64 {
    if logit > 0.0 {
        1.0
    } else if logit == 0.0 {
        0.5
    } else {
        0.0
    }
}

/// Logit of the probability of a preference whose difference of rewards is normal with mean `mu` and variance `v`:
/// E sigma(delta) = sigma(mu / sqrt(1 + pi v / 8)) nearly (MacKay, 1992; Bishop, 2006, eqs. 4.153 and 4.154).
pub fn mackay(mu: f64, v: f64) -> f64 {
    mu / (1.0 + PI * v / 8.0).sqrt()
}

/// 95 % interval of a share of `count` independent items (Wilson, 1927).
pub(super) fn wilson(share: f64, count: f64) -> [f64; 2] {
    let scale = 1.0 + Z * Z / count;
    let centre = (share + Z * Z / (2.0 * count)) / scale;
    let half = Z * (share * (1.0 - share) / count + Z * Z / (4.0 * count * count)).sqrt() / scale;
    [centre - half, centre + half]
}

fn of_mean(values: &[f64]) -> [f64; 2] {
    let count = values.len();
    bootstrap(count, RESAMPLES, SEED, |indices| {
        indices.iter().map(|i| values[*i]).sum::<f64>() / count as f64
    })
}

fn of_ece(logits: &[f64]) -> [f64; 2] {
    let pairs: Vec<Sides> = logits.iter().map(|logit| Sides::of(*logit)).collect();
    bootstrap(pairs.len(), RESAMPLES, SEED, |indices| ece_of(indices.iter().map(|i| pairs[*i])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::fixture::{assert_close, read};
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Fixture {
        logits: Vec<f64>,
        accuracy: f64,
        wilson: [f64; 2],
        nll: f64,
        brier: f64,
        intervals: Ends,
        predictive: Vec<Predictive>,
    }

    #[derive(Deserialize)]
    struct Ends {
        nll: [f64; 2],
        brier: [f64; 2],
        ece: [f64; 2],
    }

    #[derive(Deserialize)]
    struct Predictive {
        mu: f64,
        v: f64,
        probability: f64,
    }

    #[test]
    fn measures_of_a_few_pairs_by_hand() {
        let m = PairMeasures::of(&[2.0, -1.0, 0.0, 3.0]).unwrap();
        assert_eq!((m.pairs, m.accuracy), (4, 0.625));
        let want = (softplus(-2.0) + softplus(1.0) + 2f64.ln() + softplus(-3.0)) / 4.0;
        assert!((m.nll - want).abs() < 1e-12);
        assert!(m.interval[0] < 0.625 && m.interval[1] > 0.625);
        assert_eq!(PairMeasures::of(&[]), None);
    }

    #[test]
    fn measures_equal_scikit_learn_and_scipy() {
        let want: Fixture = read("pairs");
        let got = PairMeasures::of(&want.logits).unwrap();
        assert_close(&[got.accuracy, got.nll, got.brier], &[want.accuracy, want.nll, want.brier], 1e-12);
        assert_close(&got.interval, &want.wilson, 1e-12);
    }

    #[test]
    fn intervals_are_those_of_scipy_up_to_the_draw() {
        let Fixture { logits, intervals: want, .. } = read("pairs");
        let got = PairMeasures::of(&logits).unwrap().intervals;
        for (got, want) in [(got.nll, want.nll), (got.brier, want.brier), (got.ece, want.ece)] {
            assert_close(&got, &want, 0.1 * (want[1] - want[0]));
        }
    }

    #[test]
    fn wilson_equals_the_published_example() {
        // 81 of 263 (Newcombe, 1998, table I).
        let [low, high] = wilson(81.0 / 263.0, 263.0);
        assert!((low - 0.2553).abs() < 1e-4 && (high - 0.3662).abs() < 1e-4);
    }

    #[test]
    fn mackay_is_near_the_integral() {
        let Fixture { predictive, .. } = read("pairs");
        for Predictive { mu, v, probability } in predictive {
            assert!((sigmoid(mackay(mu, v)) - probability).abs() < 0.013, "{mu} {v}");
        }
        assert_eq!(mackay(-1.3, 0.0), -1.3);
    }

    #[test]
    fn a_model_that_knows_nothing_is_calibrated() {
        let m = PairMeasures::of(&[0.0; 10]).unwrap();
        assert_eq!((m.ece, m.brier, m.intervals.brier), (0.0, 0.25, [0.25, 0.25]));
    }
}

//! How good a reward model is on pairs: accuracy, likelihood and calibration.

use crate::train::loss::{sigmoid, softplus};
use serde::Serialize;

/// Bins of the calibration error.
const BINS: usize = 20;

/// Measures over pairs, from the differences of their rewards.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PairMeasures {
    pub pairs: usize,
    /// Share of pairs whose chosen answer scores higher; a tie counts one half.
    pub accuracy: f64,
    /// 95 % interval of the accuracy (Wilson, 1927).
    pub interval: [f64; 2],
    /// Mean of -log sigma(delta), in nats.
    pub nll: f64,
    /// Expected calibration error over 20 equal bins, each pair counted with its flipped self.
    pub ece: f64,
}

impl PairMeasures {
    /// From the differences f(chosen) - f(rejected); `None` if there are none.
    pub fn of(differences: &[f64]) -> Option<Self> {
        let pairs = differences.len();
        if pairs == 0 {
            return None;
        }
        let count = pairs as f64;
        let right = |d: &f64| {
            if *d > 0.0 {
                1.0
            } else if *d == 0.0 {
                0.5
            } else {
                0.0
            }
        };
        let accuracy = differences.iter().map(right).sum::<f64>() / count;
        let nll = differences.iter().map(|d| softplus(-d)).sum::<f64>() / count;
        Some(Self { pairs, accuracy, interval: wilson(accuracy, count), nll, ece: ece(differences) })
    }
}

fn wilson(share: f64, count: f64) -> [f64; 2] {
    const Z: f64 = 1.959_963_984_540_054;
    let scale = 1.0 + Z * Z / count;
    let centre = (share + Z * Z / (2.0 * count)) / scale;
    let half = Z * (share * (1.0 - share) / count + Z * Z / (4.0 * count * count)).sqrt() / scale;
    [centre - half, centre + half]
}

fn ece(differences: &[f64]) -> f64 {
    let mut bins = [(0.0, 0.0); BINS];
    for difference in differences {
        for (delta, label) in [(*difference, 1.0), (-difference, 0.0)] {
            let p = sigmoid(delta);
            let bin = &mut bins[((p * BINS as f64) as usize).min(BINS - 1)];
            bin.0 += p;
            bin.1 += label;
        }
    }
    bins.iter().map(|(p, label)| (p - label).abs()).sum::<f64>() / (2 * differences.len()) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn wilson_equals_the_published_example() {
        // 81 of 263 (Newcombe, 1998, table I).
        let [low, high] = wilson(81.0 / 263.0, 263.0);
        assert!((low - 0.2553).abs() < 1e-4 && (high - 0.3662).abs() < 1e-4);
    }

    #[test]
    fn a_model_that_knows_nothing_is_calibrated() {
        assert_eq!(PairMeasures::of(&[0.0; 10]).unwrap().ece, 0.0);
    }
}

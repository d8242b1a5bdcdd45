//! The loss of a pair (Bradley and Terry, 1952): -log sigma(delta), delta = f(chosen) - f(rejected) - margin.
//!
//! With centring, c (f(chosen) + f(rejected))^2 is added (Eisenstein et al., 2023): pairs alone leave the rewards'
//! common level open.

use super::Example;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Loss {
    /// c, not negative.
    pub centring: f64,
}

impl Loss {
    /// Sum of the pairs' losses divided by `pairs`, and its derivative for each reward (chosen, rejected, chosen, …).
    pub fn evaluate(&self, examples: &[&Example], rewards: &[f64], pairs: usize) -> (f64, Vec<f64>) {
        let (mut loss, mut cotangents) = (0.0, Vec::with_capacity(rewards.len()));
        for (example, reward) in examples.iter().zip(rewards.chunks_exact(2)) {
            let (chosen, rejected) = (reward[0], reward[1]);
            let delta = chosen - rejected - example.margin;
            let level = chosen + rejected;
            loss += example.weight * softplus(-delta) + self.centring * level * level;
            let slope = -example.weight * sigmoid(-delta);
            let pull = 2.0 * self.centring * level;
            cotangents.extend([slope + pull, pull - slope].map(|c| c / pairs as f64));
        }
        (loss / pairs as f64, cotangents)
    }
}

/// log(1 + e^x), finite wherever `x` is.
pub fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// 1 / (1 + e^-x).
pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::TokenSeq;

    #[test]
    fn stays_finite_where_saturated() {
        assert_eq!(softplus(-100.0), (-100f64).exp());
        assert_eq!(softplus(100.0), 100.0);
        assert!(softplus(1e4).is_finite() && sigmoid(-1e4) == 0.0);
    }

    #[test]
    fn derivative_equals_finite_differences() {
        let sequence = TokenSeq { ids: vec![0], pooled: 0, truncated: false };
        let example = Example { chosen: sequence.clone(), rejected: sequence, margin: 0.3, weight: 1.7 };
        let (loss, rewards, step) = (Loss { centring: 0.05 }, [0.4, -1.1], 1e-6);
        let value = |r: [f64; 2]| loss.evaluate(&[&example], &r, 3).0;
        let (_, got) = loss.evaluate(&[&example], &rewards, 3);
        for i in 0..2 {
            let moved = |by: f64| {
                let mut r = rewards;
                r[i] += by;
                value(r)
            };
            assert!((got[i] - (moved(step) - moved(-step)) / (2.0 * step)).abs() < 1e-8);
        }
    }
}

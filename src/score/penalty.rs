//! The conservative score: the posterior mean less a penalty for uncertainty.
//!
//! ```text
//! none           f
//! std            f - k max(0, sqrt(v) - t)
//! variance       f - k max(0, v - t)
//! contraction    f - k tau max(0, (1 - c) - t)
//! shrink         b + c (f - b)
//! kl             f - v / (2 beta)        closed form for Gaussian rewards under KL regularisation (arXiv 2606.09073)
//! ```
//!
//! | symbol | identifier | meaning |
//! |--------|------------|---------|
//! | f | `mean` | posterior mean of the reward |
//! | v | `variance` | posterior variance of the reward |
//! | c | `contraction` | 1 - v / v0, the share of the prior variance v0 that the preference pairs removed |
//! | k | `k` | strength of the penalty, at least 0 |
//! | t | `threshold` | uncertainty below which nothing is subtracted: a held-out quantile, or 0 |
//! | tau | `spread` | standard deviation of rewards within prompts |
//! | b | `baseline` | a pessimistic reward, which an answer without any contraction gets |
//!
//! Without a variance, and without a contraction where the rule reads one, the score is the mean.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Estimate;

/// The kind of a penalty.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema, ValueEnum)]
#[serde(rename_all = "lowercase")]
#[schema(as = PenaltyKind)]
pub enum Kind {
    /// k standard deviations.
    #[default]
    Std,
    /// k variances.
    Variance,
    /// k times the spread of rewards within prompts, times the share of the prior variance that is left.
    Contraction,
    /// The reward is shrunk towards a pessimistic baseline by the share of the prior variance that is left.
    Shrink,
    /// The variance over twice `beta`: optimal for a Gaussian posterior under KL regularisation of strength `beta`.
    Kl,
    /// No penalty: the score is the mean.
    None,
}

/// A penalty with all its numbers, on the scale of the rewards that it is applied to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Penalty {
    /// The score is the mean.
    None,
    /// f - k max(0, sqrt(v) - threshold).
    Std { k: f64, threshold: f64 },
    /// f - k max(0, v - threshold).
    Variance { k: f64, threshold: f64 },
    /// f - k spread max(0, (1 - c) - threshold).
    Contraction { k: f64, spread: f64, threshold: f64 },
    /// baseline + c (f - baseline).
    Shrink { baseline: f64 },
    /// f - v / (2 beta).
    Kl { beta: f64 },
}

impl Penalty {
    /// Subtracts k standard deviations.
    pub fn std(k: f64) -> Self {
        Self::Std { k, threshold: 0.0 }
    }

    /// Subtracts k variances.
    pub fn variance(k: f64) -> Self {
        Self::Variance { k, threshold: 0.0 }
    }

    /// Returns the kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::None => Kind::None,
            Self::Std { .. } => Kind::Std,
            Self::Variance { .. } => Kind::Variance,
            Self::Contraction { .. } => Kind::Contraction,
            Self::Shrink { .. } => Kind::Shrink,
            Self::Kl { .. } => Kind::Kl,
        }
    }

    /// Returns whether the score depends on the variance or the contraction.
    pub fn needs_variance(&self) -> bool {
        match *self {
            Self::None => false,
            Self::Std { k, .. } | Self::Variance { k, .. } => k > 0.0,
            Self::Contraction { k, spread, .. } => k > 0.0 && spread > 0.0,
            Self::Shrink { .. } | Self::Kl { .. } => true,
        }
    }

    /// Returns the conservative score.
    pub fn score(&self, estimate: &Estimate) -> f64 {
        let Estimate { mean, variance, contraction } = *estimate;
        match (*self, variance, contraction) {
            (Self::Shrink { baseline }, _, Some(c)) => baseline + c * (mean - baseline),
            (Self::Contraction { k, spread, threshold }, _, Some(c)) => {
                mean - k * spread * ((1.0 - c) - threshold).max(0.0)
            }
            (_, Some(v), _) => self.of_variance(mean, v).unwrap_or(mean),
            (_, None, _) => mean,
        }
    }

    /// Returns an upper bound of the score of a reward whose variance is at least `variance`, and whose contraction is not known.
    /// It never rises as the variance grows, in floating point too.
    pub fn bound(&self, mean: f64, variance: f64) -> f64 {
        match *self {
            // c (f - b) is at most f - b above the baseline, and at most 0 below it; without a contraction the score is the mean.
            Self::Shrink { baseline } => (baseline + (mean - baseline).max(0.0)).max(mean),
            _ => self.of_variance(mean, variance).unwrap_or(mean),
        }
    }

    /// The score of a rule that reads the variance alone.
    fn of_variance(&self, mean: f64, variance: f64) -> Option<f64> {
        match *self {
            Self::Std { k, threshold } => Some(mean - k * (variance.sqrt() - threshold).max(0.0)),
            Self::Variance { k, threshold } => Some(mean - k * (variance - threshold).max(0.0)),
            Self::Kl { beta } => Some(mean - variance / (2.0 * beta)),
            Self::None | Self::Contraction { .. } | Self::Shrink { .. } => None,
        }
    }
}

impl Default for Penalty {
    fn default() -> Self {
        Self::std(1.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn estimate(mean: f64, variance: Option<f64>, contraction: Option<f64>) -> Estimate {
        Estimate { mean, variance, contraction }
    }

    #[test]
    fn each_kind_is_its_formula() {
        let known = estimate(10.0, Some(4.0), Some(0.75));
        let (no_prior, no_variance) = (estimate(10.0, Some(0.0), None), estimate(10.0, None, None));
        let table = [
            (Penalty::std(1.0), 8.0),
            (Penalty::Std { k: 2.0, threshold: 1.5 }, 9.0),
            (Penalty::Std { k: 2.0, threshold: 2.5 }, 10.0),
            (Penalty::variance(0.5), 8.0),
            (Penalty::Variance { k: 0.5, threshold: 3.0 }, 9.5),
            (Penalty::Contraction { k: 2.0, spread: 4.0, threshold: 0.0 }, 8.0),
            (Penalty::Contraction { k: 2.0, spread: 4.0, threshold: 0.125 }, 9.0),
            (Penalty::Shrink { baseline: 2.0 }, 8.0),
            (Penalty::Kl { beta: 0.5 }, 6.0),
            (Penalty::None, 10.0),
        ];
        for (penalty, want) in table {
            assert_eq!(penalty.score(&known), want, "{penalty:?}");
            assert_eq!(penalty.score(&no_variance), 10.0, "{penalty:?}");
            assert_eq!(penalty.score(&no_prior), 10.0, "{penalty:?}");
        }
        assert_eq!(Penalty::default(), Penalty::std(1.0));
    }

    pub(crate) fn penalty() -> impl Strategy<Value = Penalty> {
        (0..6usize, 0.0..1e3, 0.0..3.0, -50.0..50.0).prop_map(|(kind, k, threshold, baseline)| match kind {
            0 => Penalty::None,
            1 => Penalty::Std { k, threshold },
            2 => Penalty::Variance { k, threshold },
            3 => Penalty::Contraction { k, spread: 0.7, threshold: threshold / 4.0 },
            4 => Penalty::Shrink { baseline },
            _ => Penalty::Kl { beta: k + 1e-3 },
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn the_bound_falls_with_the_variance_and_is_above_every_score(
            penalty in penalty(), mean in -1e3..1e3, part in 0.0..1e3, rest in 0.0..1e3,
            contraction in prop::option::of(0.0..=1.0),
        ) {
            let all = part + rest;
            prop_assert!(penalty.bound(mean, part) >= penalty.bound(mean, all));
            prop_assert!(penalty.bound(mean, all) >= penalty.score(&estimate(mean, Some(all), contraction)));
        }

        #[test]
        fn nothing_but_shrinkage_raises_a_score(
            penalty in penalty(), mean in -1e3..1e3, variance in 0.0..1e3, contraction in 0.0..=1.0,
        ) {
            let known = estimate(mean, Some(variance), Some(contraction));
            let most = if let Penalty::Shrink { baseline } = penalty { mean.max(baseline) } else { mean };
            prop_assert!(penalty.score(&known) <= most + 1e-9);
            if !penalty.needs_variance() {
                prop_assert_eq!(penalty.score(&known), mean);
            }
        }
    }
}

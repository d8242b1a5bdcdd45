//! What uncertainty costs: the conservative score is the mean less a penalty.
//!
//! ```text
//! std         f - k sqrt(v)
//! variance    f - k v         exact for KL-regularised choice under Gaussian rewards, k = 1 / (2 beta)
//! none        f
//! ```
//!
//! f is the posterior mean, v its variance, and k >= 0 a finite number. Without a variance nothing is
//! subtracted.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Error, Result};

/// What is subtracted from the mean, up to the factor `k`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, ValueEnum)]
#[serde(rename_all = "lowercase")]
#[schema(as = PenaltyKind)]
pub enum Kind {
    /// The standard deviation.
    #[default]
    Std,
    /// The variance.
    Variance,
    /// Nothing: the score is the mean.
    None,
}

/// A rule that turns mean and variance into the conservative score; one standard deviation by default.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Penalty {
    kind: Kind,
    k: f64,
}

impl Penalty {
    /// The factor where none is given.
    pub const DEFAULT_K: f64 = 1.0;

    /// The score is the mean.
    pub const NONE: Self = Self { kind: Kind::None, k: 0.0 };

    /// Makes a penalty; `k` must be a finite number of at least 0.
    pub fn new(kind: Kind, k: f64) -> Result<Self> {
        if !k.is_finite() || k < 0.0 {
            return Err(Error::field("penalty.k", format!("must be a finite number of at least 0: {k}")));
        }
        Ok(Self { kind, k })
    }

    /// Returns what is subtracted.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns how much of it.
    pub fn k(&self) -> f64 {
        self.k
    }

    /// Returns whether the score depends on the variance.
    pub fn needs_variance(&self) -> bool {
        self.kind != Kind::None && self.k > 0.0
    }

    /// Returns the conservative score; the mean where there is no variance.
    pub fn score(&self, mean: f64, variance: Option<f64>) -> f64 {
        match (self.kind, variance) {
            (Kind::None, _) | (_, None) => mean,
            (Kind::Std, Some(variance)) => mean - self.k * variance.sqrt(),
            (Kind::Variance, Some(variance)) => mean - self.k * variance,
        }
    }
}

impl Default for Penalty {
    fn default() -> Self {
        Self { kind: Kind::default(), k: Self::DEFAULT_K }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_score_is_the_mean_less_the_penalty() {
        let table = [
            (Kind::Std, 1.0, Some(4.0), 8.0),
            (Kind::Std, 0.5, Some(4.0), 9.0),
            (Kind::Variance, 0.5, Some(4.0), 8.0),
            (Kind::None, 3.0, Some(4.0), 10.0),
            (Kind::Std, 1.0, None, 10.0),
            (Kind::Variance, 1.0, None, 10.0),
        ];
        for (kind, k, variance, want) in table {
            assert_eq!(
                Penalty::new(kind, k).unwrap().score(10.0, variance),
                want,
                "{kind:?} {k} {variance:?}"
            );
        }
        assert_eq!(Penalty::default(), Penalty::new(Kind::Std, 1.0).unwrap());
    }

    #[test]
    fn only_finite_factors_from_zero_are_taken() {
        for k in [-1.0, -f64::MIN_POSITIVE, f64::NAN, f64::INFINITY] {
            let message = Penalty::new(Kind::Std, k).unwrap_err().to_string();
            assert!(message.starts_with("penalty.k: must be a finite number"), "{message}");
        }
    }

    proptest! {
        #[test]
        fn no_penalty_raises_a_score_and_none_needs_a_variance(
            mean in -1e6..1e6, variance in 0.0..1e6, k in 0.0..1e3, kind in 0..3usize,
        ) {
            let penalty = Penalty::new([Kind::Std, Kind::Variance, Kind::None][kind], k).unwrap();
            prop_assert!(penalty.score(mean, Some(variance)) <= mean);
            if !penalty.needs_variance() {
                prop_assert_eq!(penalty.score(mean, Some(variance)), mean);
            }
        }
    }
}

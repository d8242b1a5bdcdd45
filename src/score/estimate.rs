//! The posterior of one reward: mean, variance and contraction, and the conservative score that follows.

use super::{Want, penalty::Penalty};
use crate::{Error, Result};

/// The posterior of one reward.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Posterior mean of the reward.
    pub mean: f64,
    /// `None` where it was not asked for or the model has no posterior.
    pub variance: Option<f64>,
    /// 1 - v / v0 in [0, 1], the share of the prior variance that the preference pairs removed (posterior contraction; Schad,
    /// Betancourt and Vasishth, 2021); `None` where there is no variance, and where the prior variance is 0.
    pub contraction: Option<f64>,
}

/// An estimate with its conservative score; every number is finite.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rated {
    /// Posterior mean of the reward.
    pub mean: f64,
    /// Posterior variance, where it was computed.
    pub variance: Option<f64>,
    /// Square root of the variance.
    pub std: Option<f64>,
    /// Share of the prior variance that the preference pairs removed.
    pub contraction: Option<f64>,
    /// The mean less the penalty.
    pub score: f64,
}

/// What one posterior says of one reward.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moments {
    /// Posterior mean of the reward.
    pub mean: f64,
    /// `None` where they were not asked for or the model has no posterior.
    pub variances: Option<Variances>,
}

/// The variance of a reward after and before the preference pairs were seen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Variances {
    /// v = J Sigma J^T.
    pub posterior: f64,
    /// v0 = J Lambda^-1 J^T.
    pub prior: f64,
}

impl Moments {
    /// The estimate of a model that is alone.
    pub fn estimate(self) -> Estimate {
        match self.variances {
            None => Estimate::of_mean(self.mean),
            Some(Variances { posterior, prior }) => Estimate::of_variances(self.mean, posterior, prior),
        }
    }
}

/// Returns 1 - v / v0, in [0, 1] whatever the rounding; `None` where v0 is 0.
pub fn contraction(variance: f64, prior_variance: f64) -> Option<f64> {
    (prior_variance > 0.0).then(|| (1.0 - variance / prior_variance).clamp(0.0, 1.0))
}

impl Estimate {
    /// A mean without a variance.
    pub fn of_mean(mean: f64) -> Self {
        Self { mean, variance: None, contraction: None }
    }

    /// A mean with its variance, and the variance before any pair was seen.
    pub fn of_variances(mean: f64, variance: f64, prior_variance: f64) -> Self {
        Self { mean, variance: Some(variance), contraction: contraction(variance, prior_variance) }
    }

    /// Refuses an estimate that is not a number, or whose variance is negative, or missing where it is wanted.
    pub fn finite(self, want: Want) -> Result<Self> {
        if !self.mean.is_finite() {
            return Err(Error::NotFinite(format!("mean: {}", self.mean)));
        }
        match (self.variance, want) {
            (None, Want::MeanAndVariance) => Err(Error::NotFinite("variance: missing".into())),
            (Some(variance), _) if !variance.is_finite() || variance < 0.0 => {
                Err(Error::NotFinite(format!("variance: {variance}")))
            }
            _ => Ok(self),
        }
    }

    /// Applies a penalty to a finite estimate; numbers that leave no finite score are refused.
    pub fn rated(self, penalty: Penalty) -> Result<Rated> {
        let Self { mean, variance, contraction } = self;
        let score = penalty.score(&self);
        if !score.is_finite() {
            let field = match penalty {
                Penalty::Shrink { .. } => "penalty.baseline",
                Penalty::Kl { .. } => "penalty.beta",
                _ => "penalty.k",
            };
            return Err(Error::field(field, "out of range: a score is not a finite number"));
        }
        Ok(Rated { mean, variance, std: variance.map(f64::sqrt), contraction, score })
    }
}

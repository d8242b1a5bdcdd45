//! `penalty` and `variance` of a request, settled against what the model can do.

use super::object::Object;
use crate::{
    Error, Result,
    engine::registry::Served,
    score::{
        Estimate, Rated, Want,
        penalty::{Kind, Penalty},
        rule::PenaltyRule,
    },
};

/// The penalty and the computation that a request asks for, checked against the model.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Applied to every estimate.
    pub penalty: Penalty,
    /// The same as replies say it.
    pub rule: PenaltyRule,
    pub want: Want,
}

impl Plan {
    /// Settles the penalty and whether variances are computed; what the model cannot do is an error only where it was asked for.
    /// Without a penalty the model's stored rule applies, or else one standard deviation.
    pub fn new(
        penalty: Option<Object<PenaltyRule>>,
        variance: Option<bool>,
        served: &Served,
    ) -> Result<Self> {
        let given = penalty.map(|Object(given)| given.resolve(&served.calibration)).transpose()?;
        let needed = given.is_some_and(|(penalty, _)| penalty.needs_variance());
        let (penalty, rule) = given.unwrap_or_else(|| served.default_penalty());
        // A stored rule may be the mean: only a request that says `none` goes without the variance.
        let default = served.has_posterior && given.is_none_or(|(penalty, _)| penalty.kind() != Kind::None);
        let variance = variance.unwrap_or(default);
        if needed && !served.has_posterior {
            let message = "the model has no posterior, so no variance (hint: leave it out, or say `none`)";
            return Err(Error::field("penalty", message));
        }
        if variance && !served.has_posterior {
            return Err(Error::field("variance", "the model has no posterior, so no variance"));
        }
        if needed && !variance {
            let message = "the penalty needs it (hint: leave `penalty` out, or say `none`)";
            return Err(Error::field("variance", message));
        }
        Ok(match variance {
            true => Self { penalty, rule, want: Want::MeanAndVariance },
            // Without a variance every score is the mean, and the reply says so.
            false => Self { penalty: Penalty::None, rule: PenaltyRule::of(Kind::None), want: Want::Mean },
        })
    }

    /// Returns whether the rule reads the uncertainty of differences to the other candidates.
    pub fn is_relative(&self) -> bool {
        self.rule.relative && self.penalty.needs_variance()
    }

    /// Refuses a penalty that is relative to other candidates.
    pub fn alone(self) -> Result<Self> {
        match self.is_relative() {
            true => {
                let message = "only among candidates that are chosen from (hint: use `/v1/best-of-n`)";
                Err(Error::field("penalty.relative", message))
            }
            false => Ok(self),
        }
    }

    /// Applies the penalty.
    pub fn rate(&self, estimate: Estimate) -> Result<Rated> {
        estimate.rated(self.penalty)
    }
}

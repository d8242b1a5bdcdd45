//! `penalty` and `variance` of a request, settled against what the model can do.

use serde::Deserialize;
use utoipa::ToSchema;

use super::object::Object;
use crate::{
    Error, Result,
    engine::registry::Served,
    score::{
        Want,
        penalty::{Kind, Penalty},
    },
};

/// What is subtracted from the mean.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PenaltyRequest {
    /// What of it: the standard deviation, the variance, or nothing.
    pub kind: Kind,
    /// How much of it.
    #[serde(default = "default_k")]
    #[schema(minimum = 0.0, default = 1.0)]
    pub k: f64,
    /// Whether that of the difference to the mean of all candidates of the prompt is meant: what they share is not held against
    /// them. Only where candidates are chosen from (`/v1/best-of-n`), and every variance is computed.
    #[serde(default)]
    pub relative: bool,
}

fn default_k() -> f64 {
    Penalty::DEFAULT_K
}

/// What a request wants, as far as the model can do it.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub penalty: Penalty,
    pub relative: bool,
    pub want: Want,
}

impl Plan {
    /// Settles the penalty and whether variances are computed; what the model cannot do is an error only
    /// where it was asked for.
    pub fn new(
        penalty: Option<Object<PenaltyRequest>>,
        variance: Option<bool>,
        served: &Served,
    ) -> Result<Self> {
        let given = penalty.map(|Object(given)| Penalty::new(given.kind, given.k)).transpose()?;
        let relative = penalty.is_some_and(|Object(given)| given.relative);
        let default = if served.has_posterior { Penalty::default() } else { Penalty::NONE };
        let penalty = given.unwrap_or(default);
        let needed = given.is_some_and(|given| given.needs_variance());
        let default = served.has_posterior && penalty.kind() != Kind::None;
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
        let want = if variance { Want::MeanAndVariance } else { Want::Mean };
        Ok(Self { penalty, relative: relative && penalty.needs_variance(), want })
    }

    /// Refuses a penalty that is relative to other candidates.
    pub fn alone(self) -> Result<Self> {
        match self.relative {
            true => {
                let message = "only among candidates that are chosen from (hint: use `/v1/best-of-n`)";
                Err(Error::field("penalty.relative", message))
            }
            false => Ok(self),
        }
    }
}

//! Flags that choose the penalty of conservative scores.

use crate::{
    Error, Result,
    score::{
        penalty::{Kind, Penalty},
        rule::{Calibration, PenaltyRule},
    },
};

/// The penalty of conservative scores; without `--penalty`, the adapter's stored rule, else one standard deviation.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Penalty")]
pub struct PenaltyArgs {
    /// Penalty that is subtracted from the mean [default: the rule stored in the adapter's posterior, else std with k = 1]
    #[arg(long, value_enum, env = "REWARDEN_PENALTY")]
    penalty: Option<Kind>,
    /// Strength of the kinds std, variance and contraction [default: 1; for contraction, the adapter's own]; without --penalty, of std
    #[arg(long, env = "REWARDEN_K")]
    k: Option<f64>,
    /// Reward towards which the kind shrink goes where nothing is known [default: the adapter's own]
    #[arg(long, allow_negative_numbers = true, requires = "penalty", env = "REWARDEN_BASELINE")]
    baseline: Option<f64>,
    /// Strength of the KL regularisation that the kind kl is for
    #[arg(long, requires = "penalty", env = "REWARDEN_BETA")]
    beta: Option<f64>,
    /// Subtracts only the part above this percentile of the held-out uncertainties; for std, variance and contraction [default: all]
    #[arg(long, value_name = "0..1", requires = "penalty", env = "REWARDEN_ABOVE")]
    above: Option<f64>,
}

impl PenaltyArgs {
    /// The rule that the flags name, if they do; a strength alone is that of the kind std.
    fn given(&self) -> Option<PenaltyRule> {
        let Self { penalty, k, baseline, beta, above } = *self;
        let kind = penalty.or(k.map(|_| Kind::Std))?;
        Some(PenaltyRule { kind, k, baseline, beta, above, relative: false })
    }

    /// Refuses numbers out of range, before a model is loaded.
    pub fn check(&self) -> Result<()> {
        self.given().map_or(Ok(()), |rule| rule.check().map_err(named))
    }

    /// Resolves the flags with a model's stored numbers, and says what they were resolved to; the error names the flag.
    pub fn resolve(&self, stored: &Calibration) -> Result<(Penalty, PenaltyRule)> {
        let rule = self.given().or(stored.rule).unwrap_or(PenaltyRule::of(Kind::Std));
        rule.resolve(stored).map_err(named)
    }
}

/// An error that names the flag in the place of the field.
fn named(error: Error) -> Error {
    match error {
        Error::Field { field, message } => {
            let flag = match field.strip_prefix("penalty.") {
                Some("kind") | None => "penalty",
                Some(name) => name,
            };
            Error::Usage(format!("--{flag}: {message}"))
        }
        error => error,
    }
}

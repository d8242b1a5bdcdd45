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
    /// Strength of the kinds std, variance and contraction [default: 1; for contraction, the adapter's own]
    #[arg(long, env = "REWARDEN_K")]
    k: Option<f64>,
    /// Reward towards which the kind shrink goes where nothing is known [default: the adapter's own]
    #[arg(long, allow_negative_numbers = true, requires = "penalty", env = "REWARDEN_BASELINE")]
    baseline: Option<f64>,
    /// Strength of the KL regularisation that the kind kl is for
    #[arg(long, requires = "penalty", env = "REWARDEN_BETA")]
    beta: Option<f64>,
    /// Percentile of the held-out uncertainties from which on std, variance and contraction subtract [default: subtract all]
    #[arg(long, value_name = "0..1", requires = "penalty", env = "REWARDEN_ABOVE")]
    above: Option<f64>,
}

impl PenaltyArgs {
    /// Resolves the flags with a model's stored numbers; the error names the flag.
    pub fn resolve(&self, stored: &Calibration) -> Result<Penalty> {
        let Self { penalty, k, baseline, beta, above } = *self;
        let rule = match (penalty, k, stored.rule) {
            (Some(kind), ..) => PenaltyRule { kind, k, baseline, beta, above, relative: false },
            // A strength alone is that of the default kind.
            (None, Some(_), _) | (None, None, None) => PenaltyRule { k, ..PenaltyRule::of(Kind::Std) },
            (None, None, Some(rule)) => rule,
        };
        rule.resolve(stored).map(|(penalty, _)| penalty).map_err(|error| match error {
            Error::Field { field, message } => {
                let flag = match field.strip_prefix("penalty.") {
                    Some("kind") | None => "penalty".into(),
                    Some(name) => name.replace('_', "-"),
                };
                Error::Usage(format!("--{flag}: {message}"))
            }
            error => error,
        })
    }
}

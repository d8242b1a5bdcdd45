//! `rewarden evaluate`: how good a reward model is, and its uncertainty.

use crate::{Error, Result};
use clap::Subcommand;
use serde::Serialize;

mod best_of_n;
mod cache;
mod fidelity;
mod pairs;
mod plots;

#[derive(Debug, Subcommand)]
pub enum Evaluate {
    /// Accuracy with its 95 % interval, NLL and calibration error on pairs, by source
    Pairs(pairs::Pairs),
    /// Whether choosing the best of n answers by a proxy reward ends where the gold reward falls, and which penalty on
    /// uncertainty prevents it
    BestOfN(best_of_n::BestOfN),
    /// How close each kind of posterior comes to the exact one, on a few pairs
    Fidelity(fidelity::Fidelity),
}

impl Evaluate {
    pub fn run(self) -> Result<()> {
        match self {
            Self::Pairs(pairs) => pairs.run(),
            Self::BestOfN(best_of_n) => best_of_n.run(),
            Self::Fidelity(fidelity) => fidelity.run(),
        }
    }
}

/// A report on standard output.
fn print(report: &impl Serialize) -> Result<()> {
    let json = serde_json::to_string_pretty(report).map_err(|e| Error::Internal(e.to_string()))?;
    super::output::write_stdout(&format!("{json}\n"))
}

//! `rewarden evaluate`: how good a reward model is, and its uncertainty.

use crate::{Error, Result};
use clap::Subcommand;
use serde::Serialize;

mod best_of_n;
mod cache;
mod curves;
mod family;
mod fidelity;
mod members;
mod ood;
mod pairs;
mod plots;
mod prior;
pub(super) mod selection;

#[derive(Debug, Subcommand)]
pub enum Evaluate {
    /// How good the rewards and their posterior are on pairs, by source
    ///
    /// Accuracy, NLL, Brier score and calibration error, with 95 % intervals, of the point estimate and of the posterior
    /// predictive (MacKay's approximation); reliability diagrams; and how well an uncertainty tells wrong pairs from right ones:
    /// the areas under the risk-coverage curves, and the AUROC, of the standard deviation of a pair's difference and of either
    /// probability. Without a posterior, or with `--no-variance`, the point estimate's alone. JSON on standard output.
    Pairs(pairs::Pairs),
    /// How well the variance separates answers out of the distribution
    ///
    /// The AUROC of three variances, each with its 95 % interval: of an item's reward, of its difference to the good answer to
    /// the same prompt, and of its reward by the head alone. In the distribution are the rejected answers of `--data`, compared
    /// with the chosen ones. Out of it are the chosen answers shifted in every built-in way (words in another order, gibberish,
    /// repetition, an answer to another prompt, code, a very long answer), built-in code tasks and texts in other languages, which
    /// have no good answer to compare with, and the rejected and the chosen answers of every `--shifted` file. The chosen answers
    /// of `--data` are a control: nothing should tell them from the rejected ones. JSON on standard output.
    Ood(ood::Ood),
    /// Whether choosing the best of n answers by a proxy reward ends where the gold reward falls, and which penalty on
    /// uncertainty prevents it
    BestOfN(best_of_n::BestOfN),
    /// Which penalty on uncertainty picks the good answer, and at what cost
    ///
    /// Every kind of penalty with several strengths chooses among the answers to each prompt: the chosen answers of `--data` beside bad
    /// answers of 11 kinds (`--inject`), and pools with gold rewards or a good first response. Reported for each rule: how often the
    /// good answer is picked, the gold reward of the choice, accuracy on the pairs of `--data` themselves, and, by kind of bad answer, the
    /// AUROC of each uncertainty, with 95 % intervals. A rule is recommended by half of the prompts (by a hash of their text) and the
    /// six kinds of bad answers that may be trained on; the other half and the other five kinds judge it. JSON on standard output.
    Selection(selection::Selection),
    /// How close each kind of posterior comes to the exact one, on a few pairs
    Fidelity(fidelity::Fidelity),
    /// What each choice of prior precisions, likelihood and temperature does to held-out pairs
    ///
    /// Every choice is made on the same features, computed once: prior precisions by the evidence, for each kind of block, for each
    /// kind and group of layers, and one for all; A around zero instead of where it started; a share of wrong labels; and, by the
    /// NLL of the held-out pairs, a factor of the precisions, one precision for all, and a temperature, each chosen on one half of
    /// the held-out pairs and judged on the other. JSON on standard output.
    Prior(prior::PriorArgs),
}

impl Evaluate {
    pub fn run(self) -> Result<()> {
        match self {
            Self::Pairs(pairs) => pairs.run(),
            Self::Ood(ood) => ood.run(),
            Self::BestOfN(best_of_n) => best_of_n.run(),
            Self::Fidelity(fidelity) => fidelity.run(),
            Self::Prior(prior) => prior.run(),
            Self::Selection(selection) => selection.run(),
        }
    }
}

/// A report on standard output.
fn print(report: &impl Serialize) -> Result<()> {
    let json = serde_json::to_string_pretty(report).map_err(|e| Error::Internal(e.to_string()))?;
    super::output::write_stdout(&format!("{json}\n"))
}

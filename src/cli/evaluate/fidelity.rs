//! `rewarden evaluate fidelity`: each kind of posterior against the exact one.

use crate::{
    Error, Result,
    cli::{fit::prior_means, model::ModelArgs, pairs::PairArgs},
    data::read_pairs,
    fidelity::Comparison,
};
use std::path::PathBuf;

/// Flags of `rewarden evaluate fidelity`.
#[derive(Debug, clap::Args)]
pub struct Fidelity {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    pairs: PairArgs,
    /// Pairs whose rewards and differences are looked at
    #[arg(long, value_name = "FILE", env = "REWARDEN_TEST")]
    test: PathBuf,
    /// Pairs to fit to, drawn by `--seed`: the gradients of all are in memory, 4 bytes for each parameter and pair
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(2..), env = "REWARDEN_MAX_PAIRS")]
    max_pairs: u16,
    /// Test pairs, drawn by `--seed`: as many bytes twice
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(2..), env = "REWARDEN_MAX_TEST")]
    max_test: u16,
    /// Sketches that are tried, as FEATURESxGROUPS
    #[arg(long, value_delimiter = ',', default_value = "512x1,2048x1,4096x1,2048x8,2048x30", value_parser = sketch, env = "REWARDEN_SKETCHES")]
    sketches: Vec<(usize, usize)>,
    /// What the prior precisions by evidence are multiplied by
    #[arg(long, value_delimiter = ',', default_value = "1,0.1", env = "REWARDEN_FACTORS")]
    factors: Vec<f64>,
    /// Leaves out the Kronecker posteriors, which take passes of their own
    #[arg(long, env = "REWARDEN_NO_KRONECKER")]
    no_kronecker: bool,
    /// Seed of the draws
    #[arg(long, default_value_t = 0, env = "REWARDEN_SEED")]
    seed: u64,
}

fn sketch(text: &str) -> Result<(usize, usize), String> {
    let parsed = text.split_once('x').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    parsed
        .filter(|(features, groups)| (2..=8192).contains(features) && *groups > 0)
        .ok_or_else(|| format!("`{text}` is not of the form FEATURESxGROUPS, as 2048x8"))
}

impl Fidelity {
    pub fn run(self) -> Result<()> {
        if let Some(factor) = self.factors.iter().find(|factor| !(factor.is_finite() && **factor > 0.0)) {
            return Err(Error::Usage(format!("--factors: {factor} is not a positive number")));
        }
        let opened = self.model.open()?;
        let some = |pairs, count| self.pairs.drawn(pairs, &opened.base.reader(), count, self.seed);
        let pairs = some(self.pairs.read()?, self.max_pairs)?;
        let test = some(read_pairs(&self.test)?, self.max_test)?;
        let comparison = Comparison {
            model: &opened.model,
            pairs: &pairs,
            test: &test,
            mean: &prior_means(&opened)?,
            sketches: self.sketches.clone(),
            kronecker: !self.no_kronecker,
        };
        super::print(&serde_json::json!({
            "pairs": pairs.len(), "test": test.len(), "tables": comparison.run(&self.factors)?,
        }))
    }
}

//! `rewarden evaluate prior`: what each choice of prior, likelihood and temperature does to held-out pairs.

use crate::{
    Error, Result,
    choices::Choices,
    cli::{
        fit::prior_means,
        model::ModelArgs,
        pairs::PairArgs,
        progress::{Progress, Unit},
    },
    data::read_pairs,
    fit::Size,
};
use std::path::PathBuf;

/// Flags of `rewarden evaluate prior`.
#[derive(Debug, clap::Args)]
pub struct PriorArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    pairs: PairArgs,
    /// Pairs to judge by
    #[arg(long, value_name = "FILE", env = "REWARDEN_HELD_OUT")]
    held_out: PathBuf,
    /// Pairs to fit to, and pairs to judge by, at most, drawn by `--seed`
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u16).range(2..), env = "REWARDEN_MAX_PAIRS")]
    max_pairs: u16,
    /// Features of the sketch, beside those of the head
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u16).range(2..=8192), env = "REWARDEN_FEATURES")]
    features: u16,
    /// Groups of layers
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..), env = "REWARDEN_GROUPS")]
    groups: u16,
    /// Shares of wrong labels that are tried
    #[arg(long, value_delimiter = ',', default_value = "0.1,0.25", env = "REWARDEN_LABEL_NOISE")]
    label_noise: Vec<f64>,
    /// Seed of the draws and of the projection
    #[arg(long, default_value_t = 0, env = "REWARDEN_SEED")]
    seed: u64,
}

impl PriorArgs {
    pub fn run(self) -> Result<()> {
        if let Some(share) = self.label_noise.iter().find(|share| !(0.0..0.5).contains(*share)) {
            return Err(Error::Usage(format!("--label-noise: {share} is not below one half")));
        }
        let opened = self.model.open()?;
        let some = |pairs| self.pairs.drawn(pairs, &opened.base.reader(), self.max_pairs, self.seed);
        let choices = Choices {
            model: &opened.model,
            pairs: &some(self.pairs.read()?)?,
            held_out: &some(read_pairs(&self.held_out)?)?,
            mean: &prior_means(&opened)?,
            size: Size { features: self.features.into(), groups: self.groups.into(), seed: self.seed },
            label_noise: &self.label_noise,
        };
        let mut progress = Progress::new(Unit::Tokens, 0, choices.tokens());
        let rows = choices.run(&mut |tokens| progress.add(tokens))?;
        progress.finish();
        super::print(&serde_json::json!({
            "pairs": choices.pairs.len(), "held_out": choices.held_out.len(), "choices": rows,
        }))
    }
}

//! `rewarden calibrate`: measures held-out pairs for a posterior that is already fitted.

use std::path::PathBuf;

use super::{
    held_out::{Measured, RuleArgs, Scoring},
    model::ModelArgs,
    output::write_stdout,
    pairs::PairArgs,
};
use crate::{
    Error, Result,
    cli::evaluate::selection::Outcome,
    hub,
    posterior::{FitConfig, store},
};
use serde::Serialize;

/// The flags of `rewarden calibrate`.
#[derive(Debug, clap::Args)]
pub struct Calibrate {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    pairs: PairArgs,
    /// The posterior with the measures [default: replaces posterior.safetensors in the adapter's folder]
    #[arg(long, value_name = "FILE", env = "REWARDEN_OUTPUT")]
    output: Option<PathBuf>,
    /// Most tokens in one forward and backward
    #[arg(long, default_value_t = 2048, env = "REWARDEN_BATCH_TOKENS")]
    batch_tokens: usize,
    /// Seed of the injected answers
    #[arg(long, default_value_t = 0, env = "REWARDEN_SEED")]
    seed: u64,
    #[command(flatten)]
    rule: RuleArgs,
}

/// The posterior's settings with what was measured, and what each rule did.
#[derive(Debug, Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    config: &'a FitConfig,
    considered: &'a Option<Outcome>,
}

impl Calibrate {
    /// Measures the pairs, and writes the posterior with what was measured; its curvature and its prior stay as they are.
    pub fn run(self) -> Result<()> {
        let opened = self.model.open()?;
        let (Some(adapter), Some(folder)) = (&opened.adapter, &opened.folder) else {
            return Err(Error::Usage("--adapter: needed, a posterior is over an adapter's weights".into()));
        };
        let file = folder.join(store::FILE);
        if !file.exists() {
            return Err(Error::file(file, "not there (hint: run `fit`)"));
        }
        let output = self.output(&file)?;
        let mut posterior = opened.posterior(adapter, &file)?;
        let pairs = self.pairs.encode_some(self.pairs.read()?, &opened.base.reader())?;
        eprintln!("calibrating on {}", pairs.counts());
        let scoring = Scoring { budget: self.batch_tokens, seed: self.seed };
        let Measured { quantiles, held_out, considered } =
            self.rule.measure(&opened, &posterior, &pairs, &self.pairs, scoring)?;
        let mut config = posterior.config.take().unwrap_or_default();
        (config.quantiles, config.held_out) = (Some(quantiles), Some(held_out));
        let report = serde_json::to_string_pretty(&Report { config: &config, considered: &considered })
            .map_err(|e| Error::Usage(e.to_string()))?;
        posterior.config = Some(config);
        posterior.save(&output)?;
        write_stdout(&format!("{report}\n"))
    }

    fn output(&self, file: &std::path::Path) -> Result<PathBuf> {
        match &self.output {
            Some(output) => Ok(output.clone()),
            None if hub::repository(file).is_some() => Err(Error::Usage(
                "--output: needed with a model of the hub, else its cache were changed".into(),
            )),
            None if self.model.is_embedded() => Err(Error::Usage(
                "--output: needed without `--adapter`, else the embedded model's posterior were overwritten"
                    .into(),
            )),
            None => Ok(file.to_owned()),
        }
    }
}

//! `rewarden bench`: speed and memory of a model on this machine, and the token budget that follows.

use super::{
    model::{ModelArgs, Parts},
    output::write_stdout,
    scoring::{Compute, ScoringArgs},
};
use crate::{
    Error, Result,
    bench::{
        self, Plan, Subject,
        pools::{self, Pool},
        posterior::stand_in,
        rank,
    },
    model::{Keep, site::Projection},
    posterior::store,
    score::{Scorer, Sharing, Want},
};
use clap::builder::RangedU64ValueParser;
use std::path::{Path, PathBuf};

/// Rank of the update that a base without an adapter is measured with.
const RANK: usize = 8;

/// The flags of `rewarden bench`.
#[derive(Debug, clap::Args)]
pub struct Bench {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    scoring: ScoringArgs,
    /// Lengths of sequences in tokens
    #[arg(long, value_name = "TOKENS", value_parser = count(), value_delimiter = ',', env = "REWARDEN_LENGTHS")]
    #[arg(default_value = "64,128,256,512,1024,2048")]
    lengths: Vec<usize>,
    /// Tokens of a batch; each holds as many sequences as fit, at least one
    #[arg(long, value_name = "TOKENS", value_parser = count(), value_delimiter = ',', env = "REWARDEN_BATCH_TOKENS")]
    #[arg(default_value = "64,128,256,512,1024,2048")]
    batch_tokens: Vec<usize>,
    /// Numbers of answers to one prompt
    #[arg(long, value_name = "ITEMS", value_parser = count(), value_delimiter = ',', env = "REWARDEN_CANDIDATES")]
    #[arg(default_value = "1,4,16")]
    candidates: Vec<usize>,
    /// Tokens of that prompt
    #[arg(long, value_name = "TOKENS", value_parser = count(), default_value_t = 300, env = "REWARDEN_PROMPT_TOKENS")]
    prompt_tokens: usize,
    /// Tokens of each answer
    #[arg(long, value_name = "TOKENS", value_parser = count(), default_value_t = 60, env = "REWARDEN_ANSWER_TOKENS")]
    answer_tokens: usize,
    /// Ranks of the update, each measured with a fresh adapter on the same linear layers
    #[arg(long, value_name = "RANK", value_parser = count(), value_delimiter = ',', env = "REWARDEN_RANKS")]
    #[arg(default_value = "4,8,16,32")]
    ranks: Vec<usize>,
    /// Candidate pools, `prompt` and `responses` a line, plain or gzipped: how much faster the conservative best is found
    #[arg(long, value_name = "FILE", env = "REWARDEN_POOLS")]
    pools: Option<PathBuf>,
    /// Answers of each pool that are taken, the first ones
    #[arg(long, value_name = "ITEMS", value_parser = count(), default_value_t = 16, env = "REWARDEN_ANSWERS")]
    answers: usize,
    /// Seconds that each number may take
    #[arg(long, default_value_t = 0.5, env = "REWARDEN_SECONDS")]
    seconds: f64,
    /// Of the random token ids
    #[arg(long, default_value_t = 0, env = "REWARDEN_SEED")]
    seed: u64,
    /// Writes everything that was measured as JSON too
    #[arg(long, value_name = "FILE", env = "REWARDEN_JSON")]
    json: Option<PathBuf>,
}

/// At least one.
fn count() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..)
}

impl Bench {
    /// Measures, and prints the tables.
    pub fn run(self) -> Result<()> {
        if !(self.seconds.is_finite() && self.seconds >= 0.0) {
            return Err(Error::Usage(format!("--seconds: {} is not a time", self.seconds)));
        }
        let plan = self.plan();
        let (mut subject, targets) = self.subject()?;
        if self.pools.is_some() && subject.scorer.posterior.is_none() {
            return Err(Error::Usage("`--pools` needs variances, and `--compute int8` has none".into()));
        }
        let mut report = bench::measure(&mut subject, &plan)?;
        if let Some(path) = &self.pools {
            report.pools = self.pools(&mut subject.scorer, path)?;
        }
        drop(subject);
        if !report.int8 && !plan.ranks.is_empty() {
            report.ranks = rank::measure(&self.model.base.open()?, &targets, &plan)?;
        }
        if let Some(path) = &self.json {
            let json = serde_json::to_string_pretty(&report).map_err(|e| Error::file(path, e))?;
            std::fs::write(path, json + "\n").map_err(Error::io(path))?;
        }
        write_stdout(&report.render())
    }

    /// Measures the pools with the model, and with one that shares nothing.
    fn pools(&self, scorer: &mut Scorer, path: &Path) -> Result<Vec<Pool>> {
        let encoder = self.model.base.open()?.encoder;
        let (model, posterior) = (scorer.model.clone(), scorer.posterior.clone());
        let mut alone = Scorer::new(model, posterior, Sharing::Alone);
        pools::measure(scorer, &mut alone, &encoder, path, self.answers)
    }

    fn plan(&self) -> Plan {
        Plan {
            lengths: sorted(&self.lengths),
            batch_tokens: sorted(&self.batch_tokens),
            candidates: sorted(&self.candidates),
            prompt_tokens: self.prompt_tokens,
            answer_tokens: self.answer_tokens,
            ranks: sorted(&self.ranks),
            seconds: self.seconds,
            seed: self.seed,
        }
    }

    /// The model, and the linear layers that its adapter changes.
    fn subject(&self) -> Result<(Subject, Vec<Projection>)> {
        let parts = self.parts()?;
        if parts.base.config.mixture.is_some() {
            let why = "what a pass over a mixture of experts takes depends on what its router chooses";
            return Err(Error::Usage(format!("--model: no limit is known to measure against: {why}")));
        }
        let targets = match &parts.adapter {
            Some(adapter) => adapter.spec.targets.clone(),
            None => Projection::ALL.to_vec(),
        };
        let int8 = self.scoring.compute == Compute::Int8;
        let fitted = parts.folder.as_ref().is_some_and(|folder| folder.join(store::FILE).exists());
        let stand_in_posterior = !int8 && !fitted;
        let backend = self.scoring.backend(&self.model.base)?;
        let scorer = match stand_in_posterior {
            true => {
                let model = parts.model(&backend, Keep::Both)?;
                let posterior = stand_in(&model.shapes())?;
                Scorer::new(model, Some(posterior), self.scoring.sharing())
            }
            false => parts.into_scorer(Want::MeanAndVariance, &self.scoring, &backend)?,
        };
        Ok((Subject { scorer, int8, stand_in_posterior }, targets))
    }

    /// The model's, with a fresh adapter where only a base is given.
    fn parts(&self) -> Result<Parts> {
        if self.model.adapter.is_some() || self.model.base.model.is_none() {
            return self.model.parts();
        }
        let base = self.model.base.open()?;
        let adapter = rank::fresh(&base, RANK, &Projection::ALL, self.seed)?;
        Ok(Parts { base, adapter: Some(adapter), folder: None })
    }
}

/// Ascending, each once.
fn sorted(values: &[usize]) -> Vec<usize> {
    let mut values = values.to_vec();
    values.sort_unstable();
    values.dedup();
    values
}

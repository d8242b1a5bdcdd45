//! Preference pairs for a command: which files, which sources, and what becomes of pairs that are too long.

use crate::{
    Error, Result,
    data::{self, Pair},
    model::checkpoint::Checkpoint,
    text::{Limit, Truncation},
    train::Example,
};
use std::path::PathBuf;

#[derive(Debug, Clone, clap::Args)]
pub struct PairArgs {
    /// Preference pairs in TRL's layouts: .jsonl, .jsonl.gz or .parquet; repeatable
    #[arg(long, value_name = "FILE", required = true, env = "REWARDEN_DATA", value_delimiter = ',')]
    pub data: Vec<PathBuf>,
    /// Leaves out pairs of this `source`; repeatable
    #[arg(long, value_name = "NAME", env = "REWARDEN_EXCLUDE_SOURCE", value_delimiter = ',')]
    pub exclude_source: Vec<String>,
    /// Longest sequence in tokens [default: the model's]
    #[arg(long, value_name = "TOKENS", env = "REWARDEN_MAX_LENGTH")]
    pub max_length: Option<usize>,
    /// What becomes of a pair with a longer sequence
    #[arg(long, value_enum, default_value = "skip", env = "REWARDEN_TOO_LONG")]
    pub too_long: TooLong,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum TooLong {
    /// Stops with an error
    Error,
    /// Cuts the answer, keeping the template's end
    Truncate,
    /// Leaves the pair out
    Skip,
}

/// Pairs as read and as encoded, side by side.
pub struct Encoded {
    pub pairs: Vec<Pair>,
    pub examples: Vec<Example>,
    /// Pairs left out, and pairs cut, because they are too long.
    pub skipped: usize,
    pub truncated: usize,
}

impl PairArgs {
    /// Reads every file and drops the excluded sources.
    pub fn read(&self) -> Result<Vec<Pair>> {
        let mut all = Vec::new();
        for path in &self.data {
            all.extend(data::read_pairs(path)?);
        }
        let excluded = |source: &str| self.exclude_source.iter().any(|name| name == source);
        all.retain(|pair| !pair.source.as_deref().is_some_and(excluded));
        match all.is_empty() {
            true => Err(Error::Usage("--exclude-source: no pair is left".into())),
            false => Ok(all),
        }
    }

    /// Encodes pairs; what is too long is treated as `--too-long` says.
    pub fn encode(&self, pairs: Vec<Pair>, base: &Checkpoint) -> Result<Encoded> {
        let max_length = self.max_length.unwrap_or(usize::MAX).min(base.config.max_length);
        let truncation = (self.too_long == TooLong::Truncate).then_some(Truncation::KeepSuffix);
        let limit = Limit { max_length, truncation };
        let mut encoded = Encoded { pairs: Vec::new(), examples: Vec::new(), skipped: 0, truncated: 0 };
        for pair in pairs {
            let side = |input| base.encoder.encode(input, &limit);
            match (side(&pair.chosen), side(&pair.rejected)) {
                (Ok(chosen), Ok(rejected)) => {
                    encoded.truncated += usize::from(chosen.truncated || rejected.truncated);
                    encoded.examples.push(Example {
                        chosen,
                        rejected,
                        margin: pair.margin,
                        weight: pair.weight,
                    });
                    encoded.pairs.push(pair);
                }
                (Err(Error::TooLong { .. }), _) | (_, Err(Error::TooLong { .. }))
                    if self.too_long == TooLong::Skip =>
                {
                    encoded.skipped += 1;
                }
                (Err(e), _) | (_, Err(e)) => return Err(e),
            }
        }
        match encoded.examples.is_empty() {
            true => Err(Error::Usage(format!("--max-length: every pair is longer than {max_length} tokens"))),
            false => Ok(encoded),
        }
    }
}

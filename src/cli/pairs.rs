//! Preference pairs for a command: which files, which sources, and what becomes of pairs that are too long.

use crate::{
    Error, Result,
    data::{self, Pair, pairs::Place},
    item::Input,
    text::{Limit, Reader, TokenSeq, Truncation},
    train::Example,
};
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
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
#[derive(Debug, Default)]
pub struct Encoded {
    pub pairs: Vec<Pair>,
    pub examples: Vec<Example>,
    /// Pairs left out, and pairs cut, because they are too long.
    pub skipped: usize,
    pub truncated: usize,
}

impl Encoded {
    /// How many pairs there are, and what became of those that were too long.
    pub fn counts(&self) -> String {
        let (left, skipped, truncated) = (self.examples.len(), self.skipped, self.truncated);
        format!("{left} pairs ({skipped} too long, left out; {truncated} cut)")
    }
}

impl PairArgs {
    /// Reads every file and drops the excluded sources.
    pub fn read(&self) -> Result<Vec<Pair>> {
        let mut all = Vec::new();
        for path in &self.data {
            all.extend(data::read_pairs(path)?);
        }
        all.retain(|pair| !of_sources(pair, &self.exclude_source));
        match all.is_empty() {
            true => Err(Error::Usage("--exclude-source: no pair is left".into())),
            false => Ok(all),
        }
    }

    /// Encodes pairs, of which at least one must be left.
    pub fn encode_some(&self, pairs: Vec<Pair>, reader: &Reader) -> Result<Encoded> {
        let encoded = self.encode(pairs, reader)?;
        match encoded.examples.is_empty() {
            true => Err(self.nothing_left(&encoded, reader)),
            false => Ok(encoded),
        }
    }

    /// Encodes pairs, and draws at most `count` of what is left.
    pub fn drawn(&self, pairs: Vec<Pair>, reader: &Reader, count: u16, seed: u64) -> Result<Vec<Example>> {
        let mut examples = self.encode_some(pairs, reader)?.examples;
        examples.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        examples.truncate(count.into());
        Ok(examples)
    }

    /// The error where all pairs were left out.
    pub fn nothing_left(&self, encoded: &Encoded, reader: &Reader) -> Error {
        let (pairs, limit) = (encoded.skipped, self.limit(reader).max_length);
        Error::Usage(format!("--max-length: none of {pairs} pairs fits into {limit} tokens"))
    }

    /// Encodes pairs; what is too long is treated as `--too-long` says.
    pub fn encode(&self, pairs: Vec<Pair>, reader: &Reader) -> Result<Encoded> {
        let mut encoded = Encoded::default();
        for pair in pairs {
            let side = |name, input| self.sequence(name, input, pair.place.as_ref(), reader);
            let sides = (side("chosen", &pair.chosen)?, side("rejected", &pair.rejected)?);
            let (Some(chosen), Some(rejected)) = sides else {
                encoded.skipped += 1;
                continue;
            };
            encoded.truncated += usize::from(chosen.truncated || rejected.truncated);
            let (margin, weight) = (pair.margin, pair.weight);
            encoded.examples.push(Example { chosen, rejected, margin, weight });
            encoded.pairs.push(pair);
        }
        Ok(encoded)
    }

    /// Encodes one input; `None` where it is to be left out. An error says its `name` and the place it comes from.
    pub fn sequence(
        &self,
        name: &str,
        input: &Input,
        place: Option<&Place>,
        reader: &Reader,
    ) -> Result<Option<TokenSeq>> {
        match reader.encoder.encode(input, &self.limit(reader)) {
            Ok(sequence) => Ok(Some(sequence)),
            Err(e) => self.refused(name, place, e),
        }
    }

    fn limit(&self, reader: &Reader) -> Limit {
        let max_length = self.max_length.unwrap_or(usize::MAX).min(reader.max_length);
        Limit {
            max_length,
            truncation: (self.too_long == TooLong::Truncate).then_some(Truncation::KeepSuffix),
        }
    }

    /// What an answer that could not be encoded means: none where the pair is left out, else an error with its place.
    fn refused(&self, name: &str, place: Option<&Place>, error: Error) -> Result<Option<TokenSeq>> {
        let message = match (error, self.too_long) {
            (Error::TooLong { .. }, TooLong::Skip) => return Ok(None),
            // Nothing of it can be cut: a text without a last message, or a prompt that is too long by itself.
            (Error::Field { field, .. }, TooLong::Truncate) if field == "truncation" => return Ok(None),
            (Error::TooLong { tokens, more, limit }, _) => {
                let more = if more { "more than " } else { "" };
                let hint = "hint: `--too-long skip` leaves such pairs out, `truncate` cuts the answer";
                format!("{name}: has {more}{tokens} tokens, more than the limit of {limit} ({hint})")
            }
            (e, _) => format!("{name}: {e}"),
        };
        match place {
            Some(place) => Err(place.wrong(message)),
            None => Err(Error::Usage(message)),
        }
    }
}

/// Whether the pair is of one of these sources.
pub(super) fn of_sources(pair: &Pair, sources: &[String]) -> bool {
    pair.source.as_ref().is_some_and(|source| sources.contains(source))
}

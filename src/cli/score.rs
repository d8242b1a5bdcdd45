//! `rewarden score`: items of a file become lines of means, variances and conservative scores.

use super::model::ModelArgs;
use crate::{
    Error, Result,
    data::{NamedInput, read_items},
    score::{
        Estimate, in_batches,
        penalty::{Kind, Penalty},
    },
    text::{Limit, TokenSeq, Truncation},
};
use serde::Serialize;
use std::{io::Write, path::PathBuf, time::Instant};

#[derive(Debug, clap::Args)]
pub struct Score {
    #[command(flatten)]
    model: ModelArgs,
    /// Items, one JSON object a line, plain or gzipped; `-` is standard input
    #[arg(long, value_name = "FILE", env = "REWARDEN_INPUT")]
    input: PathBuf,
    /// Scores, one JSON object a line, in the order of the items; `-` is standard output
    #[arg(long, value_name = "FILE", default_value = "-", env = "REWARDEN_OUTPUT")]
    output: PathBuf,
    /// What is taken off the mean: k standard deviations, k variances, or nothing
    #[arg(long, value_enum, default_value = "std", env = "REWARDEN_PENALTY")]
    penalty: Kind,
    /// Factor of the penalty
    #[arg(long, default_value_t = Penalty::DEFAULT_K, env = "REWARDEN_K")]
    k: f64,
    /// Computes means only, at about half the cost
    #[arg(long, env = "REWARDEN_NO_VARIANCE")]
    no_variance: bool,
    /// Cuts what is too long, instead of failing
    #[arg(long, value_enum, env = "REWARDEN_TRUNCATION")]
    truncation: Option<Truncation>,
    /// Longest sequence in tokens [default: the model's]
    #[arg(long, value_name = "TOKENS", env = "REWARDEN_MAX_LENGTH")]
    max_length: Option<usize>,
    /// Most tokens in one batch
    #[arg(long, default_value_t = 2048, env = "REWARDEN_BATCH_TOKENS")]
    batch_tokens: usize,
    /// Prints seconds, items and tokens as JSON, as the last line of standard error
    #[arg(long, env = "REWARDEN_TIMING")]
    timing: bool,
}

/// One line of output.
#[derive(Debug, Serialize)]
struct Line<'a> {
    id: Option<&'a str>,
    mean: f64,
    variance: Option<f64>,
    std: Option<f64>,
    score: f64,
    tokens: usize,
    truncated: bool,
}

#[derive(Debug, Serialize)]
struct Timing {
    load_seconds: f64,
    score_seconds: f64,
    items: usize,
    tokens: usize,
}

impl Score {
    pub fn run(self) -> Result<()> {
        let penalty = Penalty::new(self.penalty, self.k)?;
        let started = Instant::now();
        let opened = self.model.open()?;
        let max_length = self.max_length.unwrap_or(usize::MAX).min(opened.base.config.max_length);
        let limit = Limit { max_length, truncation: self.truncation };
        let mut scorer = opened.scorer()?;
        let load_seconds = started.elapsed().as_secs_f64();
        let started = Instant::now();
        let items = read_items(&self.input)?;
        let encode = |(input, number): (&NamedInput, usize)| {
            let name =
                input.0.as_deref().map_or_else(|| format!("item {number}"), |id| format!("item `{id}`"));
            opened
                .base
                .encoder
                .encode(&input.1, &limit)
                .map_err(|e| Error::file(&self.input, format!("{name}: {e}")))
        };
        let sequences: Vec<TokenSeq> = items.iter().zip(1..).map(encode).collect::<Result<_>>()?;
        let estimates = in_batches(&mut scorer, &sequences, !self.no_variance, self.batch_tokens, |_| {})?;
        let mut output = String::new();
        for ((item, sequence), estimate) in items.iter().zip(&sequences).zip(&estimates) {
            let line = line(item.0.as_deref(), sequence, estimate, penalty);
            output += &serde_json::to_string(&line).map_err(|e| Error::file(&self.output, e))?;
            output.push('\n');
        }
        self.write(output.as_bytes())?;
        if self.timing {
            let tokens = sequences.iter().map(|sequence| sequence.ids.len()).sum();
            let score_seconds = started.elapsed().as_secs_f64();
            let timing = Timing { load_seconds, score_seconds, items: items.len(), tokens };
            eprintln!("{}", serde_json::to_string(&timing).map_err(|e| Error::Usage(e.to_string()))?);
        }
        Ok(())
    }

    fn write(&self, bytes: &[u8]) -> Result<()> {
        match self.output.to_str() {
            Some("-") => std::io::stdout().lock().write_all(bytes),
            _ => std::fs::write(&self.output, bytes),
        }
        .map_err(Error::io(&self.output))
    }
}

fn line<'a>(id: Option<&'a str>, sequence: &TokenSeq, estimate: &Estimate, penalty: Penalty) -> Line<'a> {
    let Estimate { mean, variance } = *estimate;
    Line {
        id,
        mean,
        variance,
        std: variance.map(f64::sqrt),
        score: penalty.score(mean, variance),
        tokens: sequence.ids.len(),
        truncated: sequence.truncated,
    }
}

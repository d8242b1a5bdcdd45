//! `rewarden verify`: scores against numbers that are known to be right.

use super::model::ModelArgs;
use crate::{
    Error, Result,
    data::lines::{Lines, at_line},
    item::Item,
    score::in_batches,
    text::{Limit, TokenSeq},
};
use serde::Deserialize;
use serde_json::json;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub struct Verify {
    #[command(flatten)]
    model: ModelArgs,
    /// Items with their `mean`, and where wanted their `variance`: one JSON object a line
    #[arg(long, value_name = "FILE", env = "REWARDEN_REFERENCE")]
    reference: PathBuf,
    /// Largest error that passes: |got - want| / max(1, |want|) of a mean, |got - want| / want of a variance
    #[arg(long, default_value_t = 1e-3, env = "REWARDEN_TOLERANCE")]
    tolerance: f64,
    /// Most tokens in one batch
    #[arg(long, default_value_t = 2048, env = "REWARDEN_BATCH_TOKENS")]
    batch_tokens: usize,
}

/// A line of the reference.
#[derive(Debug, Deserialize)]
struct Reference {
    #[serde(flatten)]
    item: Item,
    mean: f64,
    variance: Option<f64>,
}

impl Verify {
    pub fn run(self) -> Result<()> {
        let opened = self.model.open()?;
        let limit = Limit { max_length: opened.base.config.max_length, truncation: None };
        let (mut wanted, mut sequences) = (Vec::new(), Vec::<TokenSeq>::new());
        for line in Lines::<Reference>::open(&self.reference)? {
            let (number, Reference { item, mean, variance }) = line?;
            let encoded = item.parse().and_then(|input| opened.base.encoder.encode(&input, &limit));
            sequences.push(encoded.map_err(|e| at_line(&self.reference, number, e))?);
            wanted.push((mean, variance));
        }
        if wanted.is_empty() {
            return Err(Error::file(&self.reference, "no reference in it"));
        }
        let variances = wanted.iter().filter(|(_, variance)| variance.is_some()).count();
        let mut scorer = opened.scorer()?;
        if variances > 0 && scorer.posterior.is_none() {
            return Err(Error::file(&self.reference, "variances are given, but the model has no posterior"));
        }
        let estimates = in_batches(&mut scorer, &sequences, variances > 0, self.batch_tokens, |_| {})?;
        let (mut mean_error, mut variance_error) = (0f64, 0f64);
        for ((mean, variance), estimate) in wanted.iter().zip(&estimates) {
            mean_error = mean_error.max((estimate.mean - mean).abs() / mean.abs().max(1.0));
            if let (Some(want), Some(got)) = (variance, estimate.variance) {
                variance_error = variance_error.max((got - want).abs() / want);
            }
        }
        let report = json!({
            "items": wanted.len(), "mean_error": mean_error,
            "variance_error": (variances > 0).then_some(variance_error), "tolerance": self.tolerance,
        });
        println!("{report}");
        // Written so that an error that is not a number does not pass.
        match mean_error <= self.tolerance && variance_error <= self.tolerance {
            true => Ok(()),
            false => Err(Error::file(&self.reference, format!("largest error is past {}", self.tolerance))),
        }
    }
}

//! `rewarden verify`: scores against numbers that are known to be right.

use super::{
    model::ModelArgs,
    output::write_stdout,
    progress::{Progress, Unit},
    scoring::ScoringArgs,
};
use crate::{
    Error, Result,
    data::lines::{Lines, at_line},
    item::{Id, Item},
    score::{Estimate, Want, in_batches},
    text::{Limit, TokenSeq},
};
use serde::Deserialize;
use serde_json::json;
use std::path::PathBuf;

/// The flags of `rewarden verify`.
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
    #[command(flatten)]
    scoring: ScoringArgs,
    /// Most tokens in one batch
    #[arg(long, default_value_t = 2048, env = "REWARDEN_BATCH_TOKENS")]
    batch_tokens: usize,
}

/// A line of the reference.
#[derive(Debug, Deserialize)]
struct Reference {
    #[serde(flatten)]
    item: Item<Id>,
    mean: f64,
    variance: Option<f64>,
}

/// What an estimate should be, and the line, counted from 1, that says so.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Expected {
    line: usize,
    mean: f64,
    /// Above 0, since errors are relative to it.
    variance: Option<f64>,
}

/// The largest errors so far.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Errors {
    mean: f64,
    /// `None` where no variance is expected.
    variance: Option<f64>,
}

impl Verify {
    /// Scores the reference's items, prints the largest errors, and fails past the tolerance.
    pub fn run(self) -> Result<()> {
        let mut ready = self.model.ready(Want::MeanAndVariance, &self.scoring)?;
        let limit = Limit { max_length: ready.reader.max_length, truncation: None };
        let (mut expected, mut sequences) = (Vec::new(), Vec::<TokenSeq>::new());
        for line in Lines::<Reference>::open(&self.reference)? {
            let (line, Reference { item, mean, variance }) = line?;
            let wrong = |e| at_line(&self.reference, line, e);
            expected.push(Expected::new(line, mean, variance).map_err(wrong)?);
            let encoded = item.parse().and_then(|input| ready.reader.encoder.encode(&input, &limit));
            sequences.push(encoded.map_err(wrong)?);
        }
        if expected.is_empty() {
            return Err(Error::file(&self.reference, "no reference in it"));
        }
        let variances = expected.iter().any(|expected| expected.variance.is_some());
        let want = if variances { Want::MeanAndVariance } else { Want::Mean };
        self.scoring.check(want)?;
        if ready.able(want) != want {
            return Err(Error::file(&self.reference, "variances are given, but the model has no posterior"));
        }
        let tokens = sequences.iter().map(|sequence| sequence.ids.len()).sum();
        let mut progress = Progress::new(Unit::Tokens, 0, tokens);
        let estimates = in_batches(ready.scorer.as_mut(), &sequences, want, self.batch_tokens, |tokens| {
            progress.add(tokens)
        })?;
        progress.finish();
        let mut errors = Errors { mean: 0.0, variance: variances.then_some(0.0) };
        for (expected, estimate) in expected.iter().zip(estimates) {
            let finite = estimate.finite(want);
            errors.add(expected, finite.map_err(|e| at_line(&self.reference, expected.line, e))?);
        }
        self.report(expected.len(), errors)
    }

    fn report(&self, items: usize, errors: Errors) -> Result<()> {
        let Errors { mean, variance } = errors;
        let report = json!({
            "items": items, "mean_error": mean, "variance_error": variance, "tolerance": self.tolerance,
        });
        write_stdout(&format!("{report}\n"))?;
        match errors.within(self.tolerance) {
            true => Ok(()),
            false => Err(Error::file(&self.reference, format!("largest error is past {}", self.tolerance))),
        }
    }
}

impl Expected {
    fn new(line: usize, mean: f64, variance: Option<f64>) -> Result<Self> {
        if !mean.is_finite() {
            return Err(Error::field("mean", format!("must be a finite number: {mean}")));
        }
        match variance {
            Some(variance) if !variance.is_finite() || variance <= 0.0 => {
                Err(Error::field("variance", format!("must be a finite number above 0: {variance}")))
            }
            _ => Ok(Self { line, mean, variance }),
        }
    }
}

impl Errors {
    fn add(&mut self, expected: &Expected, got: Estimate) {
        let Expected { mean, variance, .. } = *expected;
        self.mean = worse(self.mean, (got.mean - mean).abs() / mean.abs().max(1.0));
        if let (Some(want), Some(got), Some(error)) = (variance, got.variance, &mut self.variance) {
            *error = worse(*error, (got - want).abs() / want);
        }
    }

    /// An error that is not a number is within no tolerance.
    fn within(&self, tolerance: f64) -> bool {
        self.mean <= tolerance && self.variance.is_none_or(|error| error <= tolerance)
    }
}

/// The larger of two errors; one that is not a number is larger than all, where `f64::max` would drop it.
fn worse(one: f64, other: f64) -> f64 {
    if one.is_nan() || other <= one { one } else { other }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_that_nothing_can_be_compared_with_is_refused() {
        let table = [
            (f64::NAN, None, "mean: must be a finite number: NaN"),
            (f64::INFINITY, Some(1.0), "mean: must be a finite number: inf"),
            (1.0, Some(0.0), "variance: must be a finite number above 0: 0"),
            (1.0, Some(-4.0), "variance: must be a finite number above 0: -4"),
            (1.0, Some(f64::NAN), "variance: must be a finite number above 0: NaN"),
        ];
        for (mean, variance, want) in table {
            assert_eq!(Expected::new(1, mean, variance).unwrap_err().to_string(), want);
        }
        for variance in [None, Some(1e-9)] {
            let expected = Expected::new(7, -1.0, variance).unwrap();
            assert_eq!(expected, Expected { line: 7, mean: -1.0, variance });
        }
    }

    #[test]
    fn the_largest_error_counts_whatever_its_place() {
        let expected = |mean, variance| Expected::new(1, mean, Some(variance)).unwrap();
        let mut errors = Errors { mean: 0.0, variance: Some(0.0) };
        for (mean, variance) in [(1.0, 4.0), (1.5, 3.0), (1.0, 4.0)] {
            errors.add(&expected(1.0, 4.0), Estimate::of_variances(mean, variance, 9.0));
        }
        assert_eq!(errors, Errors { mean: 0.5, variance: Some(0.25) });
        assert!(errors.within(0.5) && !errors.within(0.49) && !errors.within(f64::NAN));
    }

    #[test]
    fn an_error_that_is_not_a_number_never_passes() {
        for order in [[1.0, f64::NAN, 1.0], [f64::NAN, 1.0, 1.0], [1.0, 1.0, f64::NAN]] {
            let mut errors = Errors { mean: 0.0, variance: None };
            for mean in order {
                errors.add(&Expected::new(1, 1.0, None).unwrap(), Estimate::of_mean(mean));
            }
            assert!(errors.mean.is_nan() && !errors.within(f64::INFINITY), "{order:?}");
        }
    }

    #[test]
    fn ids_may_be_numbers() {
        let line = r#"{"id": 7, "text": "x", "mean": 1.5, "source": "kept"}"#;
        let Reference { item, mean, variance } = serde_json::from_str(line).unwrap();
        assert_eq!((item.id.unwrap().to_string().as_str(), mean, variance), ("7", 1.5, None));
    }
}

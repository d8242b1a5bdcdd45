//! `rewarden score`: items of a file become lines of means, variances and conservative scores.

use super::{
    model::{ModelArgs, Ready},
    output::write_stdout,
    penalty::PenaltyArgs,
    progress::{Progress, Unit},
    scoring::ScoringArgs,
};
use crate::{
    Error, Result,
    data::lines::{Lines, at_line},
    item::{Id, Item},
    model::checkpoint::tensors,
    posterior::Novelty,
    score::{Embedding, Estimate, Judge, Rated, Want, batched, in_batches, penalty::Penalty},
    text::{Encoder, Limit, TokenSeq, Truncation},
};
use candle_core::{Device, Tensor};
use serde::Serialize;
use std::{
    collections::{BTreeMap, HashMap},
    io::{self, Write},
    path::{Path, PathBuf},
    time::Instant,
};

/// The flags of `rewarden score`.
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
    #[command(flatten)]
    penalty: PenaltyArgs,
    /// Computes means only, at about half the cost
    #[arg(long, env = "REWARDEN_NO_VARIANCE")]
    no_variance: bool,
    /// Also writes a vector for each item, whose inner products are the covariances of the rewards: a safetensors file with
    /// `vectors` (items, features) and `means`
    #[arg(long, value_name = "FILE", conflicts_with = "no_variance", env = "REWARDEN_VECTORS")]
    vectors: Option<PathBuf>,
    #[command(flatten)]
    scoring: ScoringArgs,
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

/// An item as it stood in the file, ready for the model.
struct Scorable {
    /// Counted from 1.
    line: usize,
    id: Option<Id>,
    sequence: TokenSeq,
}

/// One line of output.
#[derive(Debug, Serialize)]
struct Line<'a> {
    id: Option<&'a Id>,
    mean: f64,
    variance: Option<f64>,
    std: Option<f64>,
    contraction: Option<f64>,
    score: f64,
    novelty: Option<f64>,
    variance_percentile: Option<f64>,
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
    /// Scores the file; nothing is written unless every item has its score.
    pub fn run(self) -> Result<()> {
        self.penalty.check()?;
        let want = if self.no_variance { Want::Mean } else { Want::MeanAndVariance };
        self.scoring.check(want)?;
        let started = Instant::now();
        let ready = self.model.ready(want, &self.scoring)?;
        let want = ready.able(want);
        let Ready { reader, mut scorer, novelty, calibration } = ready;
        let penalty = match want {
            Want::Mean => Penalty::None,
            Want::MeanAndVariance => {
                let (penalty, rule) = self.penalty.resolve(&calibration)?;
                let rule = serde_json::to_string(&rule).map_err(|e| Error::Usage(e.to_string()))?;
                tracing::info!("scores are by the penalty {rule}");
                penalty
            }
        };
        let load_seconds = started.elapsed().as_secs_f64();
        let started = Instant::now();
        let max_length = self.max_length.unwrap_or(usize::MAX).min(reader.max_length);
        let (name, items) = self.read(&reader.encoder, max_length)?;
        let sequences: Vec<TokenSeq> = items.iter().map(|item| item.sequence.clone()).collect();
        let tokens = sequences.iter().map(|sequence| sequence.ids.len()).sum();
        let mut progress = Progress::new(Unit::Tokens, 0, tokens);
        let done = |tokens| progress.add(tokens);
        let estimates = match &self.vectors {
            Some(path) => self.embed(path, scorer.as_ref(), &sequences, done)?,
            None => in_batches(scorer.as_mut(), &sequences, want, self.batch_tokens, done)?,
        };
        progress.finish();
        let mut output = String::new();
        for (item, estimate) in items.iter().zip(estimates) {
            let line =
                item.line(estimate, want, penalty, novelty.as_ref()).map_err(|e| item.wrong(&name, e))?;
            output += &serde_json::to_string(&line).map_err(|e| Error::file(&self.output, e))?;
            output.push('\n');
        }
        self.write(&output)?;
        if self.timing {
            let score_seconds = started.elapsed().as_secs_f64();
            let timing = Timing { load_seconds, score_seconds, items: items.len(), tokens };
            let timing = serde_json::to_string(&timing).map_err(|e| Error::Usage(e.to_string()))?;
            writeln!(io::stderr(), "{timing}").map_err(Error::io("<stderr>"))?;
        }
        Ok(())
    }

    /// Estimates by way of vectors, which are written.
    fn embed(
        &self,
        path: &Path,
        scorer: &dyn Judge,
        sequences: &[TokenSeq],
        done: impl FnMut(usize),
    ) -> Result<Vec<Estimate>> {
        if !scorer.has_variances() {
            return Err(Error::Usage("--vectors: needs a posterior (hint: run `fit`)".into()));
        }
        let embedded = batched(sequences, self.batch_tokens, done, |batch| scorer.embed(batch))?;
        let features = embedded.first().map_or(0, |embedding| embedding.vector.len());
        let vectors = embedded.iter().flat_map(|embedding| &embedding.vector).copied();
        let means: Vec<f64> = embedded.iter().map(|embedding| embedding.mean).collect();
        let tensors = BTreeMap::from([
            (
                "vectors".to_owned(),
                Tensor::from_iter(vectors, &Device::Cpu)?.reshape((embedded.len(), features))?,
            ),
            ("means".to_owned(), Tensor::new(means, &Device::Cpu)?),
        ]);
        tensors::write(path, &tensors, HashMap::new())?;
        Ok(embedded.iter().map(Embedding::estimate).collect())
    }

    /// The input's name, and its items as token sequences.
    fn read(&self, encoder: &Encoder, max_length: usize) -> Result<(PathBuf, Vec<Scorable>)> {
        let limit = Limit { max_length, truncation: self.truncation };
        let lines = Lines::<Item<Id>>::open(&self.input)?;
        let name = lines.path().to_owned();
        let scorable = |line| {
            let (line, mut item): (usize, Item<Id>) = line?;
            let id = item.id.take();
            let encoded = item.parse().and_then(|input| encoder.encode(&input, &limit));
            let sequence = encoded.map_err(|e| wrong(&name, line, id.as_ref(), e))?;
            Ok(Scorable { line, id, sequence })
        };
        let items = lines.map(scorable).collect::<Result<_>>()?;
        Ok((name, items))
    }

    fn write(&self, text: &str) -> Result<()> {
        match self.output.to_str() {
            Some("-") => write_stdout(text),
            _ => std::fs::write(&self.output, text).map_err(Error::io(&self.output)),
        }
    }
}

impl Scorable {
    fn line(
        &self,
        estimate: Estimate,
        want: Want,
        penalty: Penalty,
        novelty: Option<&Novelty>,
    ) -> Result<Line<'_>> {
        let estimate = estimate.finite(want)?;
        let Rated { mean, variance, std, contraction, score } = estimate.rated(penalty)?;
        let TokenSeq { ids, truncated, .. } = &self.sequence;
        Ok(Line {
            id: self.id.as_ref(),
            mean,
            variance,
            std,
            contraction,
            score,
            novelty: novelty.and_then(|novelty| novelty.of(&estimate)),
            variance_percentile: novelty.and_then(|novelty| novelty.of_variance(&estimate)),
            tokens: ids.len(),
            truncated: *truncated,
        })
    }

    fn wrong(&self, file: &Path, cause: Error) -> Error {
        wrong(file, self.line, self.id.as_ref(), cause)
    }
}

/// Says of which line, and of which item where it has a name, an error is.
fn wrong(file: &Path, line: usize, id: Option<&Id>, cause: Error) -> Error {
    match id {
        Some(id) => at_line(file, line, format!("item `{id}`: {cause}")),
        None => at_line(file, line, cause),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::posterior::config::Quantiles;

    fn scorable(id: Option<Id>) -> Scorable {
        Scorable { line: 3, id, sequence: TokenSeq { ids: vec![1, 2], pooled: 1, truncated: false } }
    }

    #[test]
    fn ids_go_back_as_they_came() {
        let estimate = Estimate::of_variances(1.0, 4.0, 8.0);
        let novelty = Novelty::new(&Quantiles {
            single: vec![(0.5, 8.0)],
            contraction_single: vec![(0.5, 0.25)],
            ..Quantiles::default()
        });
        for id in ["7", "\"7\"", "null"] {
            let item = scorable(serde_json::from_str(id).unwrap());
            let line =
                item.line(estimate, Want::MeanAndVariance, Penalty::default(), novelty.as_ref()).unwrap();
            let want = format!(
                r#"{{"id":{id},"mean":1.0,"variance":4.0,"std":2.0,"contraction":0.5,"score":-1.0,"novelty":0.3333333333333333,"variance_percentile":0.25,"tokens":2,"truncated":false}}"#
            );
            assert_eq!(serde_json::to_string(&line).unwrap(), want);
        }
    }

    #[test]
    fn what_is_not_finite_names_file_line_and_item() {
        let most = Penalty::variance(1e308);
        let of = |mean, variance| Estimate::of_variances(mean, variance, 8.0);
        let table = [
            (of(1.0, 4.0), most, "penalty.k: out of range: a score is not a finite number"),
            (of(f64::NAN, 4.0), Penalty::default(), "not a finite number: mean: NaN"),
            (of(1.0, -1.0), Penalty::default(), "not a finite number: variance: -1"),
        ];
        for (estimate, penalty, want) in table {
            for (id, name) in [(None, ""), (Some(Id::Text("a".into())), "item `a`: ")] {
                let item = scorable(id);
                let error = item.line(estimate, Want::MeanAndVariance, penalty, None).unwrap_err();
                let message = item.wrong(Path::new("x.jsonl"), error).to_string();
                assert_eq!(message, format!("x.jsonl:3: {name}{want}"));
            }
        }
    }
}

//! `rewarden evaluate pairs`: how good a reward model and its posterior are on preference pairs, as a whole and by source.

use super::{
    family::{Seen, embed},
    members::MemberArgs,
    plots::PlotArgs,
};
use crate::{
    Error, Result,
    cli::{
        model::ModelArgs,
        pairs::{Encoded, PairArgs},
        scoring::ScoringArgs,
    },
    evaluate::{
        calibration,
        coverage::{curve, thin},
        preferences::{Judgement, Preferences},
        verdicts::{self, AbstentionRule, SelectiveReport},
    },
    plot::{Bin, Curve, Line, Lines, Reliability, Scale},
    posterior::Posterior,
    score::{Embed, Want},
    text::{Reader, TokenSeq},
    train::Example,
};
use serde::Serialize;

/// Most points of a line.
const POINTS: usize = 200;

/// Flags of `rewarden evaluate pairs`.
#[derive(Debug, clap::Args)]
pub struct Pairs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    members: MemberArgs,
    #[command(flatten)]
    pairs: PairArgs,
    /// Measures the point estimate alone, at less than half the cost
    #[arg(long, env = "REWARDEN_NO_VARIANCE")]
    no_variance: bool,
    /// Largest share of wrong verdicts, above 0 and below 0.5: reports the verdicts that the held-out pairs stored in the posterior
    /// support at this rate, and how many of them are wrong
    #[arg(long, value_name = "SHARE", conflicts_with = "no_variance", env = "REWARDEN_ERROR_RATE")]
    error_rate: Option<f64>,
    #[command(flatten)]
    plots: PlotArgs,
    #[command(flatten)]
    scoring: ScoringArgs,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    judgement: &'a Judgement<'a>,
    /// Verdicts at `--error-rate`; null where the held-out pairs support none.
    #[serde(skip_serializing_if = "Option::is_none")]
    abstention: Option<Option<SelectiveReport<'a>>>,
    /// Pairs left out, and pairs cut, because they are too long.
    skipped: usize,
    truncated: usize,
}

impl Pairs {
    /// The model or the ensemble, and how it reads.
    fn open(&self, want: Want) -> Result<(Reader, Box<dyn Embed>)> {
        if let Some(ready) = self.model.cross_encoder(&self.scoring)? {
            return Ok((ready.reader, ready.scorer));
        }
        let parts = self.model.parts()?;
        Ok((parts.base.reader(), self.members.open(parts, &self.model, want, &self.scoring)?))
    }

    /// The rule that the held-out pairs support at an error rate, if any.
    fn calibrated(&self, error_rate: f64) -> Result<Option<AbstentionRule>> {
        verdicts::check(error_rate)?;
        if !self.members.is_alone() {
            return Err(Error::Usage("--error-rate: an ensemble has no held-out pairs".into()));
        }
        let parts = self.model.parts()?;
        let stored = match parts.posterior_path() {
            Some(path) => Posterior::load(&path)?.verdicts(),
            None => Vec::new(),
        };
        match stored.is_empty() {
            true => {
                let message = "the posterior stores no verdicts (hint: run `fit` with `--held-out`)";
                Err(Error::Usage(format!("--error-rate: {message}")))
            }
            false => Ok(verdicts::calibrate(&stored, error_rate)),
        }
    }

    pub fn run(self) -> Result<()> {
        let want = if self.no_variance { Want::Mean } else { Want::MeanAndVariance };
        self.scoring.check(want)?;
        self.plots.prepare()?;
        let calibrated = self.error_rate.map(|rate| self.calibrated(rate)).transpose()?;
        let (reader, model) = self.open(want)?;
        let encoded = self.pairs.encode_some(self.pairs.read()?, &reader)?;
        let preferences = preferences(model.as_ref(), &encoded)?;
        let sources = sources(&encoded);
        let judgement = preferences.judge(&sources);
        let report = |rule: AbstentionRule| rule.report(&preferences.verdicts(), &sources);
        self.plots.save("reliability", &reliability(&judgement))?;
        self.plots.save("risk-coverage", &risk_coverage(&preferences))?;
        super::print(&Report {
            judgement: &judgement,
            abstention: calibrated.map(|rule| rule.map(report)),
            skipped: encoded.skipped,
            truncated: encoded.truncated,
        })
    }
}

/// What the model says of every pair, with the variances if it has any.
fn preferences(model: &dyn Embed, encoded: &Encoded) -> Result<Preferences> {
    let examples = &encoded.examples;
    let sides: Vec<[TokenSeq; 2]> =
        examples.iter().map(|example| [example.chosen.clone(), example.rejected.clone()]).collect();
    let seen = embed(model, &sides)?;
    let logit = |(pair, e): (&Vec<Seen>, &Example)| pair[0].estimate.mean - pair[1].estimate.mean - e.margin;
    let logits = seen.iter().zip(examples).map(logit).collect();
    let variances = || seen.iter().map(|pair| pair[1].uncertainties.difference).collect();
    let contractions = seen.iter().map(|pair| pair[1].uncertainties.contraction_difference).collect();
    Ok(Preferences {
        logits,
        variances: if model.has_variances() { variances() } else { None },
        contractions,
        margins: examples.iter().map(|example| example.margin).collect(),
    })
}

fn sources(encoded: &Encoded) -> Vec<&str> {
    encoded.pairs.iter().map(|pair| pair.source.as_deref().unwrap_or("unnamed")).collect()
}

fn reliability(judgement: &Judgement) -> Reliability {
    let bin = |bin: &calibration::Bin| Bin {
        confidence: bin.confidence,
        frequency: bin.frequency,
        count: bin.count,
    };
    let curve = |(name, bins): (&&str, &Vec<calibration::Bin>)| Curve {
        name: said(name).into(),
        bins: bins.iter().map(bin).collect(),
    };
    Reliability {
        title: "Probabilities of preferences".into(),
        curves: judgement.reliability.iter().map(curve).collect(),
    }
}

fn risk_coverage(preferences: &Preferences) -> Lines {
    let right = preferences.right();
    let line = |(name, uncertainties): (&str, Vec<f64>)| {
        let points = thin(&curve(&uncertainties, &right), POINTS);
        Line::new(said(name), points.iter().map(|point| (point.coverage, point.risk)).collect())
    };
    Lines {
        title: "Wrong pairs among the surest".into(),
        x: "coverage: share of the pairs, the surest first".into(),
        y: "risk: share of those that are wrong".into(),
        scale: Scale::Linear,
        series: preferences.uncertainties().into_iter().map(line).collect(),
    }
}

/// A key of the report as it stands in a legend.
fn said(name: &str) -> &str {
    match name {
        "map" => "point estimate",
        "predictive" => "posterior predictive",
        "difference_std" => "std of the difference",
        "difference_one_minus_contraction" => "1 - contraction of the difference",
        other => other,
    }
}

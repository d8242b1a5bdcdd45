//! Selective classification of preference pairs: decides a pair only where held-out pairs bound the error rate.
//!
//! A rule decides the pairs whose confidence is at least a threshold, and abstains from the others. [`calibrate`] chooses
//! the confidence measure and the threshold on held-out pairs by Learn then Test (Angelopoulos et al., 2021,
//! arXiv 2110.01052). `verdicts/sequence.rs` states the tests and their proof.
//!
//! **Guarantee.** The held-out pairs are drawn independently from one population. With probability at least 1 - [`DELTA`]
//! over that draw, at most a share `error_rate` of the verdicts on pairs of the same population is wrong. This assumes
//! that the error rate does not fall when the threshold is lowered. Without that assumption the guarantee holds given
//! the confidences of the held-out pairs: it then bounds the mean error rate over pairs with those confidences.
//!
//! **What the guarantee does not cover:**
//! - Pairs of another population: new sources, or the same sources in other proportions.
//! - Each source, topic or prompt by itself. The error rate is an average over all decided pairs.
//! - A single verdict. Its own probability of being wrong may be higher or lower.
//! - Held-out pairs that depend on each other, such as several pairs of one prompt, or pairs that the adapter, the
//!   posterior or a temperature was fitted on.
//! - Several error rates at once. Each of them is exceeded with probability up to [`DELTA`].
//!
//! A verdict is wrong if it differs from the label. Wrong labels count as wrong verdicts.

mod sequence;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::pairs::wilson;
use crate::{Error, Result, train::loss::sigmoid};

/// Probability that the held-out pairs let a rule through whose error rate is too high.
pub const DELTA: f64 = 0.1;

/// Decimals that are kept of probabilities and contractions, as a factor.
const PRECISION: f64 = 1e6;

/// The model's preference on one labelled pair, with two measures of its confidence.
///
/// As JSON it is an array: `[0.8123, 0.41, true]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(from = "(f64, Option<f64>, bool)", into = "(f64, Option<f64>, bool)")]
pub struct Verdict {
    /// Posterior predictive probability of the preferred answer, at least 1/2.
    pub probability: f64,
    /// Posterior contraction of the difference of the two rewards, in [0, 1].
    pub contraction: Option<f64>,
    /// Whether the preferred answer is the chosen one.
    pub right: bool,
}

/// The confidence measure that a rule compares with its threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Confidence {
    /// [`Verdict::probability`].
    Probability,
    /// [`Verdict::contraction`].
    Contraction,
}

/// A calibrated rule: which pairs are decided, and the held-out pairs that support it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct AbstentionRule {
    pub confidence: Confidence,
    /// Lowest confidence that is decided.
    pub threshold: f64,
    /// Held-out pairs.
    pub pairs: usize,
    /// Held-out pairs that the rule decides.
    pub decided: usize,
    /// Decided held-out pairs whose verdict is wrong.
    pub wrong: usize,
    /// alpha: largest share of wrong verdicts that is allowed.
    pub error_rate: f64,
    /// Probability that the allowed share is exceeded: [`DELTA`].
    pub delta: f64,
}

/// Coverage and error of a rule on labelled pairs that were not used for its calibration.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SelectiveReport<'a> {
    pub rule: AbstentionRule,
    /// Over all pairs; `None` if there are none.
    pub all: Option<SelectiveMeasures>,
    pub by_source: BTreeMap<&'a str, SelectiveMeasures>,
}

/// Coverage and error of a rule on some pairs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SelectiveMeasures {
    pub pairs: usize,
    pub decided: usize,
    /// Decided pairs over pairs.
    pub coverage: f64,
    /// Decided pairs whose verdict is wrong. A tie counts as wrong.
    pub wrong: usize,
    /// Wrong pairs over decided pairs; `None` if none is decided.
    pub error: Option<f64>,
    /// 95 % interval of the error (Wilson, 1927).
    pub interval: Option<[f64; 2]>,
}

impl Verdict {
    /// Takes the logit of the predictive probability of the chosen answer over the rejected one, without a margin.
    ///
    /// A logit of 0 is a tie and counts as wrong. Numbers are rounded to 6 decimals.
    pub fn new(logit: f64, contraction: Option<f64>) -> Self {
        let probability = rounded(sigmoid(logit.abs()));
        Self { probability, contraction: contraction.map(rounded), right: logit > 0.0 }
    }
}

impl From<(f64, Option<f64>, bool)> for Verdict {
    fn from((probability, contraction, right): (f64, Option<f64>, bool)) -> Self {
        Self { probability, contraction, right }
    }
}

impl From<Verdict> for (f64, Option<f64>, bool) {
    fn from(Verdict { probability, contraction, right }: Verdict) -> Self {
        (probability, contraction, right)
    }
}

impl Confidence {
    fn of(self, probability: f64, contraction: Option<f64>) -> Option<f64> {
        match self {
            Self::Probability => Some(probability),
            Self::Contraction => contraction,
        }
    }
}

/// Checks that an error rate can be promised: above 0 and below 1/2.
pub fn check(error_rate: f64) -> Result<()> {
    match error_rate > 0.0 && error_rate < 0.5 {
        true => Ok(()),
        false => Err(Error::field("error_rate", format!("must be above 0 and below 0.5: {error_rate}"))),
    }
}

/// Returns the rule that decides the most held-out pairs at an error rate that passes [`check`].
///
/// `None` means that the held-out pairs support no rule: too few of them, or too many wrong verdicts.
pub fn calibrate(verdicts: &[Verdict], error_rate: f64) -> Option<AbstentionRule> {
    let rule = |confidence: Confidence| {
        let of = |v: &Verdict| Some((confidence.of(v.probability, v.contraction)?, v.right));
        let measured: Vec<(f64, bool)> = verdicts.iter().filter_map(of).collect();
        // Bonferroni over the two measures.
        let passed = sequence::loosest(confidence, measured, error_rate, DELTA / 2.0)?;
        let sequence::Selected { threshold, decided, wrong } = passed;
        let pairs = verdicts.len();
        Some(AbstentionRule { confidence, threshold, pairs, decided, wrong, error_rate, delta: DELTA })
    };
    let [first, second] = [Confidence::Probability, Confidence::Contraction].map(rule);
    match (first, second) {
        (Some(first), Some(second)) if second.decided > first.decided => Some(second),
        (first, second) => first.or(second),
    }
}

impl AbstentionRule {
    /// Returns whether the rule decides a pair, given the predictive probability of the preferred answer and the
    /// contraction of the difference. It rounds them as [`Verdict::new`] does.
    pub fn decides(&self, probability: f64, contraction: Option<f64>) -> bool {
        let confidence = self.confidence.of(probability, contraction);
        confidence.is_some_and(|confidence| rounded(confidence) >= self.threshold)
    }

    /// Measures the rule on labelled pairs; `sources` has one name for each.
    pub fn report<'a>(&self, verdicts: &[Verdict], sources: &[&'a str]) -> SelectiveReport<'a> {
        let mut apart: BTreeMap<&str, Vec<Verdict>> = BTreeMap::new();
        for (source, verdict) in sources.iter().zip(verdicts) {
            apart.entry(source).or_default().push(*verdict);
        }
        let measures = |(source, verdicts): (_, Vec<_>)| Some((source, self.measure(&verdicts)?));
        let by_source = apart.into_iter().filter_map(measures).collect();
        SelectiveReport { rule: *self, all: self.measure(verdicts), by_source }
    }

    /// `None` if there are no pairs.
    fn measure(&self, verdicts: &[Verdict]) -> Option<SelectiveMeasures> {
        let decided = || verdicts.iter().filter(|v| self.decides(v.probability, v.contraction));
        let (pairs, wrong) = (verdicts.len(), decided().filter(|v| !v.right).count());
        let count = decided().count();
        let share = |part: usize, whole: usize| (whole > 0).then(|| part as f64 / whole as f64);
        let error = share(wrong, count);
        let interval = error.map(|error| wilson(error, count as f64));
        let coverage = share(count, pairs)?;
        Some(SelectiveMeasures { pairs, decided: count, coverage, wrong, error, interval })
    }
}

fn rounded(x: f64) -> f64 {
    (x * PRECISION).round() / PRECISION
}

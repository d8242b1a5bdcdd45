//! The selection benchmark: measures how often each selection rule picks the good answer to a prompt, and at what cost.
//!
//! | part | what it measures |
//! |---|---|
//! | [`Picks`] | share of prompts whose good answer has the highest score among bad ones of known kinds |
//! | [`GoldGain`] | gold reward of the choice, minus that of a random answer and that of the mean's choice |
//! | [`KindAurocs`] | AUROC of an uncertainty: bad answers of each kind against the good ones |
//! | [`harm()`] | accuracy on preference pairs, where a penalty should do no harm |
//! | [`choose()`] | the rule to recommend |
//!
//! The first rule is the baseline: the mean without a penalty. A rule is chosen on one half of the prompts and judged on the
//! other, because a rule looks better than it is on the prompts that it was chosen on. The hash of the prompt's text decides the
//! half ([`Half::of`]), so that a prompt keeps its half in every run and in every data set.
//!
//! Prompts are the unit of resampling in every bootstrap interval: entries with an equal key are drawn together.

use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

use crate::shift::AnswerKind;

mod aurocs;
mod choose;
mod difference;
mod gold;
mod harm;
mod picks;

pub use aurocs::{KindAuroc, KindAurocs};
pub use choose::{HARM_BOUND, choose};
pub use difference::Difference;
pub use gold::GoldGain;
pub use harm::{PairAccuracy, RulePairs, ScoredPair, harm};
pub use picks::{PickShare, Picks};

use picks::lost_to;

/// The half of the data that a prompt belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Half {
    /// Rules are chosen on this half.
    Choice,
    /// The chosen rule is judged on this half.
    Judged,
}

/// A measure on each half of the prompts and on all of them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ByHalf<T> {
    pub choice: T,
    pub judged: T,
    pub all: T,
}

/// One answer to a prompt of the benchmark.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ScoredAnswer {
    /// Kind of an injected bad answer; `None` for a real answer.
    pub kind: Option<AnswerKind>,
    /// Gold reward, if it is known.
    pub gold: Option<f64>,
}

/// A prompt with its answers and their scores. No number may be NaN.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ScoredPrompt {
    /// Text of the prompt.
    pub key: String,
    pub answers: Vec<ScoredAnswer>,
    /// Index of the good answer; `None` where only gold rewards are known.
    pub good: Option<usize>,
    /// Scores by rule and answer.
    pub scores: Vec<Vec<f64>>,
    /// Uncertainties by measure and answer; `None` where an answer has none.
    pub uncertainties: Vec<Vec<Option<f64>>>,
}

/// Measures of one rule on some prompts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RuleMeasures {
    pub picks: Picks,
    /// `None` where no prompt has two answers with a gold reward.
    pub gold: Option<GoldGain>,
}

/// Measures of one rule.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RuleSelection<R> {
    pub rule: R,
    #[serde(flatten)]
    pub measures: ByHalf<RuleMeasures>,
    /// Prompts of the judged half whose good answer is not picked, by the kind of the injected answer that is picked instead.
    pub lost_to: BTreeMap<AnswerKind, usize>,
}

/// Measures of one uncertainty.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct UncertaintyAurocs<M> {
    pub uncertainty: M,
    #[serde(flatten)]
    pub aurocs: ByHalf<KindAurocs>,
}

/// The report of the selection benchmark.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SelectionReport<R, M> {
    /// Number of prompts.
    pub prompts: ByHalf<usize>,
    pub rules: Vec<RuleSelection<R>>,
    pub uncertainties: Vec<UncertaintyAurocs<M>>,
}

impl Half {
    /// The half of a prompt: [`Half::Choice`] where the first byte of the SHA-256 of its text is even.
    pub fn of(key: &str) -> Self {
        match Sha256::digest(key)[0] % 2 {
            0 => Self::Choice,
            _ => Self::Judged,
        }
    }
}

impl<T> ByHalf<T> {
    /// Measures the items of each half, and all items, by the half of their keys.
    fn of<I>(items: &[I], key: fn(&I) -> &str, measure: impl Fn(&[&I]) -> T) -> Self {
        let of = |half| -> Vec<&I> { items.iter().filter(|item| Half::of(key(item)) == half).collect() };
        Self {
            choice: measure(&of(Half::Choice)),
            judged: measure(&of(Half::Judged)),
            all: measure(&items.iter().collect::<Vec<_>>()),
        }
    }
}

impl ScoredPrompt {
    fn key(&self) -> &str {
        &self.key
    }

    fn check(&self, rules: usize, uncertainties: usize) {
        let answers = self.answers.len();
        assert_eq!(self.scores.len(), rules, "rules with scores");
        assert!(self.scores.iter().all(|scores| scores.len() == answers), "scores of a rule");
        assert_eq!(self.uncertainties.len(), uncertainties, "measures with uncertainties");
        assert!(self.uncertainties.iter().all(|of| of.len() == answers), "uncertainties of a measure");
        assert!(self.good.is_none_or(|good| self.answers[good].kind.is_none()), "the good answer is real");
    }
}

/// Measures every rule and every uncertainty on the prompts. The first rule is the one that the others are compared with.
///
/// # Panics
///
/// Unless every prompt has a score of each answer by each rule and an uncertainty by each measure, and unless its good answer
/// exists and is not an injected one.
pub fn report<R: Clone, M: Clone>(
    rules: &[R],
    uncertainties: &[M],
    prompts: &[ScoredPrompt],
) -> SelectionReport<R, M> {
    prompts.iter().for_each(|prompt| prompt.check(rules.len(), uncertainties.len()));
    let rule = |(at, rule): (usize, &R)| {
        let of = |prompts: &[&ScoredPrompt]| RuleMeasures {
            picks: Picks::of(prompts, at),
            gold: GoldGain::of(prompts, at),
        };
        RuleSelection {
            rule: rule.clone(),
            measures: ByHalf::of(prompts, ScoredPrompt::key, of),
            lost_to: lost_to(prompts, at),
        }
    };
    let uncertainty = |(at, uncertainty): (usize, &M)| UncertaintyAurocs {
        uncertainty: uncertainty.clone(),
        aurocs: ByHalf::of(prompts, ScoredPrompt::key, |prompts| KindAurocs::of(prompts, at)),
    };
    SelectionReport {
        prompts: ByHalf::of(prompts, ScoredPrompt::key, |prompts| prompts.len()),
        rules: rules.iter().enumerate().map(rule).collect(),
        uncertainties: uncertainties.iter().enumerate().map(uncertainty).collect(),
    }
}

#[cfg(test)]
mod tests;

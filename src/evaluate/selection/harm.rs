//! Accuracy of rules on preference pairs, to show that a penalty does no harm where nothing is injected.

use serde::Serialize;
use std::collections::BTreeMap;

use super::{ByHalf, Difference};
use crate::evaluate::{
    mean,
    pairs::{right, wilson},
};

/// The scores of the two answers of a preference pair, by rule. No number may be NaN.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ScoredPair {
    /// Text of the prompt.
    pub key: String,
    /// Source of the pair; empty where the data does not name one.
    pub source: String,
    /// Scores of the preferred answer.
    pub chosen: Vec<f64>,
    /// Scores of the other answer.
    pub rejected: Vec<f64>,
}

/// Accuracy of a rule on some pairs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PairAccuracy {
    /// Number of pairs.
    pub pairs: usize,
    /// Share of pairs whose preferred answer scores higher; a tie counts one half.
    pub accuracy: f64,
    /// 95 % interval (Wilson, 1927).
    pub interval: [f64; 2],
    /// This accuracy minus the first rule's, pair by pair.
    pub over_mean: Difference,
}

/// Accuracy of one rule by half; `None` where there are no pairs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RulePairs<R> {
    pub rule: R,
    #[serde(flatten)]
    pub accuracy: ByHalf<Option<PairAccuracy>>,
    /// Accuracy on all pairs of each source.
    pub sources: BTreeMap<String, PairAccuracy>,
}

/// Measures the accuracy of every rule on preference pairs. The first rule is the one that the others are compared with.
///
/// # Panics
///
/// Unless every pair has scores by each rule.
pub fn harm<R: Clone>(rules: &[R], pairs: &[ScoredPair]) -> Vec<RulePairs<R>> {
    for pair in pairs {
        assert_eq!([pair.chosen.len(), pair.rejected.len()], [rules.len(); 2], "rules with scores of a pair");
    }
    let of = |(at, rule): (usize, &R)| {
        let accuracy = ByHalf::of(pairs, |pair| &pair.key, |pairs| PairAccuracy::of(pairs, at));
        RulePairs { rule: rule.clone(), accuracy, sources: by_source(pairs, at) }
    };
    rules.iter().enumerate().map(of).collect()
}

fn by_source(pairs: &[ScoredPair], rule: usize) -> BTreeMap<String, PairAccuracy> {
    let mut sources: BTreeMap<&str, Vec<&ScoredPair>> = BTreeMap::new();
    for pair in pairs {
        sources.entry(&pair.source).or_default().push(pair);
    }
    let measured =
        |(source, of): (&str, Vec<&ScoredPair>)| Some((source.to_owned(), PairAccuracy::of(&of, rule)?));
    sources.into_iter().filter_map(measured).collect()
}

impl PairAccuracy {
    /// Measures the rule at this index; `None` without pairs.
    fn of(pairs: &[&ScoredPair], rule: usize) -> Option<Self> {
        let rights: Vec<f64> = pairs.iter().map(|pair| pair.right(rule)).collect();
        let differences =
            pairs.iter().zip(&rights).map(|(pair, right)| (pair.key.as_str(), right - pair.right(0)));
        let over_mean = Difference::of(differences)?;
        let (pairs, accuracy) = (rights.len(), mean(&rights));
        Some(Self { pairs, accuracy, interval: wilson(accuracy, pairs as f64), over_mean })
    }
}

impl ScoredPair {
    fn right(&self, rule: usize) -> f64 {
        right(self.chosen[rule] - self.rejected[rule])
    }
}

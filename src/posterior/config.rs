//! What a posterior says about how it was fitted: the `config` entry of the file's metadata, as JSON.
//!
//! Other programs may write a posterior with less, or more: absent entries are `None` or empty, unknown ones are ignored.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    BlockKind,
    fit::{CurvatureKind, Rank},
};
use crate::{
    evaluate::verdicts::Verdict,
    model::head::Outputs,
    score::rule::{Calibration, PenaltyRule},
};

/// How a posterior was fitted, and to which adapter.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FitConfig {
    /// How S was found.
    pub curvature: Option<CurvatureKind>,
    /// Directions kept of each block's long side.
    pub rank: Option<Rank>,
    /// Share of the labels that was taken to be wrong.
    pub label_noise: Option<f64>,
    /// Preference pairs that the curvature is summed over.
    pub pairs: Option<usize>,
    /// sum_n log sigma(delta_n), in nats.
    pub log_likelihood: Option<f64>,
    /// log Z, in nats.
    pub evidence: Option<f64>,
    /// gamma, over all blocks.
    pub effective_parameters: Option<f64>,
    /// gamma, by kind of block.
    pub effective_parameters_by_kind: BTreeMap<BlockKind, f64>,
    /// lambda, by kind of block.
    pub prior_precision: BTreeMap<BlockKind, f64>,
    /// Constructed pairs among those that the curvature is summed over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub constructed: Option<Constructed>,
    /// Digest of the adapter's tensors, as lower-case hexadecimal; another adapter is refused.
    pub adapter_sha256: Option<String>,
    /// Digest of the forward that it was fitted to: the base's weights, its settings, the adapter with its scales
    /// ([`crate::model::forward`]); another one is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forward_sha256: Option<String>,
    /// Digest of the chat template; another template is a warning.
    pub template_sha256: Option<String>,
    /// The model under the adapter.
    pub base: Option<Base>,
    /// The reward, of a head with several outputs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outputs: Option<Outputs>,
    /// Variances and contractions met on held-out pairs, to tell how unusual one is.
    pub quantiles: Option<Quantiles>,
    /// Rewards met on held-out pairs, and the rule for conservative scores that was chosen on them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_out: Option<HeldOut>,
    /// Trainable blocks that have no posterior on purpose.
    pub left_out: Vec<String>,
    /// Version of the program that fitted it.
    pub version: Option<String>,
}

impl FitConfig {
    /// Says what is wrong with the stored rule beside the stored numbers.
    pub fn rule_problem(&self) -> Option<String> {
        let calibration = self.calibration();
        let error = calibration.rule?.resolve(&calibration).err()?;
        Some(format!("held_out.{error}"))
    }

    /// What penalties read of it.
    pub fn calibration(&self) -> Calibration {
        let held_out = self.held_out.clone().unwrap_or_default();
        let quantiles = self.quantiles.clone().unwrap_or_default();
        Calibration {
            spread: held_out.spread,
            baseline: held_out.baseline,
            k: held_out.k,
            rule: held_out.penalty,
            uncontracted: quantiles.uncontracted(),
            variances: quantiles.single,
        }
    }
}

/// The base model's name and shape.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Base {
    pub name: String,
    pub layers: usize,
    pub hidden_size: usize,
    pub vocabulary: usize,
}

/// How many pairs were constructed, of which kinds, and from which sources none.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Constructed {
    /// Their number, as a share of the data.
    pub share: f64,
    pub kinds: Vec<String>,
    pub exclude_source: Vec<String>,
    /// Sources for which no refusals, evasions or empty answers were made.
    #[serde(default)]
    pub refusal_source: Vec<String>,
}

/// What a fit measured on held-out pairs about rewards themselves.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HeldOut {
    /// Pairs.
    pub pairs: usize,
    /// tau: standard deviation of rewards within prompts, sqrt(mean of (f_chosen - f_rejected)^2 / 2).
    pub spread: Option<f64>,
    /// The quantile of the rewards that shrinkage takes as its baseline: [`HeldOut::BASELINE`].
    pub baseline: Option<f64>,
    /// Strength of the contraction penalty.
    pub k: Option<f64>,
    /// The rule that `serve` applies where a request names none.
    pub penalty: Option<PenaltyRule>,
    /// Each pair's verdict, by which `error_rate` is promised.
    pub verdicts: Vec<Verdict>,
}

impl HeldOut {
    /// Probability of the quantile that is the baseline.
    pub const BASELINE: f64 = 0.05;

    /// Says what is wrong with the numbers.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let number = |name: &str, value: Option<f64>, valid: fn(f64) -> bool| {
            let wrong = value.filter(|x| !(x.is_finite() && valid(*x)));
            wrong.map(|x| format!("held_out.{name}: out of range: {x}"))
        };
        problems.extend(number("spread", self.spread, |x| x >= 0.0));
        problems.extend(number("baseline", self.baseline, |_| true));
        problems.extend(number("k", self.k, |x| x >= 0.0));
        if self.penalty.is_some_and(|rule| rule.relative) {
            problems.push("held_out.penalty.relative: a default must serve single rewards too".into());
        }
        let share = |x: f64| (0.0..=1.0).contains(&x);
        let valid = |v: &Verdict| share(v.probability) && v.contraction.is_none_or(share);
        if !self.verdicts.iter().all(valid) {
            problems.push("held_out.verdicts: probability and contraction must be from 0 to 1".into());
        }
        problems
    }
}

/// Quantiles of variances and contractions as (probability, value), by rising probability.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Quantiles {
    /// Of the variance of one reward.
    pub single: Vec<(f64, f64)>,
    /// Of the variance of the difference between the two rewards of a pair.
    pub difference: Vec<(f64, f64)>,
    /// Of the contraction of one reward.
    pub contraction_single: Vec<(f64, f64)>,
    /// Of the contraction of the difference.
    pub contraction_difference: Vec<(f64, f64)>,
}

impl Quantiles {
    /// Says what is wrong with either list.
    pub fn problems(&self) -> Vec<String> {
        let rises = |pair: &[(f64, f64)]| pair[0].0 <= pair[1].0 && pair[0].1 <= pair[1].1;
        let valid = |(probability, variance): &(f64, f64)| {
            (0.0..=1.0).contains(probability) && variance.is_finite() && *variance >= 0.0
        };
        let wrong =
            |quantiles: &[(f64, f64)]| !(quantiles.iter().all(valid) && quantiles.windows(2).all(rises));
        let all = [
            ("single", &self.single),
            ("difference", &self.difference),
            ("contraction_single", &self.contraction_single),
            ("contraction_difference", &self.contraction_difference),
        ];
        all.into_iter()
            .filter(|(_, quantiles)| wrong(quantiles))
            .map(|(name, _)| format!("quantiles.{name}: must rise, from 0, with probabilities up to 1"))
            .collect()
    }

    /// Quantiles of 1 - contraction of one reward, by rising probability.
    pub fn uncontracted(&self) -> Vec<(f64, f64)> {
        self.contraction_single.iter().rev().map(|(p, c)| (1.0 - p, (1.0 - c).max(0.0))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_other_programs_write() {
        let config: FitConfig =
            serde_json::from_str(r#"{"adapter_sha256": "00ff", "author": "someone"}"#).unwrap();
        assert_eq!(config, FitConfig { adapter_sha256: Some("00ff".into()), ..FitConfig::default() });
    }

    #[test]
    fn reads_a_rank_as_a_word_or_a_number() {
        for (json, rank) in [("\"full\"", Rank::Full), ("16", Rank::Top(16)), ("\"16\"", Rank::Top(16))] {
            let config: FitConfig = serde_json::from_str(&format!(r#"{{"rank": {json}}}"#)).unwrap();
            assert_eq!(config.rank, Some(rank));
        }
    }
}

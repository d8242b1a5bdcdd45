//! Gold reward of the answers that a rule chooses.

use serde::Serialize;

use super::{Difference, ScoredPrompt};
use crate::evaluate::mean;

/// Gold reward of a rule's choice out of the answers of a prompt whose gold reward is known, averaged over prompts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct GoldGain {
    /// Number of prompts with at least two such answers.
    pub prompts: usize,
    /// Gold reward of the choice, minus the mean gold reward of the answers.
    pub over_random: Difference,
    /// Gold reward of the choice, minus that of the first rule's choice.
    pub over_mean: Difference,
}

impl GoldGain {
    /// Measures the rule at this index; `None` where no prompt has two answers with a gold reward.
    pub(super) fn of(prompts: &[&ScoredPrompt], rule: usize) -> Option<Self> {
        let mut over_random = Vec::new();
        let mut over_mean = Vec::new();
        for prompt in prompts {
            let golds = prompt.answers.iter().enumerate().filter_map(|(at, answer)| Some((at, answer.gold?)));
            let golds: Vec<(usize, f64)> = golds.collect();
            if golds.len() < 2 {
                continue;
            }
            let random = mean(&golds.iter().map(|(_, gold)| *gold).collect::<Vec<_>>());
            let chosen = chosen(&golds, &prompt.scores[rule]);
            let of_mean = self::chosen(&golds, &prompt.scores[0]);
            over_random.push((prompt.key.as_str(), chosen - random));
            over_mean.push((prompt.key.as_str(), chosen - of_mean));
        }
        let prompts = over_random.len();
        let (over_random, over_mean) = (Difference::of(over_random)?, Difference::of(over_mean)?);
        Some(Self { prompts, over_random, over_mean })
    }
}

/// Returns the gold reward of the answer with the highest score; in a tie, the mean over the tied answers.
fn chosen(golds: &[(usize, f64)], scores: &[f64]) -> f64 {
    let best = golds.iter().map(|(at, _)| scores[*at]).fold(f64::NEG_INFINITY, f64::max);
    let tied = golds.iter().filter(|(at, _)| scores[*at] == best);
    mean(&tied.map(|(_, gold)| *gold).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tie_has_the_mean_of_its_golds() {
        let golds = [(0, 2.0), (2, 5.0), (3, -1.0)];
        assert_eq!(chosen(&golds, &[1.0, 9.0, 0.5, 0.0]), 2.0);
        assert_eq!(chosen(&golds, &[0.0, 9.0, 0.5, 0.5]), 2.0);
        assert_eq!(chosen(&golds, &[0.0, 9.0, 0.5, 0.6]), -1.0);
    }
}

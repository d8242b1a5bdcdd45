//! Shares of prompts whose good answer is picked.

use serde::Serialize;
use std::collections::BTreeMap;

use super::{Difference, Half, ScoredPrompt};
use crate::{
    evaluate::{mean, pairs::wilson},
    shift::AnswerKind,
};

/// Shares of prompts whose good answer has the highest score, by the answers that compete with it.
///
/// A share is `None` where no prompt has a good answer and a competing one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Picks {
    /// Against every other answer, real ones included.
    pub all: Option<PickShare>,
    /// Against all but [`AnswerKind::Refusal`] and [`AnswerKind::Unsure`].
    pub without_refusals: Option<PickShare>,
    /// Against the injected answers of the trained kinds alone.
    pub trained: Option<PickShare>,
    /// Against the injected answers of the kinds that are never trained on.
    pub untrained: Option<PickShare>,
}

/// A share of prompts whose good answer is picked.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PickShare {
    /// Number of prompts.
    pub prompts: usize,
    /// Share of the prompts. A tie of the good answer with m - 1 others at the top counts 1 / m, so that the order of the answers
    /// does not matter.
    pub share: f64,
    /// 95 % interval (Wilson, 1927).
    pub interval: [f64; 2],
    /// This share minus the first rule's, prompt by prompt.
    pub over_mean: Difference,
}

/// Counts the prompts of the judged half where an injected answer is picked, by its kind; the good answer wins a tie.
pub(super) fn lost_to(prompts: &[ScoredPrompt], rule: usize) -> BTreeMap<AnswerKind, usize> {
    let mut counts = BTreeMap::new();
    for prompt in prompts.iter().filter(|prompt| Half::of(&prompt.key) == Half::Judged) {
        let Some(good) = prompt.good else { continue };
        let scores = prompt.scores[rule].iter().enumerate();
        let best = scores.fold(good, |best, (at, score)| match *score > prompt.scores[rule][best] {
            true => at,
            false => best,
        });
        if let Some(kind) = prompt.answers[best].kind {
            *counts.entry(kind).or_default() += 1;
        }
    }
    counts
}

/// The answers that compete with the good one.
#[derive(Clone, Copy)]
enum Against {
    All,
    AllButRefusals,
    Trained,
    Untrained,
}

impl Picks {
    /// Measures the rule at this index.
    pub(super) fn of(prompts: &[&ScoredPrompt], rule: usize) -> Self {
        let of = |against| PickShare::of(prompts, rule, against);
        Self {
            all: of(Against::All),
            without_refusals: of(Against::AllButRefusals),
            trained: of(Against::Trained),
            untrained: of(Against::Untrained),
        }
    }
}

impl PickShare {
    fn of(prompts: &[&ScoredPrompt], rule: usize, against: Against) -> Option<Self> {
        let mut picks = Vec::new();
        let mut differences = Vec::new();
        for prompt in prompts {
            let Some((good, others)) = against.contest(prompt) else { continue };
            let pick = pick(&prompt.scores[rule], good, &others);
            picks.push(pick);
            let of_mean = self::pick(&prompt.scores[0], good, &others);
            differences.push((prompt.key.as_str(), pick - of_mean));
        }
        let over_mean = Difference::of(differences)?;
        let (prompts, share) = (picks.len(), mean(&picks));
        Some(Self { prompts, share, interval: wilson(share, prompts as f64), over_mean })
    }
}

impl Against {
    fn admits(self, kind: Option<AnswerKind>) -> bool {
        match self {
            Self::All => true,
            Self::AllButRefusals => !matches!(kind, Some(AnswerKind::Refusal | AnswerKind::Unsure)),
            Self::Trained => kind.is_some_and(AnswerKind::trained),
            Self::Untrained => kind.is_some_and(|kind| !kind.trained()),
        }
    }

    /// Returns the indices of the good answer and of its competitors; `None` if either is missing.
    fn contest(self, prompt: &ScoredPrompt) -> Option<(usize, Vec<usize>)> {
        let good = prompt.good?;
        let admitted = |at: &usize| *at != good && self.admits(prompt.answers[*at].kind);
        let others: Vec<usize> = (0..prompt.answers.len()).filter(admitted).collect();
        (!others.is_empty()).then_some((good, others))
    }
}

/// Returns 1 where the good answer scores above all others, 0 where another scores above it, and 1 / m in a tie of m answers.
fn pick(scores: &[f64], good: usize, others: &[usize]) -> f64 {
    let best = scores[good];
    if others.iter().any(|other| scores[*other] > best) {
        return 0.0;
    }
    let tied = others.iter().filter(|other| scores[**other] == best).count();
    1.0 / (1 + tied) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tie_counts_its_part_wherever_the_good_answer_is() {
        assert_eq!(pick(&[1.0, 1.0, 0.0, 1.0], 0, &[1, 2, 3]), 1.0 / 3.0);
        assert_eq!(pick(&[1.0, 1.0, 0.0, 1.0], 3, &[0, 1, 2]), 1.0 / 3.0);
        assert_eq!(pick(&[1.0, 1.0, 2.0], 0, &[1, 2]), 0.0);
        assert_eq!(pick(&[1.0, 5.0, 0.0], 0, &[2]), 1.0);
    }
}

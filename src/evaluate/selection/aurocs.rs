//! How well an uncertainty separates injected answers from good ones, by kind.

use serde::Serialize;

use super::ScoredPrompt;
use crate::{evaluate::auroc::Auroc, shift::AnswerKind};

/// AUROC of an uncertainty by kind of bad answer: the positives are the answers of that kind, the negatives the good answers.
///
/// Intervals count answers as independent. Answers to one prompt are not, so the intervals are approximate.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KindAurocs {
    /// Number of good answers that have this uncertainty.
    pub good: usize,
    /// Kinds of which an answer has this uncertainty, in the order of [`AnswerKind::ALL`].
    pub kinds: Vec<KindAuroc>,
    /// Mean over these kinds, with equal weights.
    pub mean: Option<Auroc>,
    /// Mean over the trained kinds.
    pub trained: Option<Auroc>,
    /// Mean over the kinds that are never trained on.
    pub untrained: Option<Auroc>,
}

/// AUROC of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct KindAuroc {
    pub kind: AnswerKind,
    /// Number of answers of the kind.
    pub answers: usize,
    pub auroc: Auroc,
}

impl KindAurocs {
    /// Measures the uncertainty at this index. Answers without it are left out.
    pub(super) fn of(prompts: &[&ScoredPrompt], uncertainty: usize) -> Self {
        let good: Vec<f64> = prompts
            .iter()
            .filter_map(|prompt| prompt.good.and_then(|good| prompt.uncertainties[uncertainty][good]))
            .collect();
        let groups = AnswerKind::ALL.map(|kind| (kind, of_kind(prompts, uncertainty, kind)));
        let of = |(kind, values): &(AnswerKind, Vec<f64>)| {
            let auroc = Auroc::of(values, &good)?;
            Some(KindAuroc { kind: *kind, answers: values.len(), auroc })
        };
        let mean = |admits: fn(AnswerKind) -> bool| {
            let admitted = groups.iter().filter(|(kind, _)| admits(*kind));
            Auroc::of_groups(admitted.map(|(_, values)| values.as_slice()), &good)
        };
        Self {
            good: good.len(),
            kinds: groups.iter().filter_map(of).collect(),
            mean: mean(|_| true),
            trained: mean(AnswerKind::trained),
            untrained: mean(|kind| !kind.trained()),
        }
    }
}

/// Returns the uncertainties of the answers of a kind.
fn of_kind(prompts: &[&ScoredPrompt], uncertainty: usize, kind: AnswerKind) -> Vec<f64> {
    let of = |prompt: &&ScoredPrompt| -> Vec<f64> {
        let answers = prompt.answers.iter().zip(&prompt.uncertainties[uncertainty]);
        answers.filter(|(answer, _)| answer.kind == Some(kind)).filter_map(|(_, value)| *value).collect()
    };
    prompts.iter().flat_map(of).collect()
}

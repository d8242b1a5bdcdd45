//! Answers to one prompt: means with the prompt computed once, against every sequence in full; and the best of n, against
//! all variances.

use super::{Plan, sequences::Sequences, timer::Timer};
use crate::{
    Result,
    nn::pack::Packed,
    score::{Score, Scorer, Want, penalty::Penalty},
    text::TokenSeq,
};
use serde::Serialize;

/// Tokens of a pass over sequences that share nothing: about what is fastest.
const PASS: usize = 512;

/// So many answers to one prompt, each time in seconds.
#[derive(Debug, Clone, Serialize)]
pub struct Family {
    pub candidates: usize,
    /// Tokens of all sequences in full.
    pub tokens: usize,
    /// Tokens with the prompt counted once.
    pub folded_tokens: usize,
    /// Means, with the prompt computed once, in one pass.
    pub folded_seconds: f64,
    /// Means, with each sequence computed in full, in passes of about 512 tokens.
    pub separate_seconds: f64,
    /// Means and variances of all, as `score` computes them; absent without a posterior.
    pub variances_seconds: Option<f64>,
    /// The conservative best alone, as `best_of` finds it; absent without a posterior.
    pub selected_seconds: Option<f64>,
}

/// Measures every number of candidates; a prompt and an answer that the model does not take are left out.
pub fn measure(scorer: &mut Scorer, plan: &Plan, timer: &Timer) -> Result<Vec<Family>> {
    let sizes = (plan.prompt_tokens, plan.answer_tokens);
    let (longest, vocabulary) = (scorer.model.config().max_length, scorer.model.config().vocab_size);
    if sizes.0 + sizes.1 > longest {
        tracing::warn!("candidates are left out: the model takes {longest} tokens");
        return Ok(Vec::new());
    }
    let mut sequences = Sequences::new(vocabulary, plan.seed);
    let mut families = Vec::new();
    for count in &plan.candidates {
        tracing::info!("measuring {count} candidates");
        families.push(family(scorer, &sequences.family(*count, sizes), timer)?);
    }
    Ok(families)
}

fn family(scorer: &mut Scorer, sequences: &[TokenSeq], timer: &Timer) -> Result<Family> {
    let members: Vec<&TokenSeq> = sequences.iter().collect();
    let packed = Packed::candidates(&members);
    let folded_seconds = timer.seconds(|| scorer.model.rewards(&packed).map(drop))?;
    let passes = separate(sequences);
    let separate_seconds =
        timer.seconds(|| passes.iter().try_for_each(|pass| scorer.model.rewards(pass).map(drop)))?;
    let variances_seconds = match scorer.posterior {
        Some(_) => Some(timer.seconds(|| scorer.score(&members, Want::MeanAndVariance).map(drop))?),
        None => None,
    };
    Ok(Family {
        candidates: members.len(),
        tokens: sequences.iter().map(|sequence| sequence.ids.len()).sum(),
        folded_tokens: packed.tokens(),
        folded_seconds,
        separate_seconds,
        variances_seconds,
        selected_seconds: selected_seconds(scorer, &members, timer)?,
    })
}

/// Passes over the sequences as if they had nothing in common.
fn separate(sequences: &[TokenSeq]) -> Vec<Packed> {
    let longest = sequences.iter().map(|sequence| sequence.ids.len()).max().unwrap_or(1);
    let each = (PASS / longest.max(1)).max(1);
    sequences.chunks(each).map(Packed::sequences).collect()
}

/// Seconds of the conservative best of n, with the default penalty.
fn selected_seconds(scorer: &Scorer, members: &[&TokenSeq], timer: &Timer) -> Result<Option<f64>> {
    if scorer.posterior.is_none() {
        return Ok(None);
    }
    timer.seconds(|| scorer.best_of(members, Penalty::default(), 1).map(drop)).map(Some)
}

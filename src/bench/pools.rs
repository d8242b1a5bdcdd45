//! Candidate pools of a file: the conservative best of each, against the variances of all.

use super::timer::Timer;
use crate::{
    Error, Result,
    data::{lines::at_line, pools::read_pools},
    score::{Estimate, Score, Scorer, Want, penalty::Penalty},
    text::{Encoder, Limit, TokenSeq, Truncation},
};
use serde::Serialize;
use std::path::Path;

/// One pool, each time in seconds.
#[derive(Debug, Clone, Serialize)]
pub struct Pool {
    pub candidates: usize,
    /// Tokens of all sequences in full.
    pub tokens: usize,
    /// Tokens that the longest common beginning has.
    pub prompt_tokens: usize,
    /// Means, each sequence in full.
    pub separate_seconds: f64,
    /// Means, the prompt once.
    pub means_seconds: f64,
    /// Means and variances of all, each sequence in full.
    pub separate_variances_seconds: f64,
    /// Means and variances of all, with the prompt once in the forward.
    pub variances_seconds: f64,
    /// The conservative best alone.
    pub selected_seconds: f64,
    /// Variances that the selection computed in full.
    pub complete: usize,
    /// Share of the backward's layers, summed over candidates, that it walked.
    pub walked: f64,
}

/// Measures the first `answers` answers of every pool in `path`; a selection that finds another winner is an error.
pub fn measure(
    scorer: &mut Scorer,
    alone: &mut Scorer,
    encoder: &Encoder,
    path: &Path,
    answers: usize,
) -> Result<Vec<Pool>> {
    let limit = Limit { max_length: scorer.model.config().max_length, truncation: Some(Truncation::Left) };
    let mut pools = Vec::new();
    for (number, read) in read_pools(path)? {
        tracing::info!("measuring the pool of line {number}");
        let sequences = read.encode(answers, encoder, &limit).map_err(|e| at_line(path, number, e))?;
        let members: Vec<&TokenSeq> = sequences.iter().collect();
        pools.push(pool(scorer, alone, &members).map_err(|e| at_line(path, number, e))?);
    }
    Ok(pools)
}

fn pool(scorer: &mut Scorer, alone: &mut Scorer, members: &[&TokenSeq]) -> Result<Pool> {
    let penalty = Penalty::default();
    // Each time is of a single run: the pools are many.
    let separate_seconds = Timer::once(|| alone.score(members, Want::Mean).map(drop))?;
    let means_seconds = Timer::once(|| scorer.score(members, Want::Mean).map(drop))?;
    let separate_variances_seconds = Timer::once(|| alone.score(members, Want::MeanAndVariance).map(drop))?;
    let mut all = Vec::new();
    let variances_seconds = Timer::once(|| {
        all = scorer.score(members, Want::MeanAndVariance)?;
        Ok(())
    })?;
    let mut selected = None;
    let selected_seconds = Timer::once(|| {
        selected = Some(scorer.best_of(members, penalty, 1)?);
        Ok(())
    })?;
    let selected = selected.ok_or_else(|| Error::Internal("nothing was selected".into()))?;
    check(&all, selected.index, penalty)?;
    Ok(Pool {
        candidates: members.len(),
        tokens: members.iter().map(|sequence| sequence.ids.len()).sum(),
        prompt_tokens: common(members),
        separate_seconds,
        means_seconds,
        separate_variances_seconds,
        variances_seconds,
        selected_seconds,
        complete: selected.work.complete,
        walked: selected.work.layers as f64 / selected.work.of.max(1) as f64,
    })
}

/// Fails where a candidate other than the selected one has the better score, by more than rounding.
fn check(all: &[Estimate], index: usize, penalty: Penalty) -> Result<()> {
    let score = |estimate: &Estimate| penalty.score(estimate);
    let best = all.iter().map(score).fold(f64::MIN, f64::max);
    let found = all.get(index).map_or(f64::MIN, score);
    match best - found <= 1e-4 * best.abs().max(1.0) {
        true => Ok(()),
        false => Err(Error::Internal(format!("the selected score is {found}, the best {best}"))),
    }
}

/// Tokens that all begin with.
fn common(members: &[&TokenSeq]) -> usize {
    let Some((first, others)) = members.split_first() else { return 0 };
    let shared = |other: &&TokenSeq| first.ids.iter().zip(&other.ids).take_while(|(a, b)| a == b).count();
    others.iter().map(shared).min().unwrap_or(first.ids.len())
}

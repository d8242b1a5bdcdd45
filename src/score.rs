//! A batch of token sequences becomes means and variances.
//!
//! [`Scorer`] is a reward model with its posterior: one forward for the means and, where a variance is wanted, one
//! backward whose Jacobians are contracted with the posterior block by block, and never kept. What leaves this module
//! for a client passes [`Estimate::finite`] and [`Estimate::rated`]: a number that is not finite is an error.

use std::ops::Range;

use rayon::prelude::*;

use crate::{
    Result,
    model::{RewardModel, sink::Jacobians},
    nn::pack::{Packed, fold::by_prefix, own_tokens},
    posterior::{Posterior, Vectors, Wanted},
    text::TokenSeq,
};

mod candidates;
mod cross_encoder;
mod embedding;
pub mod ensemble;
mod estimate;
pub mod joint;
mod judge;
pub mod penalty;
pub mod rescale;
pub mod rule;
pub mod select;

use candidates::Candidates;
pub use embedding::{Embed, Embedding, relative_estimates};
pub use estimate::{Estimate, Moments, Rated, Variances, contraction};
pub use judge::Judge;
use penalty::Penalty;
use select::{Pool, Selected, distinct, select};

/// What is computed: a variance takes a backward, and so about twice the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Want {
    /// Means only.
    Mean,
    /// Means, and variances where the model has a posterior.
    MeanAndVariance,
}

/// Whatever can score a batch: the real model, or a stand-in in the tests of the queue.
pub trait Score: Send {
    /// Scores `batch`, one estimate per sequence in its order.
    fn score(&mut self, batch: &[&TokenSeq], want: Want) -> Result<Vec<Estimate>>;

    /// Finds the candidate of one prompt with the highest conservative score, the lowest index among equals, and the
    /// variances of the first `top` places. Computes all of them where the implementation cannot do with less.
    fn best_of(&mut self, candidates: &[&TokenSeq], penalty: Penalty, _top: usize) -> Result<Selected> {
        let want = if penalty.needs_variance() { Want::MeanAndVariance } else { Want::Mean };
        let some = distinct(candidates);
        let estimates = self.score(&some.of(candidates), want)?;
        let finite =
            estimates.into_iter().map(|estimate| estimate.finite(want)).collect::<Result<Vec<_>>>()?;
        Selected::among(finite, penalty).map(|selected| some.spread(selected))
    }

    /// Runs once forward and once backward, so that what is broken shows before the first request.
    fn warm_up(&mut self, sequence: &TokenSeq) -> Result<()>;
}

/// Tokens of one pass on the CPU at most: more are no faster, and leave the caches.
const PASS: usize = 512;

/// Tokens of one pass on a GPU at most: fewer leave parts of it idle.
const GPU_PASS: usize = 16384;

/// Tokens of a pass at most where each sequence shares more than half of itself with the one before.
const FAMILY: usize = 4096;

/// Tokens below which a batch is not divided: products of fewer rows are slower.
const SMALL: usize = 128;

/// How the sequences of a batch are computed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Sharing {
    /// Together, common beginnings once. The last bits of a score may depend on what else is in the batch.
    #[default]
    Shared,
    /// Each alone: its score is the same to the last bit, whatever else is in the batch.
    Alone,
}

/// A reward model and, where it was fitted, its posterior.
#[derive(Debug)]
pub struct Scorer {
    /// Gives the means.
    pub model: RewardModel,
    /// Gives the variances; without it there are none.
    pub posterior: Option<Posterior>,
    sharing: Sharing,
}

impl Scorer {
    /// Puts a model and its posterior together, and drops what scoring does not need.
    pub fn new(mut model: RewardModel, posterior: Option<Posterior>, sharing: Sharing) -> Self {
        model.freeze();
        if posterior.is_none() {
            model.forward_only();
        }
        Self { model, posterior, sharing }
    }

    /// Returns what can be computed of `wanted`: no variance without a posterior.
    pub fn able(&self, wanted: Want) -> Want {
        if self.posterior.is_some() { wanted } else { Want::Mean }
    }

    /// Finds the candidate of one prompt with the highest conservative score, the lowest index among equals, without
    /// computing the variances of those that cannot be among the first `top`. All are in one forward, whatever [`Sharing`]
    /// says.
    pub fn best_of(&self, candidates: &[&TokenSeq], penalty: Penalty, top: usize) -> Result<Selected> {
        let some = distinct(candidates);
        let packed = Packed::candidates(&some.of(candidates));
        let trace = self.model.forward(&packed)?;
        let pool = Candidates::new(&self.model, self.posterior.as_ref(), &trace, Wanted::Variances)?;
        select(&pool, penalty, top).map(|selected| some.spread(selected))
    }

    /// Scores a batch: one estimate per sequence in its order.
    pub fn estimates(&self, batch: &[&TokenSeq], want: Want) -> Result<Vec<Estimate>> {
        Ok(self.moments(batch, want)?.into_iter().map(Moments::estimate).collect())
    }

    /// The mean and the variances of each sequence of a batch, in its order.
    pub fn moments(&self, batch: &[&TokenSeq], want: Want) -> Result<Vec<Moments>> {
        let want = self.able(want);
        self.in_order(batch, want, |sequences, bytes| self.pass(sequences, want, bytes))
    }

    fn run_once(&self, sequence: &TokenSeq) -> Result<()> {
        let want = self.able(Want::MeanAndVariance);
        let estimates = self.estimates(&[sequence], want)?;
        estimates.into_iter().try_for_each(|estimate| estimate.finite(want).map(drop))
    }

    fn embed_pass(
        &self,
        posterior: &Posterior,
        sequences: &[&TokenSeq],
        bytes: usize,
    ) -> Result<Vec<Embedding>> {
        let packed = worth_folding(sequences);
        let trace = self.model.forward_within(&packed, bytes)?;
        let candidates = Candidates::new(&self.model, Some(posterior), &trace, Wanted::Covariances)?;
        let mut embeddings = Vec::with_capacity(sequences.len());
        for walk in candidates.all(self.model.tokens_within(bytes))? {
            let (variances, prior_variances) = (walk.variances().to_vec(), walk.prior_variances().to_vec());
            let Some(Vectors { posterior, prior }) = walk.vectors()? else { continue };
            let vectors = posterior.to_vec2::<f32>()?.into_iter().zip(prior.to_vec2::<f32>()?);
            for ((vector, prior), (variance, of_prior)) in
                vectors.zip(variances.into_iter().zip(prior_variances))
            {
                let at = embeddings.len();
                let (mean, head_variance) = (candidates.means()[at], candidates.head_variances()[at]);
                let embedding = Embedding { mean, head_variance, vector, prior, deviations: Vec::new() };
                embeddings.push(embedding.of_variances(variance, of_prior));
            }
        }
        Ok(embeddings)
    }

    /// Computes a batch in passes over sequences that begin alike, and returns what `pass` makes of each in the batch's order.
    fn in_order<T: Send>(
        &self,
        batch: &[&TokenSeq],
        want: Want,
        pass: impl Fn(&[&TokenSeq], usize) -> Result<Vec<T>> + Sync,
    ) -> Result<Vec<T>> {
        let order = by_prefix(batch);
        let sorted: Vec<&TokenSeq> = order.iter().map(|i| batch[*i]).collect();
        let limit = self.limit(own_tokens(&sorted).iter().sum(), want);
        let computed = self.passes(&passes(&sorted, limit), pass)?;
        let mut placed: Vec<(usize, T)> = order.into_iter().zip(computed).collect();
        placed.sort_unstable_by_key(|(i, _)| *i);
        Ok(placed.into_iter().map(|(_, computed)| computed).collect())
    }

    /// Scores sequences that are computed together, within so many bytes of activations.
    fn pass(&self, sequences: &[&TokenSeq], want: Want, bytes: usize) -> Result<Vec<Moments>> {
        let Some(posterior) = self.posterior.as_ref().filter(|_| want == Want::MeanAndVariance) else {
            let rewards = self.model.rewards(&Packed::folded(sequences))?;
            return Ok(rewards.into_iter().map(|mean| Moments { mean, variances: None }).collect());
        };
        let packed = worth_folding(sequences);
        let trace = self.model.forward_within(&packed, bytes)?;
        let candidates = Candidates::new(&self.model, Some(posterior), &trace, Wanted::Variances)?;
        let walked = candidates.all(self.model.tokens_within(bytes))?;
        let variances = walked.iter().flat_map(|walk| walk.variances().iter().zip(walk.prior_variances()));
        let all = trace.rewards().iter().zip(variances);
        let moments = |(mean, (v, prior)): (&f64, (&f64, &f64))| Moments {
            mean: *mean,
            variances: Some(Variances { posterior: *v, prior: *prior }),
        };
        Ok(all.map(moments).collect())
    }

    /// Computes passes, as many at a time as there are threads: each then works on its own, without waiting for the others
    /// after every product, and one that has nothing left to do helps. `pass` is told how many bytes of activations it has.
    fn passes<T: Send>(
        &self,
        passes: &[&[&TokenSeq]],
        pass: impl Fn(&[&TokenSeq], usize) -> Result<Vec<T>> + Sync,
    ) -> Result<Vec<T>> {
        let mut computed = Vec::new();
        for together in passes.chunks(self.lanes()) {
            let tokens = |pass: &[&TokenSeq]| pass.iter().map(|sequence| sequence.pooled + 1).sum::<usize>();
            let all: usize = together.iter().map(|pass| tokens(pass)).sum();
            let each = together.par_iter().map(|sequences| {
                let share = tokens(sequences) as f64 / all as f64;
                pass(sequences, (share * self.model.activation_bytes() as f64) as usize)
            });
            each.collect::<Vec<_>>()
                .into_iter()
                .try_for_each(|pass| pass.map(|pass| computed.extend(pass)))?;
        }
        Ok(computed)
    }

    /// Tokens of a pass over a batch of so many at most.
    fn limit(&self, tokens: usize, want: Want) -> usize {
        let (lanes, pass) = (self.lanes(), if self.model.device().is_cpu() { PASS } else { GPU_PASS });
        let most = match (self.sharing, want) {
            (Sharing::Alone, _) => return 0,
            (Sharing::Shared, Want::Mean) => pass,
            (Sharing::Shared, Want::MeanAndVariance) => pass.min(self.model.tokens_kept() / lanes),
        };
        tokens.div_ceil(lanes).max(SMALL).min(most)
    }

    /// Passes that are computed at the same time: one for each thread, or one on a GPU, which fills with larger ones.
    fn lanes(&self) -> usize {
        if self.model.device().is_cpu() { rayon::current_num_threads() } else { 1 }
    }
}

/// Folds sequences where that saves a good part of the forward: to take them apart again for the backward costs copies.
fn worth_folding(sequences: &[&TokenSeq]) -> Packed {
    let folded = Packed::folded(sequences);
    let tokens: usize = sequences.iter().map(|sequence| sequence.pooled + 1).sum();
    if 4 * folded.tokens() <= 3 * tokens { folded } else { Packed::sequences(sequences.iter().copied()) }
}

impl Score for Scorer {
    fn score(&mut self, batch: &[&TokenSeq], want: Want) -> Result<Vec<Estimate>> {
        self.estimates(batch, want)
    }

    fn best_of(&mut self, candidates: &[&TokenSeq], penalty: Penalty, top: usize) -> Result<Selected> {
        Self::best_of(self, candidates, penalty, top)
    }

    fn warm_up(&mut self, sequence: &TokenSeq) -> Result<()> {
        self.run_once(sequence)
    }
}

impl Embed for Scorer {
    fn embed(&self, batch: &[&TokenSeq]) -> Result<Vec<Embedding>> {
        let Some(posterior) = &self.posterior else {
            let estimates = self.estimates(batch, Want::Mean)?;
            return Ok(estimates.into_iter().map(|estimate| Embedding::of_mean(estimate.mean)).collect());
        };
        let want = Want::MeanAndVariance;
        self.in_order(batch, want, |sequences, bytes| self.embed_pass(posterior, sequences, bytes))
    }

    fn has_variances(&self) -> bool {
        self.posterior.is_some()
    }
}

/// Runs of neighbours of at most `limit` tokens, those that one shares with the one before it counted once; one that is longer
/// is a run of its own.
fn passes<'a, 'b>(sorted: &'b [&'a TokenSeq], limit: usize) -> Vec<&'b [&'a TokenSeq]> {
    let own = own_tokens(sorted);
    let runs = runs(sorted.len(), |first, i, tokens| {
        let all = sorted[i].pooled + 1;
        let added = if i == first { all } else { own[i] };
        // In another pass, what it shares would be computed again.
        let shares_most = limit > 0 && 2 * added <= all;
        let most = if shares_most { limit.max(FAMILY) } else { limit };
        Some(tokens + added).filter(|tokens| *tokens <= most)
    });
    runs.into_iter().map(|run| &sorted[run]).collect()
}

/// Cuts `0..count` into runs of at least one each. `grown` says how many tokens a run that began at `first` has with `i`, or
/// that it takes no more.
fn runs(count: usize, grown: impl Fn(usize, usize, usize) -> Option<usize>) -> Vec<Range<usize>> {
    let (mut runs, mut first) = (Vec::new(), 0);
    while first < count {
        let (mut end, mut tokens) = (first, 0);
        while let Some(more) = (end < count).then(|| grown(first, end, tokens)).flatten() {
            (tokens, end) = (more, end + 1);
        }
        let end = end.max(first + 1);
        runs.push(first..end);
        first = end;
    }
    runs
}

/// Runs of at most `budget` tokens, each sequence counted in full.
pub fn runs_within(lengths: &[usize], budget: usize) -> Vec<Range<usize>> {
    runs(lengths.len(), |_, i, tokens| Some(tokens + lengths[i]).filter(|tokens| *tokens <= budget))
}

/// Rewards, and an estimate of each group's combination of them: of the reward itself where a group has one, of the
/// difference chosen - rejected where it has two.
pub fn with_variances(
    model: &RewardModel,
    posterior: &Posterior,
    packed: &Packed,
    rewards_per_group: usize,
) -> Result<(Vec<f64>, Vec<Estimate>)> {
    let trace = model.forward(packed)?;
    let sign = |i: usize| if i.is_multiple_of(rewards_per_group) { 1.0 } else { -1.0 };
    let cotangents: Vec<f64> = (0..packed.pooled.len()).map(sign).collect();
    let mut walk = posterior.walk(packed.groups.len(), Wanted::Variances);
    let mut sink = Jacobians::new(packed, |name, j| walk.add(name, j));
    model.backward(&trace, &cotangents, &mut sink)?;
    let rewards = trace.rewards().to_vec();
    let means =
        rewards.chunks(rewards_per_group).map(|of| of.iter().enumerate().map(|(i, f)| sign(i) * f).sum());
    let variances = walk.variances().iter().zip(walk.prior_variances());
    let estimates = means.zip(variances).map(|(mean, (v, prior))| Estimate::of_variances(mean, *v, *prior));
    Ok((rewards.clone(), estimates.collect()))
}

/// Scores any number of sequences in batches of at most `budget` tokens, those that begin alike together; `done` hears of the tokens
/// of each batch. Estimates come in the order of the sequences.
pub fn in_batches(
    scorer: &mut dyn Score,
    sequences: &[TokenSeq],
    want: Want,
    budget: usize,
    done: impl FnMut(usize),
) -> Result<Vec<Estimate>> {
    batched(sequences, budget, done, |batch| scorer.score(batch, want))
}

/// As [`in_batches`], with whatever `compute` makes of each sequence.
pub fn batched<T>(
    sequences: &[TokenSeq],
    budget: usize,
    mut done: impl FnMut(usize),
    mut compute: impl FnMut(&[&TokenSeq]) -> Result<Vec<T>>,
) -> Result<Vec<T>> {
    let order = by_prefix(&sequences.iter().collect::<Vec<_>>());
    let mut placed = Vec::with_capacity(sequences.len());
    let lengths: Vec<usize> = order.iter().map(|i| sequences[*i].ids.len()).collect();
    for run in runs_within(&lengths, budget) {
        let batch: Vec<&TokenSeq> = order[run.clone()].iter().map(|i| &sequences[*i]).collect();
        placed.extend(order[run.clone()].iter().copied().zip(compute(&batch)?));
        done(lengths[run].iter().sum());
    }
    placed.sort_unstable_by_key(|(i, _)| *i);
    Ok(placed.into_iter().map(|(_, computed)| computed).collect())
}

#[cfg(test)]
mod tests;

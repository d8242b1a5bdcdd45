//! A batch of token sequences becomes means and variances.
//!
//! [`Scorer`] is a reward model with its posterior: one forward for the means and, where a variance is wanted, one
//! backward whose Jacobians are contracted with the posterior block by block, and never kept.

use crate::{
    Result,
    model::{RewardModel, sink::Jacobians},
    nn::pack::Packed,
    posterior::Posterior,
    text::TokenSeq,
};

pub mod penalty;

/// The posterior of one reward.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    pub mean: f64,
    /// `None` where it was not asked for or the model has no posterior.
    pub variance: Option<f64>,
}

/// Whatever can score a batch: the real model, or a stand-in in the tests of the queue.
pub trait Score: Send {
    /// Scores `batch`, one estimate per sequence in its order.
    fn score(&mut self, batch: &[&TokenSeq], variance: bool) -> Result<Vec<Estimate>>;
}

/// A reward model and, where it was fitted, its posterior.
#[derive(Debug)]
pub struct Scorer {
    pub model: RewardModel,
    pub posterior: Option<Posterior>,
}

impl Score for Scorer {
    fn score(&mut self, batch: &[&TokenSeq], variance: bool) -> Result<Vec<Estimate>> {
        let packed = Packed::sequences(batch.iter().copied());
        match self.posterior.as_ref().filter(|_| variance) {
            None => {
                let means = self.model.rewards(&packed)?;
                Ok(means.into_iter().map(|mean| Estimate { mean, variance: None }).collect())
            }
            Some(posterior) => {
                let (means, variances) = with_variances(&self.model, posterior, &packed, 1)?;
                let both = means.into_iter().zip(variances);
                Ok(both.map(|(mean, variance)| Estimate { mean, variance: Some(variance) }).collect())
            }
        }
    }
}

/// Rewards, and the variance of each group's combination of them: of the reward itself where a group has one, of the
/// difference chosen - rejected where it has two.
pub fn with_variances(
    model: &RewardModel,
    posterior: &Posterior,
    packed: &Packed,
    rewards_per_group: usize,
) -> Result<(Vec<f64>, Vec<f64>)> {
    let mut variances = vec![0.0; packed.groups.len()];
    let trace = model.forward(packed)?;
    let cotangents: Vec<f64> =
        (0..packed.pooled.len()).map(|i| if i % rewards_per_group == 0 { 1.0 } else { -1.0 }).collect();
    let mut sink = Jacobians::new(&packed.groups, |name, jacobians| {
        // A block that the posterior leaves out is known exactly.
        if let Some(block) = posterior.blocks.get(name) {
            let of_block = block.variances(jacobians)?;
            variances.iter_mut().zip(of_block).for_each(|(sum, v)| *sum += v);
        }
        Ok(())
    });
    model.backward(packed, &trace, &cotangents, &mut sink)?;
    Ok((trace.rewards().to_vec(), variances))
}

/// Scores any number of sequences in batches of at most `budget` tokens, of similar lengths; `done` hears of the tokens of
/// each batch. Estimates come in the order of the sequences.
pub fn in_batches(
    scorer: &mut dyn Score,
    sequences: &[TokenSeq],
    variance: bool,
    budget: usize,
    mut done: impl FnMut(usize),
) -> Result<Vec<Estimate>> {
    let mut order: Vec<usize> = (0..sequences.len()).collect();
    order.sort_by_key(|i| sequences[*i].ids.len());
    let mut estimates = vec![Estimate { mean: 0.0, variance: None }; sequences.len()];
    let mut rest = &order[..];
    while !rest.is_empty() {
        let mut tokens = 0;
        let fits = |i: &&usize| {
            tokens += sequences[**i].ids.len();
            tokens <= budget
        };
        let count = rest.iter().take_while(fits).count().max(1);
        let (now, later) = rest.split_at(count);
        let batch: Vec<&TokenSeq> = now.iter().map(|i| &sequences[*i]).collect();
        for (i, estimate) in now.iter().zip(scorer.score(&batch, variance)?) {
            estimates[*i] = estimate;
        }
        done(batch.iter().map(|sequence| sequence.ids.len()).sum());
        rest = later;
    }
    Ok(estimates)
}

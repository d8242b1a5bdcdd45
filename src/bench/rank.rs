//! Means with variances by rank of the update, on the same base.
//!
//! For each rank a fresh adapter takes the place of the model's own, on the same linear layers, with a stand-in for its
//! posterior ([`super::posterior`]): the numbers that come out mean nothing, what is computed is the same.

use super::{Plan, posterior::stand_in, sequences::Sequences, timer::Timer};
use crate::{
    Result,
    model::{
        RewardModel,
        adapter::{Adapter, LoraSpec},
        checkpoint::Checkpoint,
        site::Projection,
    },
    score::{Score, Scorer, Sharing, Want},
    text::TokenSeq,
};
use candle_core::{DType, Device};
use serde::Serialize;

/// Tokens of the batch and of each sequence, where the model takes so many.
const BATCH: usize = 512;
const LENGTH: usize = 256;

/// One rank.
#[derive(Debug, Clone, Serialize)]
pub struct Ranked {
    pub rank: usize,
    /// Numbers of the adapter, its head included.
    pub parameters: usize,
    /// Tokens of the batch.
    pub tokens: usize,
    /// Of means alone, on the same batch.
    pub mean_tokens_per_second: f64,
    /// Of means and variances.
    pub variance_tokens_per_second: f64,
}

/// Fresh weights of a rank on some linear layers.
pub fn fresh(base: &Checkpoint, rank: usize, targets: &[Projection], seed: u64) -> Result<Adapter> {
    let spec = LoraSpec { rank, alpha: 2.0 * rank as f64, rslora: false, targets: targets.to_vec() };
    Adapter::init(spec, &base.config, seed)
}

/// Measures every rank of the plan on a base.
pub fn measure(base: &Checkpoint, targets: &[Projection], plan: &Plan) -> Result<Vec<Ranked>> {
    let length = LENGTH.min(base.config.max_length);
    let sequences = Sequences::new(base.config.vocab_size, plan.seed).independent(BATCH / LENGTH, length);
    let (batch, timer) = (sequences.iter().collect::<Vec<_>>(), Timer::new(plan.seconds));
    let ranked = |rank: &usize| {
        tracing::info!("measuring rank {rank}");
        one(&fresh(base, *rank, targets, plan.seed)?, base, &batch, &timer)
    };
    plan.ranks.iter().map(ranked).collect()
}

fn one(adapter: &Adapter, base: &Checkpoint, batch: &[&TokenSeq], timer: &Timer) -> Result<Ranked> {
    let model = RewardModel::new(base, Some(adapter), DType::F32, &Device::Cpu)?;
    let posterior = stand_in(&model.shapes())?;
    let mut scorer = Scorer::new(model, Some(posterior), Sharing::Shared);
    let mean = timer.seconds(|| scorer.score(batch, Want::Mean).map(drop))?;
    let variance = timer.seconds(|| scorer.score(batch, Want::MeanAndVariance).map(drop))?;
    let tokens = batch.iter().map(|sequence| sequence.ids.len()).sum::<usize>();
    Ok(Ranked {
        rank: adapter.spec.rank,
        parameters: adapter.blocks().values().map(|block| block.elem_count()).sum(),
        tokens,
        mean_tokens_per_second: tokens as f64 / mean,
        variance_tokens_per_second: tokens as f64 / variance,
    })
}

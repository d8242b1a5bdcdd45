//! The one pass of a sketch: the features of every pair's difference.
//!
//! The differences themselves are kept, not their sum: a pair's are a few thousand numbers, and every choice that comes
//! after (label noise, prior precisions) is then a matter of seconds.

use super::{Likelihood, likelihood};
use crate::{
    Result,
    model::{RewardModel, sink::Jacobians},
    nn::pack::Packed,
    posterior::{
        fit::Gram,
        sketch::{Features, Layout},
    },
    train::{Example, by_tokens},
};
use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

/// Pairs whose differences are added to a curvature at once.
const TOGETHER: usize = 512;

/// Pairs so far, in the order of the batches.
#[derive(Debug, Default)]
pub struct Sketched {
    /// phi(D_n), (n, m) of each micro-batch.
    pub features: Vec<Tensor>,
    /// f(chosen) - f(rejected) - margin.
    pub differences: Vec<f64>,
    /// What each pair counts.
    pub weights: Vec<f64>,
    /// Batches that are in.
    pub batches: usize,
}

/// All pairs under a likelihood.
pub struct Sums {
    /// W^1/2 D, (N, m).
    pub weighted: Tensor,
    /// H, the inner products of its columns.
    pub curvature: Gram,
    pub log_likelihood: f64,
}

impl Sketched {
    /// Adds a batch: D_n by one backward with the cotangents +1 and -1. Parts of it are computed side by side, each by a thread
    /// that waits for no other after every product.
    pub fn add(&mut self, model: &RewardModel, layout: &Layout, batch: &[&Example]) -> Result<()> {
        let parts = by_tokens(batch, model.tokens_kept() / rayon::current_num_threads());
        let computed = parts.par_iter().map(|part| features(model, layout, part));
        for (part, computed) in parts.iter().zip(computed.collect::<Vec<_>>()) {
            let (features, rewards) = computed?;
            self.features.push(features);
            for (example, reward) in part.iter().zip(rewards.chunks_exact(2)) {
                self.differences.push(reward[0] - reward[1] - example.margin);
                self.weights.push(example.weight);
            }
        }
        self.batches += 1;
        Ok(())
    }

    /// phi(D_n) of every pair, (N, m).
    pub fn features(&self) -> Result<Tensor> {
        Ok(Tensor::cat(&self.features, 0)?)
    }

    /// H and the log likelihood, where a share `noise` of the labels is wrong.
    pub fn sums(&self, layout: &Layout, noise: f64) -> Result<Sums> {
        let (mut curvature, mut log_likelihood) = (Gram::new(layout.features()), 0.0);
        let mut roots = Vec::with_capacity(self.differences.len());
        for (difference, weight) in self.differences.iter().zip(&self.weights) {
            let Likelihood { log, curvature } = likelihood(*difference, noise);
            log_likelihood += weight * log;
            roots.push((weight * curvature).sqrt());
        }
        let roots = Tensor::new(roots.as_slice(), &Device::Cpu)?.unsqueeze(1)?.to_dtype(DType::F32)?;
        let weighted = self.features()?.broadcast_mul(&roots)?;
        for first in (0..roots.dim(0)?).step_by(TOGETHER) {
            curvature.add(&weighted.narrow(0, first, TOGETHER.min(roots.dim(0)? - first))?)?;
        }
        Ok(Sums { weighted, curvature, log_likelihood })
    }
}

/// phi(D_n) of some pairs, (n, m), and their rewards by turns.
fn features(model: &RewardModel, layout: &Layout, pairs: &[&Example]) -> Result<(Tensor, Vec<f64>)> {
    let packed = Packed::pairs(pairs.iter().map(|e| (&e.chosen, &e.rejected)));
    let trace = model.forward(&packed)?;
    let mut features = Features::new(layout);
    let mut sink = Jacobians::new(&packed, |name, d| features.add(name, d));
    model.backward(&trace, &[1.0, -1.0].repeat(pairs.len()), &mut sink)?;
    Ok((features.finish()?, trace.rewards().to_vec()))
}

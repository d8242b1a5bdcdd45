//! Training a reward model on preference pairs: Bradley and Terry's loss, low-rank updates, AdamW.
//!
//! The order of all batches follows from the data and the seed ([`plan`]), so that a run that was interrupted goes on from
//! its last checkpoint with the very losses that it would have had. A step packs its pairs, shortest first, into
//! micro-batches of a token budget; the prompt of a pair is computed once; gradients add up over the micro-batches.

use crate::{
    Result,
    model::{RewardModel, sink::Gradients},
    nn::pack::{Packed, pair_tokens},
    text::TokenSeq,
};
use candle_core::Tensor;
use std::collections::BTreeMap;

pub mod checkpoint;
pub mod constructed;
pub mod loss;
pub mod optim;
pub mod plan;
pub mod run;

use loss::Loss;
use optim::AdamW;

/// A pair ready for the model.
#[derive(Debug, Clone)]
pub struct Example {
    pub chosen: TokenSeq,
    pub rejected: TokenSeq,
    pub margin: f64,
    pub weight: f64,
}

impl Example {
    /// Tokens that the forward computes.
    pub fn tokens(&self) -> usize {
        pair_tokens(&self.chosen, &self.rejected)
    }
}

/// What one optimiser step did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Mean loss over the step's pairs, before the step.
    pub loss: f64,
    /// Share of the pairs whose chosen answer scored higher.
    pub accuracy: f64,
    /// Norm of the gradient of all blocks together, before clipping.
    pub gradient_norm: f64,
}

/// A model in training.
#[derive(Debug)]
pub struct Trainer {
    pub model: RewardModel,
    pub optimizer: AdamW,
    pub loss: Loss,
    /// Gradients of a larger norm are scaled down to it.
    pub max_gradient_norm: f64,
    /// Most tokens in one forward and backward.
    pub micro_batch_tokens: usize,
}

impl Trainer {
    /// One optimiser step on `batch` at `learning_rate`.
    pub fn step(&mut self, batch: &[&Example], learning_rate: f64) -> Result<Step> {
        let (mut gradients, mut loss, mut right) = (BTreeMap::new(), 0.0, 0);
        // More tokens than a forward keeps are computed twice.
        let budget = self.micro_batch_tokens.min(self.model.tokens_kept());
        for micro in by_tokens(batch, budget) {
            let packed = Packed::pairs(micro.iter().map(|e| (&e.chosen, &e.rejected)));
            let trace = self.model.forward(&packed)?;
            let (value, cotangents) = self.loss.evaluate(&micro, trace.rewards(), batch.len());
            loss += value;
            right += trace.rewards().chunks_exact(2).filter(|r| r[0] > r[1]).count();
            let mut sink = Gradients::default();
            self.model.backward(&trace, &cotangents, &mut sink)?;
            add(&mut gradients, sink.0)?;
        }
        let gradient_norm = norm(&gradients)?;
        let scale = (self.max_gradient_norm / (gradient_norm + 1e-6)).min(1.0);
        let mut blocks = self.model.blocks()?;
        self.optimizer.step(&mut blocks, &gradients, scale, learning_rate)?;
        self.model.assign(&blocks)?;
        Ok(Step { loss, accuracy: right as f64 / batch.len() as f64, gradient_norm })
    }
}

/// Splits pairs, shortest first, into runs of at most `budget` tokens; a longer pair stands alone.
pub fn by_tokens<'a>(batch: &[&'a Example], budget: usize) -> Vec<Vec<&'a Example>> {
    let mut sorted = batch.to_vec();
    sorted.sort_by_key(|example| example.tokens());
    let (mut runs, mut room) = (Vec::<Vec<&Example>>::new(), 0);
    for example in sorted {
        let tokens = example.tokens();
        match runs.last_mut() {
            Some(run) if tokens <= room => {
                run.push(example);
                room -= tokens;
            }
            _ => {
                runs.push(vec![example]);
                room = budget.saturating_sub(tokens);
            }
        }
    }
    runs
}

fn add(sums: &mut BTreeMap<String, Tensor>, more: BTreeMap<String, Tensor>) -> Result<()> {
    for (name, gradient) in more {
        let sum = match sums.remove(&name) {
            Some(sum) => (sum + gradient)?,
            None => gradient,
        };
        sums.insert(name, sum);
    }
    Ok(())
}

fn norm(gradients: &BTreeMap<String, Tensor>) -> Result<f64> {
    let mut squares = 0.0;
    for gradient in gradients.values() {
        squares +=
            f64::from(gradient.sqr()?.sum_all()?.to_dtype(candle_core::DType::F32)?.to_scalar::<f32>()?);
    }
    Ok(squares.sqrt())
}

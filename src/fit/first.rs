//! The first pass: Kronecker factors, the head's exact matrix, and every pair's weight.

use crate::{
    Result,
    model::{
        RewardModel,
        sink::{Rows, Sink, Visit},
        site::Factor,
    },
    nn::pack::Packed,
    posterior::fit::{Factors, HeadFactor},
    train::{
        Example,
        loss::{sigmoid, softplus},
    },
};
use candle_core::Tensor;
use std::collections::BTreeMap;

/// Sums over the batches so far.
#[derive(Debug, Default)]
pub(super) struct First {
    pub factors: BTreeMap<String, Factors>,
    pub head: Option<HeadFactor>,
    /// w_n of every pair, batch by batch.
    pub weights: Vec<Vec<f64>>,
    pub log_likelihood: f64,
}

/// Tokens that this pass computes for a pair.
pub(super) fn tokens(example: &Example) -> usize {
    example.chosen.ids.len() + example.rejected.ids.len()
}

impl First {
    pub fn add(&mut self, model: &RewardModel, batch: &[&Example]) -> Result<()> {
        // Every answer has its own cotangents at the prompt's tokens, so nothing is shared here.
        let packed = Packed::sequences(batch.iter().flat_map(|e| [&e.chosen, &e.rejected]));
        let trace = model.forward(&packed)?;
        let mut weights = Vec::with_capacity(batch.len());
        for (example, reward) in batch.iter().zip(trace.rewards().chunks_exact(2)) {
            let delta = reward[0] - reward[1] - example.margin;
            let p = sigmoid(delta);
            weights.push(example.weight * p * (1.0 - p));
            self.log_likelihood -= example.weight * softplus(-delta);
        }
        let tokens = packed.groups.iter().enumerate();
        let per_token =
            tokens.flat_map(|(i, tokens)| tokens.clone().map(move |_| i / 2)).map(|n| weights[n]).collect();
        let per_reward = (0..packed.pooled.len()).map(|i| weights[i / 2]).collect();
        let mut sink = FactorSink { first: self, per_token, per_reward, per_pair: &weights };
        model.backward(&trace, &vec![1.0; 2 * batch.len()], &mut sink)?;
        self.weights.push(weights);
        Ok(())
    }
}

struct FactorSink<'a> {
    first: &'a mut First,
    per_token: Vec<f64>,
    per_reward: Vec<f64>,
    per_pair: &'a [f64],
}

impl FactorSink<'_> {
    fn add(&mut self, name: String, rows: Rows, x: &Tensor, g: &Tensor) -> Result<()> {
        let factors = self.first.factors.entry(name);
        let weights = match rows {
            Rows::All => &self.per_token,
            Rows::Pooled => &self.per_reward,
        };
        factors.or_insert(Factors::new(g.dim(1)?, x.dim(1)?)).add(x, g, weights)
    }
}

impl Sink for FactorSink<'_> {
    fn visit(&mut self, visit: &Visit) -> Result<()> {
        for (site, lora, g) in visit.sites()? {
            self.add(site.block(Factor::A), visit.rows, visit.x, &lora.down_gradient(&g)?)?;
            self.add(site.block(Factor::B), visit.rows, &lora.down(visit.x)?, &lora.up_gradient(&g)?)?;
        }
        Ok(())
    }

    fn head(&mut self, hidden: &Tensor, _: &Tensor) -> Result<()> {
        let (rewards, size) = hidden.dims2()?;
        // (2 n, C) -> (n, 2, C)
        let sides = hidden.reshape((rewards / 2, 2, size))?;
        let difference = (sides.narrow(1, 0, 1)? - sides.narrow(1, 1, 1)?)?;
        self.first.head.get_or_insert(HeadFactor::new(size)).add(&difference, self.per_pair)
    }
}

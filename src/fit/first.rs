//! The first pass: Kronecker factors, the head's exact matrix, and every pair's weight.

use super::{Likelihood, likelihood};
use crate::{
    Result,
    model::{
        RewardModel,
        sink::{Rows, Sink, Visit},
        site::Factor,
    },
    nn::pack::{Packed, unfold::Unfolded},
    posterior::fit::{Factors, Gram, HeadFactor, Live},
    train::{Example, by_tokens},
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

/// Tokens that this pass walks back for a pair.
pub(super) fn tokens(example: &Example) -> usize {
    example.chosen.ids.len() + example.rejected.ids.len()
}

impl First {
    /// The factors of a block with these output gradients and inputs, zero at first.
    fn of(&mut self, name: &str, g: &Tensor, x: &Tensor) -> Result<&mut Factors> {
        let (d_out, d_in) = (g.dim(1)?, x.dim(1)?);
        Ok(self.factors.entry(name.to_owned()).or_insert_with(|| Factors::new(d_out, d_in)))
    }

    /// Adds a batch, shortest pairs first.
    pub fn add(&mut self, model: &RewardModel, batch: &[&Example], noise: f64) -> Result<()> {
        let mut weights = Vec::with_capacity(batch.len());
        for micro in by_tokens(batch, model.tokens_kept()) {
            weights.extend(self.walk(model, &micro, noise)?);
        }
        self.weights.push(weights);
        Ok(())
    }

    /// Adds pairs and returns their weights.
    fn walk(&mut self, model: &RewardModel, pairs: &[&Example], noise: f64) -> Result<Vec<f64>> {
        let packed = Packed::pairs(pairs.iter().map(|e| (&e.chosen, &e.rejected)));
        let trace = model.forward(&packed)?;
        let mut weights = Vec::with_capacity(pairs.len());
        for (example, reward) in pairs.iter().zip(trace.rewards().chunks_exact(2)) {
            let Likelihood { log, curvature } = likelihood(reward[0] - reward[1] - example.margin, noise);
            weights.push(example.weight * curvature);
            self.log_likelihood += example.weight * log;
        }
        // Every answer has its own cotangents at the prompt's tokens: the backward walks both sequences, the first of a
        // pair before the second.
        let both: Vec<usize> = (0..2 * pairs.len()).collect();
        let Unfolded { packed: sequences, rows } = packed.unfold(&both);
        let groups = sequences.groups.iter().enumerate();
        let all = groups.flat_map(|(i, tokens)| tokens.clone().map(move |_| i / 2)).map(|n| weights[n]);
        let (all, pooled) = (all.collect(), both.iter().map(|i| weights[i / 2]).collect());
        let mut sink = FactorSink {
            first: self,
            all: Tokens { weights: all, origins: rows },
            pooled: Tokens { weights: pooled, origins: (0..).take(both.len()).collect() },
            per_pair: &weights,
        };
        model.head_backward(&trace, &mut sink)?;
        let mut descent = model.descend(&trace, &both)?;
        while descent.depth() > 0 {
            descent.layer(&mut sink)?;
        }
        Ok(weights)
    }
}

/// What is known of the tokens that are walked back.
struct Tokens {
    /// The weight of each one's pair.
    weights: Vec<f64>,
    /// The token of the forward that each was, and whose inputs it has.
    origins: Vec<u32>,
}

struct FactorSink<'a> {
    first: &'a mut First,
    all: Tokens,
    pooled: Tokens,
    per_pair: &'a [f64],
}

impl Sink for FactorSink<'_> {
    fn visit(&mut self, visit: &Visit) -> Result<()> {
        let Self { first, all, pooled, .. } = self;
        let Tokens { weights, origins } = match visit.rows {
            Rows::All => all,
            Rows::Pooled => pooled,
        };
        // Blocks of one input whose tokens are the same have one factor in common.
        let mut inputs: Vec<(Live, Vec<String>)> = Vec::new();
        for (site, lora, g) in visit.sites()? {
            let (name, ga) = (site.block(Factor::A), lora.down_gradient(&g)?);
            let live = Live::of(&ga, weights)?;
            first.of(&name, &ga, visit.x)?.add_outputs(&live, &ga, 1.0)?;
            match inputs.iter_mut().find(|(other, _)| *other == live) {
                Some((_, names)) => names.push(name),
                None => inputs.push((live, vec![name])),
            }
            // s g, with the scale among the weights.
            let (live, h) = (Live::of(&g, weights)?, lora.down(visit.x)?);
            let factors = first.of(&site.block(Factor::B), &g, &h)?;
            factors.add_outputs(&live, &g, lora.scale)?;
            factors.input.add(&live.weighted(&h, 1.0)?)?;
        }
        for (live, names) in inputs {
            let rows = live.merged(origins).weighted(visit.x, 1.0)?;
            let shared = first.factors.iter_mut().filter(|(name, _)| names.contains(name));
            Gram::add_to_all(shared.map(|(_, factors)| &mut factors.input).collect(), &rows)?;
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

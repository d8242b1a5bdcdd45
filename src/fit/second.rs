//! EKFAC's second pass: S = sum_n w_n (U_o^T D_n U_i)^2 for every block with factors.

use crate::{
    Result,
    model::{RewardModel, sink::Jacobians},
    nn::pack::Packed,
    posterior::fit::{Curvature, Ekfac, Factors, Rank},
    train::{Example, by_tokens},
};
use candle_core::{DType, Tensor};
use std::collections::BTreeMap;

/// Pairs that are rotated at once at least, where a batch has as many: below, reading a basis takes longer than multiplying.
const TOGETHER: usize = 16;

/// Differences of pairs by block, (n, d_short, d_long) each.
type Waiting = BTreeMap<String, Vec<Tensor>>;

/// Sums over the batches so far.
pub(super) struct Second {
    pub sums: BTreeMap<String, Ekfac>,
    /// Batches that are in the sums.
    pub batches: usize,
}

impl Second {
    /// Decomposes the factors and starts at zero.
    pub fn new(factors: BTreeMap<String, Factors>) -> Result<Self> {
        let mut sums = BTreeMap::new();
        for (name, factors) in factors {
            let bases = factors.eigenbases(&name, DType::F32)?;
            sums.insert(name.clone(), Ekfac::new(name, bases)?);
        }
        Ok(Self { sums, batches: 0 })
    }

    /// Adds a batch, shortest pairs first, whose differences wait until they are many enough to be rotated at once.
    pub fn add(&mut self, model: &RewardModel, batch: &[&Example], weights: &[f64]) -> Result<()> {
        let (mut waiting, mut start, mut end) = (Waiting::new(), 0, 0);
        for micro in by_tokens(batch, model.tokens_kept()) {
            self.walk(model, &micro, &mut waiting)?;
            end += micro.len();
            if end - start >= TOGETHER || end == batch.len() {
                self.rotate(&mut waiting, &weights[start..end])?;
                start = end;
            }
        }
        self.batches += 1;
        Ok(())
    }

    fn walk(&self, model: &RewardModel, pairs: &[&Example], waiting: &mut Waiting) -> Result<()> {
        let packed = Packed::pairs(pairs.iter().map(|e| (&e.chosen, &e.rejected)));
        let trace = model.forward(&packed)?;
        let cotangents = [1.0, -1.0].repeat(pairs.len());
        let mut sink = Jacobians::new(&packed, |name, d| {
            if let Some(sum) = self.sums.get(name) {
                waiting.entry(name.to_owned()).or_default().push(sum.oriented(d)?);
            }
            Ok(())
        });
        model.backward(&trace, &cotangents, &mut sink)
    }

    fn rotate(&mut self, waiting: &mut Waiting, weights: &[f64]) -> Result<()> {
        for (name, differences) in std::mem::take(waiting) {
            if let Some(sum) = self.sums.get_mut(&name) {
                sum.add_oriented(&Tensor::cat(&differences, 0)?, weights)?;
            }
        }
        Ok(())
    }

    pub fn finish(self, rank: Rank) -> Result<BTreeMap<String, Curvature>> {
        self.sums.into_iter().map(|(name, sum)| Ok((name, sum.finish(rank)?))).collect()
    }
}

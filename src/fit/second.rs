//! EKFAC's second pass: S = sum_n w_n (U_o^T D_n U_i)^2 for every block with factors.

use crate::{
    Result,
    model::{RewardModel, sink::Jacobians},
    nn::pack::Packed,
    posterior::fit::{Curvature, Ekfac, Factors, Rank},
    train::Example,
};
use candle_core::DType;
use std::collections::BTreeMap;

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

    pub fn add(&mut self, model: &RewardModel, batch: &[&Example], weights: &[f64]) -> Result<()> {
        let packed = Packed::pairs(batch.iter().map(|e| (&e.chosen, &e.rejected)));
        let trace = model.forward(&packed)?;
        let cotangents = [1.0, -1.0].repeat(batch.len());
        let sums = &mut self.sums;
        let mut sink = Jacobians::new(&packed, |name, d| match sums.get_mut(name) {
            Some(sum) => sum.add(d, weights),
            None => Ok(()),
        });
        model.backward(&trace, &cotangents, &mut sink)?;
        self.batches += 1;
        Ok(())
    }

    pub fn finish(self, rank: Rank) -> Result<BTreeMap<String, Curvature>> {
        self.sums.into_iter().map(|(name, sum)| Ok((name, sum.finish(rank)?))).collect()
    }
}

//! Sequences whose forward has run, ready to be walked back: all of them, or those that a selection asks for.

use super::select::{Descent, Pool};
use crate::{
    Result,
    model::{self, RewardModel, Trace, sink::Jacobians},
    posterior::Posterior,
};

pub struct Candidates<'a> {
    model: &'a RewardModel,
    /// Without one no variance grows.
    posterior: Option<&'a Posterior>,
    trace: &'a Trace<'a>,
    /// What the head's block adds to each variance.
    heads: Vec<f64>,
    depth: usize,
}

impl<'a> Candidates<'a> {
    pub fn new(
        model: &'a RewardModel,
        posterior: Option<&'a Posterior>,
        trace: &'a Trace<'a>,
    ) -> Result<Self> {
        let descent = model.descend(trace, &[])?;
        let depth = posterior.map_or(0, |_| descent.depth());
        let mut candidates = Self { model, posterior, trace, heads: vec![0.0; trace.rewards().len()], depth };
        candidates.heads = candidates.of_head()?;
        Ok(candidates)
    }

    fn of_head(&self) -> Result<Vec<f64>> {
        let mut heads = self.heads.clone();
        if let Some(posterior) = self.posterior {
            let count = heads.len();
            let mut sink = Jacobians::of_head(count, |name, j| add(posterior, name, j, &mut heads));
            self.model.head_backward(self.trace, &mut sink)?;
        }
        Ok(heads)
    }

    /// Every variance in full, in batches of about `budget` tokens.
    pub fn variances(&self, budget: usize) -> Result<Vec<f64>> {
        let mut variances = self.heads.clone();
        let mut start = 0;
        for end in self.batches(budget) {
            let rewards: Vec<usize> = (start..end).collect();
            let mut descent = self.descend(&rewards)?;
            for _ in 0..self.depth {
                descent.layer(&mut variances[start..end])?;
            }
            start = end;
        }
        Ok(variances)
    }

    /// Ends of runs of at most `budget` tokens.
    fn batches(&self, budget: usize) -> Vec<usize> {
        let lengths = self.trace.lengths();
        let mut ends = Vec::new();
        let mut tokens = 0;
        for (i, length) in lengths.iter().enumerate() {
            if tokens > 0 && tokens + length > budget {
                ends.push(i);
                tokens = 0;
            }
            tokens += length;
        }
        ends.push(lengths.len());
        ends
    }
}

impl Pool for Candidates<'_> {
    fn means(&self) -> &[f64] {
        self.trace.rewards()
    }

    fn head_variances(&self) -> &[f64] {
        &self.heads
    }

    fn depth(&self) -> usize {
        self.depth
    }

    fn descend(&self, candidates: &[usize]) -> Result<Box<dyn Descent + '_>> {
        let walk = self.model.descend(self.trace, candidates)?;
        Ok(Box::new(Walk { walk, posterior: self.posterior }))
    }
}

/// A backward that adds to variances.
struct Walk<'a> {
    walk: model::descent::Descent<'a>,
    posterior: Option<&'a Posterior>,
}

impl Descent for Walk<'_> {
    fn layer(&mut self, sums: &mut [f64]) -> Result<()> {
        let Some(posterior) = self.posterior else { return Ok(()) };
        let mut sink = Jacobians::new(self.walk.packed(), |name, j| add(posterior, name, j, sums));
        self.walk.layer(&mut sink)
    }

    fn keep(&mut self, positions: &[usize]) -> Result<()> {
        self.walk.keep(positions)
    }
}

/// Adds what a block contributes to each variance; one that the posterior leaves out is known exactly.
fn add(posterior: &Posterior, name: &str, jacobians: &candle_core::Tensor, sums: &mut [f64]) -> Result<()> {
    if let Some(block) = posterior.blocks.get(name) {
        let of_block = block.variances(jacobians)?;
        sums.iter_mut().zip(of_block).for_each(|(sum, v)| *sum += v);
    }
    Ok(())
}

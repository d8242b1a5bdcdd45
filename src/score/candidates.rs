//! Sequences whose forward has run, ready to be walked back: all of them, or those that a selection asks for.

use super::{
    runs_within,
    select::{Descent, Pool},
};
use crate::{
    Result,
    model::{self, RewardModel, Trace, sink::Jacobians},
    posterior::Posterior,
};

/// What can be asked of a forward pass.
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
        let mut heads = vec![0.0; trace.rewards().len()];
        if let Some(posterior) = posterior {
            let mut sink =
                Jacobians::of_head(heads.len(), |name, j| posterior.add_variances(name, j, &mut heads));
            model.head_backward(trace, &mut sink)?;
        }
        let depth = if posterior.is_some() { model.depth() } else { 0 };
        Ok(Self { model, posterior, trace, heads, depth })
    }

    /// Every variance in full, in batches of about `budget` tokens.
    pub fn variances(&self, budget: usize) -> Result<Vec<f64>> {
        let mut variances = self.heads.clone();
        for run in runs_within(&self.trace.lengths(), budget) {
            let mut descent = self.descend(&run.clone().collect::<Vec<_>>())?;
            for _ in 0..self.depth {
                descent.layer(&mut variances[run.clone()])?;
            }
        }
        Ok(variances)
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
        let mut sink = Jacobians::new(self.walk.packed(), |name, j| posterior.add_variances(name, j, sums));
        self.walk.layer(&mut sink)
    }

    fn keep(&mut self, positions: &[usize]) -> Result<()> {
        self.walk.keep(positions)
    }
}

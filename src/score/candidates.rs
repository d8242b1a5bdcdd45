//! Sequences whose forward has run, ready to be walked back: all of them, or those that a selection asks for.

use super::{
    runs_within,
    select::{Descent, Pool},
};
use crate::{
    Result,
    model::{self, RewardModel, Trace, sink::Jacobians},
    posterior::{Posterior, Walk, Wanted},
};

/// What can be asked of a forward pass.
pub struct Candidates<'a> {
    model: &'a RewardModel,
    trace: &'a Trace<'a>,
    /// What the posterior knows from the head alone, of every sequence.
    head: Option<Walk<'a>>,
    /// The variances of that, 0 without a posterior.
    heads: Vec<f64>,
    depth: usize,
}

impl<'a> Candidates<'a> {
    pub fn new(
        model: &'a RewardModel,
        posterior: Option<&'a Posterior>,
        trace: &'a Trace<'a>,
        wanted: Wanted,
    ) -> Result<Self> {
        let count = trace.rewards().len();
        let mut head = posterior.map(|posterior| posterior.walk(count, wanted));
        if let Some(walk) = &mut head {
            model.head_backward(trace, &mut Jacobians::of_head(count, |name, j| walk.add(name, j)))?;
        }
        let heads = head.as_ref().map_or_else(|| vec![0.0; count], |walk| walk.variances().to_vec());
        let depth = if posterior.is_some() { model.depth() } else { 0 };
        Ok(Self { model, trace, head, heads, depth })
    }

    /// Walks all sequences down, in batches of about `budget` tokens: what the posterior knows of each batch.
    pub fn all(&self, budget: usize) -> Result<Vec<Walk<'a>>> {
        let mut walked = Vec::new();
        for run in runs_within(&self.trace.lengths(), budget) {
            let mut way = self.start(&run.collect::<Vec<_>>())?;
            for _ in 0..self.depth {
                way.walk_layer()?;
            }
            walked.extend(way.known);
        }
        Ok(walked)
    }

    fn start(&self, candidates: &[usize]) -> Result<Way<'a>> {
        let mut known = self.head.clone();
        if let Some(walk) = &mut known {
            walk.keep(candidates)?;
        }
        Ok(Way { descent: self.model.descend(self.trace, candidates)?, known })
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
        Ok(Box::new(self.start(candidates)?))
    }
}

/// A backward that shows its gradients to the posterior.
struct Way<'a> {
    descent: model::descent::Descent<'a>,
    known: Option<Walk<'a>>,
}

impl Way<'_> {
    fn walk_layer(&mut self) -> Result<()> {
        let Some(known) = &mut self.known else { return Ok(()) };
        let mut sink = Jacobians::new(self.descent.packed(), |name, j| known.add(name, j));
        self.descent.layer(&mut sink)
    }
}

impl Descent for Way<'_> {
    fn prior_variances(&self) -> Vec<f64> {
        let none = || vec![0.0; self.descent.packed().pooled.len()];
        self.known.as_ref().map_or_else(none, |known| known.prior_variances().to_vec())
    }

    fn layer(&mut self, sums: &mut [f64]) -> Result<()> {
        self.walk_layer()?;
        if let Some(known) = &self.known {
            sums.copy_from_slice(known.variances());
        }
        Ok(())
    }

    fn keep(&mut self, positions: &[usize]) -> Result<()> {
        self.descent.keep(positions)?;
        self.known.as_mut().map_or(Ok(()), |known| known.keep(positions))
    }
}

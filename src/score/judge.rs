//! What is served, whatever it is made of: a scorer that others use as well, an ensemble, rewards on another scale.

use std::sync::Arc;

use super::{Embed, Embedding, Estimate, Score, Scorer, Want, penalty::Penalty, select::Selected};
use crate::{Result, text::TokenSeq};

/// What is served: rewards one by one, and beside each other.
pub trait Judge: Score + Embed {}

impl<T: Score + Embed> Judge for T {}

/// A scorer that others use as well.
impl Score for Arc<Scorer> {
    fn score(&mut self, batch: &[&TokenSeq], want: Want) -> Result<Vec<Estimate>> {
        self.estimates(batch, want)
    }

    fn best_of(&mut self, candidates: &[&TokenSeq], penalty: Penalty, top: usize) -> Result<Selected> {
        Scorer::best_of(self, candidates, penalty, top)
    }

    fn warm_up(&mut self, sequence: &TokenSeq) -> Result<()> {
        self.run_once(sequence)
    }
}

impl<T: Score + ?Sized> Score for Box<T> {
    fn score(&mut self, batch: &[&TokenSeq], want: Want) -> Result<Vec<Estimate>> {
        self.as_mut().score(batch, want)
    }

    fn best_of(&mut self, candidates: &[&TokenSeq], penalty: Penalty, top: usize) -> Result<Selected> {
        self.as_mut().best_of(candidates, penalty, top)
    }

    fn warm_up(&mut self, sequence: &TokenSeq) -> Result<()> {
        self.as_mut().warm_up(sequence)
    }
}

impl<T: Embed + ?Sized> Embed for Box<T> {
    fn embed(&self, batch: &[&TokenSeq]) -> Result<Vec<Embedding>> {
        self.as_ref().embed(batch)
    }

    fn has_variances(&self) -> bool {
        self.as_ref().has_variances()
    }
}

impl<T: Embed> Embed for Arc<T> {
    fn embed(&self, batch: &[&TokenSeq]) -> Result<Vec<Embedding>> {
        self.as_ref().embed(batch)
    }

    fn has_variances(&self) -> bool {
        self.as_ref().has_variances()
    }
}

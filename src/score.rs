//! A batch of token sequences becomes means and variances.

use crate::{Result, text::TokenSeq};

pub mod penalty;

/// The posterior of one reward.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    pub mean: f64,
    /// `None` where it was not asked for or the model has no posterior.
    pub variance: Option<f64>,
}

/// Whatever can score a batch: the real model, or a stand-in in the tests of the queue.
pub trait Score: Send {
    /// Scores `batch`, one estimate per sequence in its order.
    fn score(&mut self, batch: &[&TokenSeq], variance: bool) -> Result<Vec<Estimate>>;
}

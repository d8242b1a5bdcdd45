//! Rewards beside each other: vectors whose inner products are their covariances.

use super::Estimate;
use crate::{Result, text::TokenSeq};

/// The posterior of one reward beside those of others.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedding {
    /// Posterior mean of the reward.
    pub mean: f64,
    /// The variance that the head alone has.
    pub head_variance: f64,
    /// Inner products of two vectors are the covariances of their rewards.
    pub vector: Vec<f32>,
}

impl Embedding {
    /// Mean and variance; no variance without a vector.
    pub fn estimate(&self) -> Estimate {
        let variance = (!self.vector.is_empty()).then(|| self.covariance(self));
        Estimate { mean: self.mean, variance }
    }

    /// Gives the vector the length that its variance has where that is known apart from it: a projection keeps it only nearly.
    pub fn of_variance(mut self, variance: f64) -> Self {
        let scale = (variance / self.covariance(&self)).sqrt();
        if scale.is_finite() {
            self.vector.iter_mut().for_each(|y| *y = (f64::from(*y) * scale) as f32);
        }
        self
    }

    /// The covariance with another reward.
    pub fn covariance(&self, other: &Self) -> f64 {
        self.vector.iter().zip(&other.vector).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    }

    /// The variance of the difference to another reward, from the difference of the vectors: nothing cancels.
    pub fn difference_variance(&self, other: &Self) -> f64 {
        self.vector.iter().zip(&other.vector).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum()
    }
}

/// Whatever can say how the rewards of a batch vary together.
pub trait Embed {
    /// One embedding per sequence in the order of the batch.
    fn embed(&self, batch: &[&TokenSeq]) -> Result<Vec<Embedding>>;

    /// Whether there are variances; without, the embeddings are means alone.
    fn has_variances(&self) -> bool;
}

//! Rewards beside each other: vectors whose inner products are their covariances.

use super::{Estimate, contraction};
use crate::{Result, text::TokenSeq};

/// Share of the rewards' prior variances below which that of a difference is the rounding of single precision.
const ROUNDING: f64 = 1e-10;

/// The posterior of one reward beside those of others.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedding {
    /// Posterior mean of the reward.
    pub mean: f64,
    /// The variance that the head alone has.
    pub head_variance: f64,
    /// Inner products of two vectors are the covariances of their rewards; empty without a posterior.
    pub vector: Vec<f32>,
    /// The same before any preference pair was seen.
    pub prior: Vec<f32>,
    /// Of an ensemble, how far each member's mean is from the mean of all, over the root of their number: inner products add to the
    /// covariances. Empty for a single model.
    pub deviations: Vec<f32>,
}

impl Embedding {
    /// A mean without a variance.
    pub fn of_mean(mean: f64) -> Self {
        Self { mean, head_variance: 0.0, vector: Vec::new(), prior: Vec::new(), deviations: Vec::new() }
    }

    /// Whether there is a variance: without a posterior, an ensemble's members still differ.
    pub fn has_variance(&self) -> bool {
        !(self.vector.is_empty() && self.deviations.is_empty())
    }

    /// Mean, variance and contraction; no variance without vectors.
    pub fn estimate(&self) -> Estimate {
        let within = dot(&self.vector, &self.vector);
        let variance = self.has_variance().then(|| within + dot(&self.deviations, &self.deviations));
        let contraction = contraction(within, dot(&self.prior, &self.prior));
        Estimate { mean: self.mean, variance, contraction }
    }

    /// Gives the vectors the lengths that their variances have where those are known apart from them: a projection keeps them
    /// only nearly.
    pub fn of_variances(mut self, variance: f64, prior_variance: f64) -> Self {
        for (vector, variance) in [(&mut self.vector, variance), (&mut self.prior, prior_variance)] {
            let scale = (variance / dot(vector, vector)).sqrt();
            if scale.is_finite() {
                vector.iter_mut().for_each(|y| *y = (f64::from(*y) * scale) as f32);
            }
        }
        self
    }

    /// The variance before any preference pair was seen; of an ensemble the mean over its members. `None` without a posterior.
    pub fn prior_variance(&self) -> Option<f64> {
        (!self.prior.is_empty()).then(|| dot(&self.prior, &self.prior))
    }

    /// The covariance with another reward.
    pub fn covariance(&self, other: &Self) -> f64 {
        dot(&self.vector, &other.vector) + dot(&self.deviations, &other.deviations)
    }

    /// The variance of the difference to another reward, from the difference of the vectors: nothing cancels.
    pub fn difference_variance(&self, other: &Self) -> f64 {
        squared_distance(&self.vector, &other.vector) + squared_distance(&self.deviations, &other.deviations)
    }

    /// The contraction of the difference to another reward, of an ensemble within its members; `None` where the prior knows the
    /// difference exactly, as of equal answers.
    pub fn difference_contraction(&self, other: &Self) -> Option<f64> {
        let prior = squared_distance(&self.prior, &other.prior);
        // Equal answers of two passes differ by rounding.
        let scale = dot(&self.prior, &self.prior) + dot(&other.prior, &other.prior);
        contraction(squared_distance(&self.vector, &other.vector), known(prior, scale))
    }
}

/// Each mean with the variance and the contraction of the reward's difference to the mean of all: of the centred covariances Z C Z,
/// Z = I - 11^T / M, under the posterior and under the prior.
pub fn relative_estimates(embeddings: &[Embedding]) -> Vec<Estimate> {
    let within = centred_squares(embeddings, |embedding| &embedding.vector);
    let prior = centred_squares(embeddings, |embedding| &embedding.prior);
    let between = centred_squares(embeddings, |embedding| &embedding.deviations);
    let scale = embeddings.iter().map(|e| dot(&e.prior, &e.prior)).sum::<f64>() / embeddings.len() as f64;
    let variances = within.into_iter().zip(prior).zip(between);
    let estimate = |(embedding, ((within, prior), between)): (&Embedding, ((f64, f64), f64))| Estimate {
        mean: embedding.mean,
        variance: embedding.has_variance().then_some(within + between),
        contraction: contraction(within, known(prior, scale)),
    };
    embeddings.iter().zip(variances).map(estimate).collect()
}

/// Squared distance of each vector from the mean of all.
fn centred_squares(embeddings: &[Embedding], of: fn(&Embedding) -> &[f32]) -> Vec<f64> {
    let features = embeddings.first().map_or(0, |embedding| of(embedding).len());
    let mut centre = vec![0.0; features];
    for embedding in embeddings {
        centre.iter_mut().zip(of(embedding)).for_each(|(sum, y)| *sum += f64::from(*y));
    }
    centre.iter_mut().for_each(|sum| *sum /= embeddings.len() as f64);
    let square = |embedding| {
        let both = of(embedding).iter().zip(&centre);
        both.map(|(y, centre)| (f64::from(*y) - centre).powi(2)).sum()
    };
    embeddings.iter().map(square).collect()
}

/// A prior variance of a difference, or 0 where it is rounding beside those of the rewards.
fn known(prior: f64, scale: f64) -> f64 {
    if prior > ROUNDING * scale { prior } else { 0.0 }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

fn squared_distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum()
}

/// Whatever can say how the rewards of a batch vary together.
pub trait Embed {
    /// One embedding per sequence in the order of the batch.
    fn embed(&self, batch: &[&TokenSeq]) -> Result<Vec<Embedding>>;

    /// Whether there are variances; without, the embeddings are means alone.
    fn has_variances(&self) -> bool;
}

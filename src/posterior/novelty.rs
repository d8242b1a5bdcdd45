//! How unusual an answer is: its place among the answers of the pairs that were held out of the fit.
//!
//! The measure is 1 - contraction, the share of the prior variance that the preference pairs left. The variance itself grows with
//! the size of the gradient, and calls answers with content unusual; its percentile stands under a name of its own.

use std::sync::Arc;

use super::config::Quantiles;
use crate::{evaluate::stability::percentile, score::Estimate};

/// Held-out answers' uncertainties, by their quantiles; cheap to clone.
#[derive(Debug, Clone, PartialEq)]
pub struct Novelty {
    /// Of 1 - contraction, as (probability, share), both rising; empty in posteriors of before it was stored.
    uncontracted: Arc<[(f64, f64)]>,
    /// Of the variance.
    variances: Arc<[(f64, f64)]>,
}

impl Novelty {
    /// Takes the quantiles of a fit; `None` if there are none.
    pub fn new(quantiles: &Quantiles) -> Option<Self> {
        let (uncontracted, variances) = (quantiles.uncontracted().into(), quantiles.single.clone().into());
        let novelty = Self { uncontracted, variances };
        (!(novelty.uncontracted.is_empty() && novelty.variances.is_empty())).then_some(novelty)
    }

    /// Returns the percentile of 1 - contraction, in [0, 1]; above the last quantile it is that one's probability.
    pub fn of(&self, estimate: &Estimate) -> Option<f64> {
        let uncontracted = 1.0 - estimate.contraction?;
        (!self.uncontracted.is_empty()).then(|| percentile(&self.uncontracted, uncontracted))
    }

    /// Returns the percentile of the variance likewise.
    pub fn of_variance(&self, estimate: &Estimate) -> Option<f64> {
        let variance = estimate.variance?;
        (!self.variances.is_empty()).then(|| percentile(&self.variances, variance))
    }

    /// The same of rewards on another scale: their variances are all multiplied with a factor, their contractions stay.
    pub fn scaled(&self, factor: f64) -> Self {
        let variances = self.variances.iter().map(|(p, variance)| (*p, factor * variance)).collect();
        Self { variances, ..self.clone() }
    }

    /// Returns the quantiles of 1 - contraction as (probability, share).
    pub fn uncontracted(&self) -> &[(f64, f64)] {
        &self.uncontracted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_its_place_among_those_held_out() {
        let quantiles = Quantiles {
            single: vec![(0.25, 1.0), (0.75, 3.0)],
            contraction_single: vec![(0.25, 0.25), (0.75, 0.75)],
            ..Quantiles::default()
        };
        let novelty = Novelty::new(&quantiles).unwrap();
        // (variance, prior variance) -> percentiles of 1 - contraction and of the variance.
        for ((v, prior), want) in [
            ((0.5, 4.0), (0.125, 0.125)),
            ((1.0, 4.0), (0.25, 0.25)),
            ((2.0, 4.0), (0.5, 0.5)),
            ((9.0, 10.0), (0.75, 0.75)),
            ((9.0, 36.0), (0.25, 0.75)),
        ] {
            let estimate = Estimate::of_variances(0.0, v, prior);
            assert_eq!(
                (novelty.of(&estimate), novelty.of_variance(&estimate)),
                (Some(want.0), Some(want.1)),
                "{v} {prior}"
            );
        }
        assert_eq!(novelty.of(&Estimate::of_mean(0.0)), None);
        assert_eq!(novelty.of(&Estimate::of_variances(0.0, 0.0, 0.0)), None);
        assert_eq!(novelty.scaled(4.0).of_variance(&Estimate::of_variances(0.0, 4.0, 9.0)), Some(0.25));
        assert_eq!(Novelty::new(&Quantiles::default()), None);
    }
}

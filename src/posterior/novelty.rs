//! How unusual the variance of a reward is: its place among those of the pairs that were held out of the fit.

use std::sync::Arc;

use crate::evaluate::stability::percentile;

/// Held-out pairs' variances of single rewards, by their quantiles; cheap to clone.
#[derive(Debug, Clone, PartialEq)]
pub struct Novelty {
    quantiles: Arc<[(f64, f64)]>,
}

impl Novelty {
    /// Takes quantiles as (probability, variance), both rising; `None` if there are none.
    pub fn new(quantiles: &[(f64, f64)]) -> Option<Self> {
        (!quantiles.is_empty()).then(|| Self { quantiles: quantiles.into() })
    }

    /// Returns the percentile of a variance, in [0, 1]. Above the last quantile it is that one's probability.
    pub fn of(&self, variance: f64) -> f64 {
        percentile(&self.quantiles, variance)
    }

    /// The same of variances that are all multiplied with a factor.
    pub fn scaled(&self, factor: f64) -> Self {
        Self { quantiles: self.quantiles.iter().map(|(p, variance)| (*p, factor * variance)).collect() }
    }

    /// Returns the quantiles as (probability, variance).
    pub fn quantiles(&self) -> &[(f64, f64)] {
        &self.quantiles
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variance_has_its_place_among_those_held_out() {
        let novelty = Novelty::new(&[(0.25, 1.0), (0.75, 3.0)]).unwrap();
        for (variance, want) in [(0.0, 0.0), (0.5, 0.125), (1.0, 0.25), (2.0, 0.5), (3.0, 0.75), (9.0, 0.75)]
        {
            assert_eq!(novelty.of(variance), want, "{variance}");
        }
        assert_eq!(Novelty::new(&[]), None);
    }
}

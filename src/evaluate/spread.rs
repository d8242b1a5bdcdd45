//! Where many values lie.

use super::{bootstrap::quantile, mean};
use serde::Serialize;

/// Probabilities of the quantiles: the median, the quartiles, and the ends of the middle nine tenths.
const PROBABILITIES: [f64; 5] = [0.05, 0.25, 0.5, 0.75, 0.95];

/// Mean and quantiles, in the unit of the values.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    pub mean: f64,
    /// (probability, value) by rising probability; linear between values (definition 7 of Hyndman and Fan, 1996).
    pub quantiles: [(f64, f64); 5],
}

impl Spread {
    /// `None` if there are no values.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let quantiles = || PROBABILITIES.map(|p| (p, quantile(&sorted, p)));
        (!values.is_empty()).then(|| Self { mean: mean(values), quantiles: quantiles() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_few_values_in_any_order() {
        let spread = Spread::of(&[4.0, 0.0, 2.0, 3.0, 1.0]).unwrap();
        assert_eq!(spread.mean, 2.0);
        let values = spread.quantiles.map(|(_, value)| value);
        crate::evaluate::fixture::assert_close(&values, &[0.2, 1.0, 2.0, 3.0, 3.8], 1e-12);
    }

    #[test]
    fn of_one_value_and_of_none() {
        assert!(Spread::of(&[7.0]).unwrap().quantiles.iter().all(|(_, value)| *value == 7.0));
        assert_eq!(Spread::of(&[]), None);
    }
}

//! The tokens that count in a block's factors: those with an output gradient, and their weights.

use std::collections::BTreeMap;

use candle_core::Tensor;

use crate::{Result, nn::gram};

/// Some rows of a batch, each with a weight.
#[derive(Debug, Clone, PartialEq)]
pub struct Live {
    rows: Vec<u32>,
    weights: Vec<f64>,
}

impl Live {
    /// The tokens whose output gradient g (T, d_out) is not zero, of the weights of all.
    pub fn of(g: &Tensor, weights: &[f64]) -> Result<Self> {
        let rows = gram::not_zero(g)?;
        let weights = rows.iter().map(|row| weights[*row as usize]).collect();
        Ok(Self { rows, weights })
    }

    /// Tokens of the same origin as one, with the sum of their weights: what they have in common is added once.
    pub fn merged(&self, origins: &[u32]) -> Self {
        let mut merged = BTreeMap::new();
        for (row, weight) in self.rows.iter().zip(&self.weights) {
            merged.entry(origins[*row as usize]).or_insert((*row, 0.0)).1 += weight;
        }
        let (rows, weights) = merged.into_values().unzip();
        Self { rows, weights }
    }

    /// Sum of the weights.
    pub fn weight(&self) -> f64 {
        self.weights.iter().sum()
    }

    /// The rows of x (T, d) times `scale` and the roots of their weights: what a factor is the sum of outer products of.
    pub fn weighted(&self, x: &Tensor, scale: f64) -> Result<Tensor> {
        let roots: Vec<f64> = self.weights.iter().map(|weight| scale * weight.sqrt()).collect();
        Ok(gram::scaled(x, &self.rows, &roots)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        nn::check::{random, values},
        posterior::fit::Gram,
    };

    #[test]
    fn tokens_of_one_origin_count_as_often_as_they_are() {
        let x = random(1, &[3, 4]);
        let origins = [0, 1, 2, 0, 1];
        let index = Tensor::new(&origins, x.device()).unwrap();
        let unfolded = x.index_select(&index, 0).unwrap();
        let live = Live { rows: vec![0, 2, 3, 4], weights: vec![0.25, 0.1, 0.2, 0.3] };
        let sum = |live: &Live| {
            let mut gram = Gram::new(4);
            gram.add(&live.weighted(&unfolded, 0.5).unwrap()).unwrap();
            values(&gram.to_tensor().unwrap())
        };
        let merged = live.merged(&origins);
        assert_eq!(merged.rows, [0, 4, 2]);
        assert!((merged.weight() - live.weight()).abs() < 1e-12);
        for (got, want) in sum(&merged).iter().zip(sum(&live)) {
            assert!((got - want).abs() < 1e-12);
        }
    }
}

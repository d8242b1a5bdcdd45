//! The matrix products of a pass over the frozen weights, and nothing else: a limit for any program that makes them.
//!
//! They are those of the engine, in its order and its layouts: forward x W^T with the rows of W^T following each other,
//! backward dy W with the rows of W, none for the model's own input; of the last layer all but the first only at the pooled tokens. Every layer has
//! weights of its own, so that they come from memory as in the real pass, not from a cache. Inputs are the same few
//! matrices throughout, and outputs go where the last went: both favour the limit.

use crate::{
    Result,
    model::config::Config,
    nn::cpu::gemm::{Matrix, MatrixMut},
};
use std::hint::black_box;

/// Layer and linear layer below which no gradient is formed, in a model with updates from the first layer on.
const LOWEST: (usize, usize) = (0, 0);

/// (d_out, d_in) of the linear layers of a block, those of one input together.
pub fn linear_weights(config: &Config) -> [(usize, usize); 4] {
    config.names.linears.map(|projections| {
        let shapes = projections.iter().map(|projection| projection.shape(config));
        shapes.fold((0, 0), |(rows, _), (d_out, d_in)| (rows + d_out, d_in))
    })
}

/// Tokens of a batch, and how many of them are pooled.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub tokens: usize,
    pub pooled: usize,
}

/// Which passes are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passes {
    /// A mean's.
    Forward,
    /// A variance's.
    ForwardAndBackward,
}

impl Passes {
    /// How many.
    pub fn count(self) -> usize {
        match self {
            Self::Forward => 1,
            Self::ForwardAndBackward => 2,
        }
    }
}

/// Weights of every layer, and room for inputs and outputs.
#[derive(Debug)]
pub struct Products {
    shapes: [(usize, usize); 4],
    /// By layer and linear layer; read as (d_in, d_out) forward and as (d_out, d_in) backward.
    layers: Vec<[Vec<f32>; 4]>,
    input: Vec<f32>,
    output: Vec<f32>,
}

impl Products {
    /// Weights in the sizes of a model, all written once.
    pub fn new(config: &Config) -> Self {
        let shapes = linear_weights(config);
        let layer = |_| shapes.map(|(rows, columns)| numbers(rows * columns));
        let layers = (0..config.layers).map(layer).collect();
        Self { shapes, layers, input: Vec::new(), output: Vec::new() }
    }

    /// Makes the products of the passes once.
    pub fn run(&mut self, size: Size, passes: Passes) -> Result<()> {
        let widest = self.shapes.iter().map(|(d_out, d_in)| *d_out.max(d_in)).max().unwrap_or(0);
        if self.input.len() < widest * size.tokens {
            self.input = numbers(widest * size.tokens);
            self.output = numbers(widest * size.tokens);
        }
        for layer in 0..self.layers.len() {
            (0..4).for_each(|linear| self.product(layer, linear, size, Passes::Forward));
        }
        if passes == Passes::ForwardAndBackward {
            let walked = (0..self.layers.len()).rev().flat_map(|layer| (0..4).rev().map(move |l| (layer, l)));
            for (layer, linear) in walked.filter(|at| *at != LOWEST) {
                self.product(layer, linear, size, passes);
            }
        }
        black_box(&self.output);
        Ok(())
    }

    /// One product; with [`Passes::ForwardAndBackward`] that of the backward.
    fn product(&mut self, layer: usize, linear: usize, size: Size, direction: Passes) {
        let rows = self.rows(layer, linear, size);
        let (d_out, d_in) = self.shapes[linear];
        let (inner, columns) = if direction == Passes::Forward { (d_in, d_out) } else { (d_out, d_in) };
        let weight = Matrix::new(&self.layers[layer][linear], (inner, columns), columns);
        let input = Matrix::new(&self.input, (rows, inner), inner);
        MatrixMut::new(&mut self.output, (rows, columns), columns).set_in_parallel(input, weight);
    }

    fn rows(&self, layer: usize, linear: usize, size: Size) -> usize {
        if layer + 1 == self.layers.len() && linear > 0 { size.pooled } else { size.tokens }
    }

    /// Floating-point operations of the passes, two for each product of numbers.
    pub fn operations(&self, size: Size, passes: Passes) -> f64 {
        let all = (0..self.layers.len()).flat_map(|layer| (0..4).map(move |linear| (layer, linear)));
        let of = |(layer, linear): (usize, usize)| {
            let (d_out, d_in) = self.shapes[linear];
            let products = if (layer, linear) == LOWEST { 1 } else { passes.count() };
            2.0 * (products * self.rows(layer, linear, size) * d_out * d_in) as f64
        };
        all.map(of).sum()
    }
}

/// Numbers that differ, none of them so small that a processor is slow with it.
fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i % 251) as f32 - 125.5) / 4096.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::checkpoint::Checkpoint;
    use std::path::Path;

    #[test]
    fn the_last_layer_counts_its_pooled_tokens_only() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/cases/llama-0/base");
        let config = Checkpoint::open(&folder).unwrap().config;
        // 4 heads and 2 x 2 key and value heads of 8, hidden size 32, width 40.
        assert_eq!(linear_weights(&config), [(64, 32), (32, 32), (80, 32), (32, 40)]);
        let mut products = Products::new(&config);
        let size = Size { tokens: 6, pooled: 2 };
        let [qkv, rest] = [64 * 32, 32 * 32 + 80 * 32 + 32 * 40].map(|numbers| 2.0 * f64::from(numbers));
        let want = 6.0 * (qkv + rest) + 6.0 * qkv + 2.0 * rest;
        assert_eq!(products.operations(size, Passes::Forward), want);
        let backward = want - 6.0 * qkv;
        assert_eq!(products.operations(size, Passes::ForwardAndBackward), want + backward);
        products.run(size, Passes::ForwardAndBackward).unwrap();
    }
}

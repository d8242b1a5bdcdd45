//! Sums of outer products over runs of tokens: what a trainable matrix's Jacobians are made of.

use super::{
    cpu::{self, Values},
    product::product,
};
use candle_core::{Result, Tensor};
use std::ops::Range;

/// sum_t left_t right_t^T over each group's tokens: (N, a), (N, b) -> (groups, a, b).
pub fn outer(left: &Tensor, right: &Tensor, groups: &[Range<usize>]) -> Result<Tensor> {
    if let Some([a, b]) = Values::of_matrices([left, right]) {
        let sums = cpu::outer::outer(a.matrix(), b.matrix(), groups);
        return cpu::tensor(sums, (groups.len(), left.dim(1)?, right.dim(1)?));
    }
    let products = groups.iter().map(|tokens| {
        let rows = |x: &Tensor| x.narrow(0, tokens.start, tokens.len());
        product(&rows(left)?.t()?, &rows(right)?.contiguous()?)
    });
    Tensor::stack(&products.collect::<Result<Vec<_>>>()?, 0)
}

//! Sums of outer products over runs of tokens: what a trainable matrix's Jacobians are made of.

use super::cpu::{self, Values};
use candle_core::{Device, Result, Tensor};
use std::ops::Range;

/// sum_t left_t right_t^T over each group's tokens: (N, a), (N, b) -> (groups, a, b).
pub fn outer(left: &Tensor, right: &Tensor, groups: &[Range<usize>]) -> Result<Tensor> {
    let dims = (left.dim(1)?, right.dim(1)?);
    if let Some([left, right]) = Values::of_all([left, right]) {
        let sums = cpu::outer::outer(&left, &right, dims, groups);
        return Tensor::from_vec(sums, (groups.len(), dims.0, dims.1), &Device::Cpu);
    }
    let products = groups.iter().map(|tokens| {
        let rows = |x: &Tensor| x.narrow(0, tokens.start, tokens.len());
        rows(left)?.t()?.matmul(&rows(right)?)
    });
    Tensor::stack(&products.collect::<Result<Vec<_>>>()?, 0)
}

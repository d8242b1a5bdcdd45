//! Sums of outer products over runs of tokens: the Jacobians of a batch.

use super::gemm::{Matrix, MatrixMut};
use rayon::prelude::*;
use std::ops::Range;

/// sum_t left_t right_t^T over each group's tokens: (N, a), (N, b) -> (groups, a, b).
pub fn outer(left: Matrix, right: Matrix, groups: &[Range<usize>]) -> Vec<f32> {
    let (a, b) = (left.columns(), right.columns());
    let mut sums = vec![0.0; groups.len() * a * b];
    if groups.len() < rayon::current_num_threads() {
        for (sum, tokens) in sums.chunks_exact_mut(a * b).zip(groups) {
            MatrixMut::new(sum, (a, b), b).set_in_parallel(left.rows(tokens).t(), right.rows(tokens));
        }
    } else {
        sums.par_chunks_exact_mut(a * b).zip(groups).for_each(|(sum, tokens)| {
            MatrixMut::new(sum, (a, b), b).set(left.rows(tokens).t(), right.rows(tokens));
        });
    }
    sums
}

//! Sums of outer products over runs of tokens: the Jacobians of a batch.

use super::gemm::{Matrix, MatrixMut};
use rayon::prelude::*;
use std::ops::Range;

/// sum_t left_t right_t^T over each group's tokens: (N, a), (N, b) -> (groups, a, b).
pub fn outer(left: &[f32], right: &[f32], (a, b): (usize, usize), groups: &[Range<usize>]) -> Vec<f32> {
    let mut sums = vec![0.0; groups.len() * a * b];
    let left = |tokens: &Range<usize>| Matrix::new(&left[tokens.start * a..], (tokens.len(), a), a).t();
    let right = |tokens: &Range<usize>| Matrix::new(&right[tokens.start * b..], (tokens.len(), b), b);
    if groups.len() < rayon::current_num_threads() {
        for (sum, tokens) in sums.chunks_exact_mut(a * b).zip(groups) {
            MatrixMut::new(sum, (a, b), b).set_in_parallel(left(tokens), right(tokens));
        }
    } else {
        sums.par_chunks_exact_mut(a * b).zip(groups).for_each(|(sum, tokens)| {
            MatrixMut::new(sum, (a, b), b).set(left(tokens), right(tokens));
        });
    }
    sums
}

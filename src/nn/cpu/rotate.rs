//! Weighted squares of a batch of Jacobians in a block's eigenbasis.

use super::{
    contract::norm,
    gemm::{Matrix, MatrixMut, product},
    vectorized,
};
use rayon::prelude::*;

/// Entries whose sums a task takes.
const GRAIN: usize = 1 << 11;

/// A block's bases, its long side last.
#[derive(Debug, Clone, Copy)]
pub struct Bases<'a> {
    /// U of the long side, (d, k).
    pub long: &'a [f32],
    /// U of the short side, (s, k_s).
    pub short: &'a [f32],
    /// d, k, s, k_s.
    pub dims: (usize, usize, usize, usize),
}

/// sum_n w_n (U_s^T J_n U)^2 of Jacobians (n, s, d), entry by entry: (k_s, k).
pub fn weighted_squares(bases: &Bases, jacobians: &[f32], weights: &[f64]) -> Vec<f64> {
    let (d, k, s, k_s) = bases.dims;
    assert_eq!(jacobians.len(), weights.len() * s * d, "a weight for each Jacobian");
    let short = Matrix::new(bases.short, (s, k_s), k_s);
    let mut turned = vec![0.0; weights.len() * k_s * d];
    turned.par_chunks_exact_mut(k_s * d).zip(jacobians.par_chunks_exact(s * d)).for_each(|(turned, j)| {
        MatrixMut::new(turned, (k_s, d), d).set(short.t(), Matrix::new(j, (s, d), d));
    });
    // Of all Jacobians at once, for the basis is read once for them.
    let turned = Matrix::new(&turned, (weights.len() * k_s, d), d);
    let q = product(turned, Matrix::new(bases.long, (d, k), k));
    let mut sums = vec![0.0; k_s * k];
    sums.par_chunks_mut(GRAIN).enumerate().for_each(|(chunk, sums)| {
        for (q, weight) in q.chunks_exact(k_s * k).zip(weights) {
            add_squares(sums, &q[chunk * GRAIN..][..sums.len()], *weight);
        }
    });
    sums
}

fn add_squares(sums: &mut [f64], q: &[f32], weight: f64) {
    vectorized(
        #[inline(always)]
        || {
            for (sum, q) in sums.iter_mut().zip(q) {
                *sum += weight * f64::from(*q) * f64::from(*q);
            }
        },
    );
}

/// sum_n w_n |J_n|^2 of Jacobians with rows of `d` numbers.
pub fn weighted_norms(d: usize, jacobians: &[f32], weights: &[f64]) -> f64 {
    let size = jacobians.len() / weights.len().max(1);
    let of_one = |(j, weight): (&[f32], &f64)| weight * j.chunks_exact(d).map(norm).sum::<f64>();
    jacobians.chunks_exact(size.max(1)).zip(weights).map(of_one).sum()
}

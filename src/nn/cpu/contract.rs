//! Squared features of a posterior block, from the Jacobians of a batch in one pass.

use super::{
    gemm::{Matrix, MatrixMut},
    sum_of, vectorized,
};
use rayon::prelude::*;

/// A block's bases and precisions, its long side last.
#[derive(Debug, Clone, Copy)]
pub struct Operands<'a> {
    /// U of the long side, (d, k).
    pub long: &'a [f32],
    /// U of the short side, (s, k_s).
    pub short: &'a [f32],
    /// 1 / sqrt(S + lambda), (k_s, k).
    pub scale: &'a [f32],
    /// 1 / sqrt(T + lambda), (k_s), where the long side is truncated.
    pub residual_scale: Option<&'a [f32]>,
    /// d, k, s, k_s.
    pub dims: (usize, usize, usize, usize),
}

/// Buffers of a thread.
#[derive(Default)]
struct Scratch {
    /// U_s^T J, (k_s, d); then what the long basis leaves out of it.
    turned: Vec<f32>,
    /// U_s^T J U, (k_s, k)
    inside: Vec<f32>,
}

/// sum of squared features of each Jacobian of (n, s, d): the variances that the block adds.
pub fn variances(x: &Operands, jacobians: &[f32]) -> Vec<f64> {
    let (d, k, s, k_s) = x.dims;
    let of_one = |scratch: &mut Scratch, j: &[f32]| {
        let Scratch { turned, inside } = scratch;
        turned.resize(k_s * d, 0.0);
        inside.resize(k_s * k, 0.0);
        let short = Matrix::new(x.short, (s, k_s), k_s);
        let long = Matrix::new(x.long, (d, k), k);
        MatrixMut::new(turned, (k_s, d), d).set(short.t(), Matrix::new(j, (s, d), d));
        MatrixMut::new(inside, (k_s, k), k).set(Matrix::new(turned, (k_s, d), d), long);
        let mut sum = squares(inside, x.scale);
        if let Some(scale) = x.residual_scale {
            let inside = Matrix::new(inside, (k_s, k), k);
            MatrixMut::new(turned, (k_s, d), d).subtract(inside, long.t());
            for (row, scale) in turned.chunks_exact(d).zip(scale) {
                sum += norm(row) * f64::from(*scale) * f64::from(*scale);
            }
        }
        sum
    };
    jacobians.par_chunks_exact(s * d).map_init(Scratch::default, of_one).collect()
}

/// sum (x_i scale_i)^2.
fn squares(x: &[f32], scale: &[f32]) -> f64 {
    x.iter().zip(scale).map(|(x, scale)| f64::from(x * scale).powi(2)).sum()
}

/// Squared norm; partial sums of a few thousand numbers in f32, as in a matrix product.
pub fn norm(x: &[f32]) -> f64 {
    vectorized(
        #[inline(always)]
        || {
            f64::from(sum_of(
                x.len(),
                #[inline(always)]
                |i| x[i] * x[i],
            ))
        },
    )
}

//! The inverse Cholesky factor of a curvature under a prior.
//!
//! Decomposed as M = Lambda^-1/2 H Lambda^-1/2 + I, whose eigenvalues begin at 1: prior precisions of very different size do
//! not make it ill-conditioned. Matrices are whole columns in memory, and of the size of H at most two are there at once.

use faer::{
    Mat,
    dyn_stack::{MemBuffer, MemStack},
    get_global_parallelism,
    linalg::{cholesky::llt::factor, triangular_inverse::invert_lower_triangular},
    prelude::default,
};

use crate::{Error, Result, posterior::fit::Gram};

/// The lower Cholesky factor L of M, M = Lambda^-1/2 H Lambda^-1/2 + I; `lambda` has a number for each feature.
pub fn cholesky(curvature: &Gram, lambda: &[f64]) -> Result<Mat<f64>> {
    let root: Vec<f64> = lambda.iter().map(|lambda| lambda.sqrt().recip()).collect();
    let mut m = Mat::zeros(lambda.len(), lambda.len());
    for j in 0..lambda.len() {
        let column = m.col_as_slice_mut(j);
        for i in j..lambda.len() {
            column[i] = curvature.at(i, j) * root[i] * root[j];
        }
        column[j] += 1.0;
    }
    lower_factor(m)
}

/// The lower Cholesky factor of a matrix of which the lower triangle is read.
pub fn lower_factor(mut matrix: Mat<f64>) -> Result<Mat<f64>> {
    let parallelism = get_global_parallelism();
    let scratch = factor::cholesky_in_place_scratch::<f64>(matrix.nrows(), parallelism, default());
    let mut memory = MemBuffer::new(scratch);
    let stack = MemStack::new(&mut memory);
    factor::cholesky_in_place(matrix.as_mut(), default(), parallelism, stack, default()).map_err(|e| {
        Error::Compute(candle_core::Error::Msg(format!("not a positive semidefinite matrix: {e:?}")))
    })?;
    for j in 1..matrix.ncols() {
        matrix.col_as_slice_mut(j)[..j].fill(0.0);
    }
    Ok(matrix)
}

/// L^-1 of a lower triangle.
pub fn inverse(lower: &Mat<f64>) -> Mat<f64> {
    let mut inverse = Mat::zeros(lower.nrows(), lower.ncols());
    invert_lower_triangular(inverse.as_mut(), lower.as_ref(), get_global_parallelism());
    inverse
}

/// The lower triangle W with W^T W = (H + Lambda)^-1.
pub fn inverse_root(curvature: &Gram, lambda: &[f64]) -> Result<Mat<f64>> {
    let mut inverse = inverse(&cholesky(curvature, lambda)?);
    for (j, lambda) in lambda.iter().enumerate() {
        let root = lambda.sqrt();
        inverse.col_as_slice_mut(j)[j..].iter_mut().for_each(|x| *x /= root);
    }
    Ok(inverse)
}

//! The inverse Cholesky factor of a curvature under a prior.
//!
//! Decomposed as M = Lambda^-1/2 H Lambda^-1/2 + I, whose eigenvalues begin at 1: prior precisions of very different size do
//! not make it ill-conditioned.

use faer::{Mat, Side, get_global_parallelism, linalg::triangular_inverse::invert_lower_triangular};

use crate::{Error, Result, posterior::fit::Gram};

/// The lower Cholesky factor L of M, M = Lambda^-1/2 H Lambda^-1/2 + I; `lambda` has a number for each feature.
pub fn cholesky(curvature: &Gram, lambda: &[f64]) -> Result<Mat<f64>> {
    let root: Vec<f64> = lambda.iter().map(|lambda| lambda.sqrt().recip()).collect();
    let at = |i: usize, j: usize| match j <= i {
        true => curvature.at(i, j) * root[i] * root[j] + if i == j { 1.0 } else { 0.0 },
        false => 0.0,
    };
    lower_factor(&Mat::from_fn(lambda.len(), lambda.len(), at))
}

/// The lower Cholesky factor of a matrix of which the lower triangle is read.
pub fn lower_factor(matrix: &Mat<f64>) -> Result<Mat<f64>> {
    let decomposed = matrix.llt(Side::Lower).map_err(|e| {
        Error::Compute(candle_core::Error::Msg(format!("not a positive semidefinite matrix: {e:?}")))
    })?;
    Ok(decomposed.L().to_owned())
}

/// L^-1 of a lower triangle.
pub fn inverse(lower: &Mat<f64>) -> Mat<f64> {
    let mut inverse = Mat::zeros(lower.nrows(), lower.ncols());
    invert_lower_triangular(inverse.as_mut(), lower.as_ref(), get_global_parallelism());
    inverse
}

/// The lower triangle W with W^T W = (H + Lambda)^-1.
pub fn inverse_root(curvature: &Gram, lambda: &[f64]) -> Result<Mat<f64>> {
    let inverse = inverse(&cholesky(curvature, lambda)?);
    Ok(Mat::from_fn(lambda.len(), lambda.len(), |i, j| inverse[(i, j)] / lambda[j].sqrt()))
}

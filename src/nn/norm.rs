//! Root-mean-square normalisation (Zhang and Sennrich, 2019): y = w * x / rms(x), rms(x) = sqrt(mean(x^2) + eps).

use super::cpu::{self, Values};
use candle_core::{D, Result, Tensor};

/// Normalises the rows of `x` (N, C) and scales them by `weight` (C).
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    if let Some([values, weight]) = Values::of_all([x, weight]) {
        return cpu::tensor(cpu::norm::rms_norm(&values, &weight, eps as f32), x.dims());
    }
    x.broadcast_mul(&inverse_rms(x, eps)?)?.broadcast_mul(weight)
}

/// Gradient at the input `x` of a residual branch that begins with [`rms_norm`]: `beside`, the gradient that passes the branch
/// by, plus the branch's own; the weight is frozen.
///
/// With n = x / rms and u = w * dy: dx = beside + (u - n * mean(u * n)) / rms.
pub fn rms_norm_backward(
    x: &Tensor,
    weight: &Tensor,
    eps: f64,
    dy: &Tensor,
    beside: &Tensor,
) -> Result<Tensor> {
    if let Some([values, weight, dy, beside]) = Values::of_all([x, weight, dy, beside]) {
        let dx = cpu::norm::rms_norm_backward(&values, &weight, eps as f32, &dy, &beside);
        return cpu::tensor(dx, x.dims());
    }
    let inverse = inverse_rms(x, eps)?;
    let n = x.broadcast_mul(&inverse)?;
    let u = dy.broadcast_mul(weight)?;
    let mean = (&u * &n)?.mean_keepdim(D::Minus1)?;
    beside + (u - n.broadcast_mul(&mean)?)?.broadcast_mul(&inverse)?
}

/// 1 / rms of each row: (N, C) -> (N, 1).
fn inverse_rms(x: &Tensor, eps: f64) -> Result<Tensor> {
    (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?.recip()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::check::{assert_gradient, random};

    #[test]
    fn backward_equals_finite_differences() {
        let (x, w, dy) = (random(1, &[3, 5]), random(2, &[5]), random(3, &[3, 5]));
        let dx = rms_norm_backward(&x, &w, 1e-5, &dy, &dy).unwrap();
        assert_gradient(&x, &dy, &dx, |x| x + rms_norm(x, &w, 1e-5)?);
    }
}

//! Normalisation of rows.
//!
//! Root-mean-square (Zhang and Sennrich, 2019): y = w x / rms(x), rms(x) = sqrt(mean(x^2) + eps). With a bias, layer
//! normalisation (Ba et al., 2016): the same of x - mean(x), plus the bias.

use super::{
    cpu::{self, Values},
    exact::exact,
};
use candle_core::{D, Result, Tensor};

/// A frozen normalisation.
#[derive(Debug, Clone)]
pub struct Norm {
    /// w, (C), as it is where rows are in half precision.
    pub weight: Tensor,
    /// (C); with it rows are centred first.
    pub bias: Option<Tensor>,
    pub eps: f64,
}

impl Norm {
    /// Normalises the rows of `x` (N, C).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let eps = self.eps as f32;
        match &self.bias {
            None => {
                if let Some([values, weight]) = Values::of_all([x, &self.weight]) {
                    return cpu::tensor(cpu::norm::rms_norm(&values, &weight, eps), x.dims());
                }
                let exact = exact(x)?;
                let n = exact.broadcast_mul(&inverse_rms(&exact, self.eps)?)?;
                n.broadcast_mul(&self.weight)?.to_dtype(x.dtype())
            }
            Some(bias) => {
                if let Some([values, weight, bias]) = Values::of_all([x, &self.weight, bias]) {
                    return cpu::tensor(cpu::norm::layer_norm(&values, &weight, &bias, eps), x.dims());
                }
                let exact = exact(x)?;
                let centred = exact.broadcast_sub(&exact.mean_keepdim(D::Minus1)?)?;
                let n = centred.broadcast_mul(&inverse_rms(&centred, self.eps)?)?;
                n.broadcast_mul(&self.weight)?.broadcast_add(bias)?.to_dtype(x.dtype())
            }
        }
    }

    /// Gradient at the input `x` of a residual branch that begins with [`Norm::forward`]: `beside`, the gradient that passes the
    /// branch by, plus the branch's own.
    ///
    /// With n = x / rms and u = w * dy: dx = beside + (u - n mean(u n)) / rms; where rows are centred, n of the centred ones, and
    /// mean(u) taken off u.
    pub fn backward(&self, x: &Tensor, dy: &Tensor, beside: &Tensor) -> Result<Tensor> {
        let centred = self.bias.is_some();
        if let Some([values, weight, dy, beside]) = Values::of_all([x, &self.weight, dy, beside]) {
            let of = if centred { cpu::norm::layer_norm_backward } else { cpu::norm::rms_norm_backward };
            return cpu::tensor(of(&values, &weight, self.eps as f32, &dy, &beside), x.dims());
        }
        let (dtype, x, dy) = (x.dtype(), exact(x)?, exact(dy)?);
        let x = if centred { x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)? } else { x };
        let inverse = inverse_rms(&x, self.eps)?;
        let n = x.broadcast_mul(&inverse)?;
        let u = dy.broadcast_mul(&self.weight)?;
        let mean = (&u * &n)?.mean_keepdim(D::Minus1)?;
        let u = if centred { u.broadcast_sub(&u.mean_keepdim(D::Minus1)?)? } else { u };
        (exact(beside)? + (u - n.broadcast_mul(&mean)?)?.broadcast_mul(&inverse)?)?.to_dtype(dtype)
    }
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
        for bias in [None, Some(random(4, &[5]))] {
            let norm = Norm { weight: random(2, &[5]), bias, eps: 1e-5 };
            let (x, dy) = (random(1, &[3, 5]), random(3, &[3, 5]));
            let dx = norm.backward(&x, &dy, &dy).unwrap();
            assert_gradient(&x, &dy, &dx, |x| x + norm.forward(x)?);
        }
    }
}

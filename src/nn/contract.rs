//! A posterior block's quadratic form of a batch of Jacobians, without the features themselves.

use super::cpu::{self, Values, contract::Operands};
use candle_core::{Result, Tensor};

/// A block's bases and precisions, its long side last.
#[derive(Debug, Clone, Copy)]
pub struct Bases<'a> {
    /// U of the long side, (d, k).
    pub long: &'a Tensor,
    /// U of the short side, (s, k_s).
    pub short: &'a Tensor,
    /// 1 / sqrt(S + lambda), (k_s, k).
    pub scale: &'a Tensor,
    /// 1 / sqrt(T + lambda), (k_s, 1), where the long side is truncated.
    pub residual_scale: Option<&'a Tensor>,
}

/// Sum of squared features of each of (n, s, d), by the fused kernel; `None` where it does not apply.
pub fn fused(bases: &Bases, j: &Tensor) -> Result<Option<Vec<f64>>> {
    let ((d, k), (s, k_s)) = (bases.long.dims2()?, bases.short.dims2()?);
    let Some([long, short, scale, j]) = Values::of_all([bases.long, bases.short, bases.scale, j]) else {
        return Ok(None);
    };
    let residual_scale = bases.residual_scale.map(Values::of);
    let residual_scale = match &residual_scale {
        None => None,
        Some(Some(values)) => Some(&**values),
        Some(None) => return Ok(None),
    };
    let operands =
        Operands { long: &long, short: &short, scale: &scale, residual_scale, dims: (d, k, s, k_s) };
    Ok(Some(cpu::contract::variances(&operands, &j)))
}

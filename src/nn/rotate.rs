//! Weighted squares of a batch of Jacobians in a block's eigenbasis: the diagonal of its curvature there.

use super::cpu::{self, Values, rotate::Bases};
use candle_core::{DType, Result, Tensor};

/// What a batch of Jacobians adds to a block's curvature.
#[derive(Debug, Clone)]
pub struct Squares {
    /// sum_n w_n (U_s^T J_n U)^2, (k_s, k), f64.
    pub rotated: Tensor,
    /// sum_n w_n |J_n|^2
    pub trace: f64,
}

/// Of Jacobians (n, s, d) and their weights, with U (d, k) of the long side and U_s (s, k_s) of the short one.
pub fn weighted_squares(long: &Tensor, short: &Tensor, j: &Tensor, weights: &[f64]) -> Result<Squares> {
    let ((d, k), (s, k_s)) = (long.dims2()?, short.dims2()?);
    if let Some([long, short, j]) = Values::of_all([long, short, j]) {
        let bases = Bases { long: &long, short: &short, dims: (d, k, s, k_s) };
        let rotated = cpu::rotate::weighted_squares(&bases, &j, weights);
        let rotated = Tensor::from_vec(rotated, (k_s, k), &candle_core::Device::Cpu)?;
        return Ok(Squares { rotated, trace: cpu::rotate::weighted_norms(d, &j, weights) });
    }
    let n = weights.len();
    let weights = Tensor::new(weights, j.device())?.unsqueeze(0)?;
    let weighted = |t: &Tensor| weights.matmul(&t.to_dtype(DType::F64)?.sqr()?.reshape((n, ()))?);
    let inside = j.reshape((n * s, d))?.matmul(long)?.reshape((n, s, k))?;
    let rotated = weighted(&short.t()?.broadcast_matmul(&inside)?)?.reshape((k_s, k))?;
    Ok(Squares { rotated, trace: weighted(j)?.sum_all()?.to_scalar()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::check::{random, values};

    #[test]
    fn the_fused_kernel_agrees_with_f64() {
        for (n, s, d) in [(1, 1, 3), (4, 3, 20), (7, 8, 300)] {
            let (long, short, j) = (random(1, &[d, d]), random(2, &[s, s]), random(3, &[n, s, d]));
            let weights: Vec<f64> = (1..=n).map(|i| 1.0 / (i + 3) as f64).collect();
            let want = weighted_squares(&long, &short, &j, &weights).unwrap();
            let [long, short, j] = [long, short, j].map(|t| t.to_dtype(DType::F32).unwrap());
            let got = weighted_squares(&long, &short, &j, &weights).unwrap();
            assert!((got.trace / want.trace - 1.0).abs() < 1e-5);
            let scale = values(&want.rotated).iter().fold(0.0, |a: f64, b| a.max(*b));
            for (got, want) in values(&got.rotated).iter().zip(values(&want.rotated)) {
                assert!((got - want).abs() < 1e-5 * scale, "{got} is not {want}");
            }
        }
    }
}

//! Kronecker factors of a block and the eigenbases that they give.
//!
//! ```text
//! A = sum_t w_t x_t x_t^T      over inputs             U_i, alpha: eigenvectors and eigenvalues of A
//! G = sum_t w_t g_t g_t^T      over output gradients   U_o, gamma: those of G
//! ```
//!
//! t runs over the tokens of both sequences of every pair, each with the gradient of its own reward; a token without an
//! output gradient counts in neither factor. The head has one output and needs no factors: its basis is that of the
//! exact sum_n w_n D_n^T D_n.

use candle_core::{DType, Device, Tensor};

use super::{
    Curvature, Rank,
    ekfac::assert_trace,
    gram::{Eigen, Gram},
    live::Live,
};
use crate::Result;

/// The factors of one LoRA block, accumulated over tokens.
#[derive(Debug, Clone)]
pub struct Factors {
    /// A, d_in x d_in.
    pub(crate) input: Gram,
    /// G, d_out x d_out.
    pub(crate) output: Gram,
    /// Sum of the weights of the tokens that counted.
    pub(crate) weight: f64,
}

/// The Kronecker eigenbasis of a block, by falling eigenvalue on each side.
#[derive(Debug, Clone)]
pub struct Bases {
    /// U_i (d_in, d_in) and alpha.
    pub input: Eigen,
    /// U_o (d_out, d_out) and gamma.
    pub output: Eigen,
    /// Sum of the weights of the tokens behind the factors.
    pub weight: f64,
}

impl Factors {
    /// Starts both sums at zero.
    pub fn new(d_out: usize, d_in: usize) -> Self {
        Self { input: Gram::new(d_in), output: Gram::new(d_out), weight: 0.0 }
    }

    /// Adds tokens: inputs (T, d_in), output gradients (T, d_out) and the weight of each token's pair.
    pub fn add(&mut self, x: &Tensor, g: &Tensor, weight: &[f64]) -> Result<()> {
        let live = Live::of(g, weight)?;
        self.input.add(&live.weighted(x, 1.0)?)?;
        self.add_outputs(&live, g, 1.0)
    }

    /// Adds the output gradients of tokens, `scale` times g (T, d_out), whose inputs are added apart.
    pub fn add_outputs(&mut self, live: &Live, g: &Tensor, scale: f64) -> Result<()> {
        self.weight += live.weight();
        self.output.add(&live.weighted(g, scale)?)
    }

    /// Decomposes both factors; the bases come in `dtype`, `name` is for the error.
    pub fn eigenbases(&self, name: &str, dtype: DType) -> Result<Bases> {
        let (input, output) = (self.input.eigen(name, dtype)?, self.output.eigen(name, dtype)?);
        Ok(Bases { input, output, weight: self.weight })
    }
}

/// Multiplies eigenvalues, S_ij = gamma_i alpha_j / sum_t w_t, without a second pass over the pairs.
///
/// With both factors averaged over tokens this is N' gamma_i alpha_j, N' = sum_t w_t: the *expand* convention, in which the
/// tokens of a pair count as independent and one division by the tokens remains. The trace is exact where all inputs have
/// the same norm and each pair has one live token.
pub fn kfac(bases: &Bases, rank: Rank) -> Result<Curvature> {
    let scale = if bases.weight > 0.0 { 1.0 / bases.weight } else { 0.0 };
    let column = Tensor::new(bases.output.values.as_slice(), &Device::Cpu)?.unsqueeze(1)?;
    let row = (Tensor::new(bases.input.values.as_slice(), &Device::Cpu)?.unsqueeze(0)? * scale)?;
    let full = Curvature {
        input_basis: bases.input.vectors.clone(),
        output_basis: bases.output.vectors.clone(),
        curvature: column.matmul(&row)?,
        tail: None,
    };
    full.truncated(rank)
}

/// The exact curvature of the reward head, accumulated over pairs.
#[derive(Debug, Clone)]
pub struct HeadFactor {
    pub(crate) exact: Gram,
}

impl HeadFactor {
    /// Starts the sum at zero.
    pub fn new(d_in: usize) -> Self {
        Self { exact: Gram::new(d_in) }
    }

    /// Adds pairs: D (n, 1, d_in) and their weights.
    pub fn add(&mut self, d: &Tensor, weight: &[f64]) -> Result<()> {
        let roots: Vec<f64> = weight.iter().map(|w| w.sqrt()).collect();
        let roots = Tensor::new(roots.as_slice(), d.device())?.unsqueeze(1)?.to_dtype(d.dtype())?;
        self.exact.add(&d.flatten_from(1)?.broadcast_mul(&roots)?)
    }

    /// The head's curvature, never truncated: U_i and S are the exact eigenvectors and eigenvalues.
    pub fn finish(&self, name: &str, dtype: DType) -> Result<Curvature> {
        let Eigen { values, vectors } = self.exact.eigen(name, dtype)?;
        assert_trace(name, values.iter().sum(), self.exact.trace())?;
        Ok(Curvature {
            input_basis: vectors,
            output_basis: Tensor::ones((1, 1), dtype, &Device::Cpu)?,
            curvature: Tensor::from_vec(values, (1, self.exact.dim()), &Device::Cpu)?,
            tail: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::check::{random, values};

    const WEIGHTS: [f64; 5] = [0.25, 0.1, 0.2, 0.05, 0.0];

    fn norms(t: &Tensor) -> Vec<f64> {
        t.sqr().unwrap().sum(1).unwrap().to_vec1().unwrap()
    }

    #[test]
    fn tokens_without_an_output_gradient_count_in_neither_factor() {
        let (x, mut g) = (random(1, &[5, 4]), random(2, &[5, 3]));
        let live = Tensor::new(&[[1.0], [0.0], [1.0], [1.0], [1.0]], &Device::Cpu).unwrap();
        g = g.broadcast_mul(&live).unwrap();
        let mut factors = Factors::new(3, 4);
        factors.add(&x, &g, &WEIGHTS).unwrap();
        let bases = factors.eigenbases("b", DType::F64).unwrap();
        let trace = |rows: &Tensor| -> f64 {
            norms(rows)
                .iter()
                .zip(WEIGHTS)
                .enumerate()
                .filter(|(t, _)| *t != 1)
                .map(|(_, (x, w))| x * w)
                .sum()
        };
        assert!((bases.input.values.iter().sum::<f64>() - trace(&x)).abs() < 1e-12);
        assert!((bases.output.values.iter().sum::<f64>() - trace(&g)).abs() < 1e-12);
        assert!((bases.weight - 0.5).abs() < 1e-12);
    }

    #[test]
    fn kfac_trace_is_exact_for_one_token_with_inputs_of_one_norm() {
        let (x, g) = (random(1, &[5, 4]), random(2, &[5, 3]));
        let unit = x.broadcast_div(&x.sqr().unwrap().sum_keepdim(1).unwrap().sqrt().unwrap()).unwrap();
        let mut factors = Factors::new(3, 4);
        factors.add(&(unit * 3.0).unwrap(), &g, &WEIGHTS).unwrap();
        let want: f64 = norms(&g).iter().zip(WEIGHTS).map(|(g, w)| 9.0 * w * g).sum();
        for rank in [Rank::Full, Rank::Top(2)] {
            let curvature = kfac(&factors.eigenbases("b", DType::F64).unwrap(), rank).unwrap();
            assert!((curvature.trace().unwrap() / want - 1.0).abs() < 1e-12, "{rank}");
        }
    }

    #[test]
    fn head_curvature_rebuilds_the_exact_matrix() {
        let d = random(3, &[5, 1, 4]);
        let mut head = HeadFactor::new(4);
        head.add(&d.narrow(0, 0, 2).unwrap(), &WEIGHTS[..2]).unwrap();
        head.add(&d.narrow(0, 2, 3).unwrap(), &WEIGHTS[2..]).unwrap();
        let fitted = head.finish("score", DType::F64).unwrap();
        let u = &fitted.input_basis;
        let got = u.broadcast_mul(&fitted.curvature).unwrap().matmul(&u.t().unwrap()).unwrap();
        let rows = d.squeeze(1).unwrap();
        let weight = Tensor::new(&WEIGHTS, &Device::Cpu).unwrap().unsqueeze(1).unwrap();
        let want = rows.t().unwrap().matmul(&rows.broadcast_mul(&weight).unwrap()).unwrap();
        for (got, want) in values(&got).iter().zip(values(&want)) {
            assert!((got - want).abs() < 1e-12);
        }
    }
}

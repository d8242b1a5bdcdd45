//! EKFAC: the diagonal of H in a Kronecker eigenbasis (George et al., 2018), for preference pairs.
//!
//! ```text
//! S = sum_n w_n (U_o^T D_n U_i)^2   elementwise
//! ```
//!
//! The bases are orthonormal, so sum S = sum_n w_n |D_n|^2 whatever they are: an identity that every fit asserts.

use candle_core::{DType, Device, Tensor};

use super::{Bases, Curvature, Rank};
use crate::{
    Error, Result,
    nn::rotate::{Squares, weighted_squares},
    posterior::frame::Frame,
};

/// Largest relative difference between the trace of S and the exact one: rounding in f32.
const TRACE_TOLERANCE: f64 = 1e-4;

/// The second pass over one block.
#[derive(Debug, Clone)]
pub struct Ekfac {
    name: String,
    bases: Bases,
    frame: Frame,
    /// S as (d_short, d_long), f64.
    pub(crate) sum: Tensor,
    /// sum_n w_n |D_n|^2.
    pub(crate) trace: f64,
}

impl Ekfac {
    /// Starts the sum of the block `name` at zero.
    pub fn new(name: impl Into<String>, bases: Bases) -> Result<Self> {
        let frame = Frame::new(&bases.input.vectors, &bases.output.vectors)?;
        let sum = Tensor::zeros((frame.short.dim(0)?, frame.long.dim(0)?), DType::F64, &Device::Cpu)?;
        Ok(Self { name: name.into(), bases, frame, sum, trace: 0.0 })
    }

    /// Adds pairs: D (n, d_out, d_in) and their weights.
    pub fn add(&mut self, d: &Tensor, weight: &[f64]) -> Result<()> {
        self.add_oriented(&self.oriented(d)?, weight)
    }

    /// D (n, d_out, d_in) as [`Ekfac::add_oriented`] takes it: (n, d_short, d_long).
    pub fn oriented(&self, d: &Tensor) -> Result<Tensor> {
        let d = d.to_dtype(self.frame.long.dtype())?.to_device(self.frame.long.device())?;
        Ok(self.frame.orient(&d)?)
    }

    /// Adds oriented pairs; many at once are faster than one after the other.
    pub fn add_oriented(&mut self, d: &Tensor, weight: &[f64]) -> Result<()> {
        let Squares { rotated, trace } = weighted_squares(&self.frame.long, &self.frame.short, d, weight)?;
        self.sum = (&self.sum + rotated)?;
        self.trace += trace;
        Ok(())
    }

    /// Asserts the trace identity and truncates; an error names the block.
    pub fn finish(self, rank: Rank) -> Result<Curvature> {
        assert_trace(&self.name, self.sum.sum_all()?.to_scalar()?, self.trace)?;
        let full = Curvature {
            curvature: self.frame.orient(&self.sum)?,
            input_basis: self.bases.input.vectors,
            output_basis: self.bases.output.vectors,
            tail: None,
        };
        full.truncated(rank)
    }
}

/// Fails by the block's name where the trace of its curvature is not that of the pairs.
pub(super) fn assert_trace(name: &str, found: f64, exact: f64) -> Result<()> {
    if !found.is_finite() || !exact.is_finite() {
        return Err(Error::NotFinite(format!("the curvature of {name}")));
    }
    if (found - exact).abs() > TRACE_TOLERANCE * exact {
        let message =
            format!("{name}: the trace of the curvature is {found}, but that of the pairs is {exact}");
        return Err(Error::Compute(candle_core::Error::Msg(message)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        nn::check::{random, values},
        posterior::fit::Factors,
    };

    const WEIGHTS: [f64; 4] = [0.25, 0.1, 0.2, 0.05];

    fn bases(d_out: usize, d_in: usize) -> Bases {
        let mut factors = Factors::new(d_out, d_in);
        factors.add(&random(1, &[9, d_in]), &random(2, &[9, d_out]), &[0.1; 9]).unwrap();
        factors.eigenbases("b", DType::F64).unwrap()
    }

    /// sum_n w_n (U_o^T D_n U_i)^2, entry by entry.
    fn direct(bases: &Bases, d: &Tensor) -> Vec<f64> {
        let rotated: Vec<Vec<f64>> = (0..WEIGHTS.len())
            .map(|n| {
                let right = d.get(n).unwrap().matmul(&bases.input.vectors).unwrap();
                values(&bases.output.vectors.t().unwrap().matmul(&right).unwrap())
            })
            .collect();
        let entry = |i: usize| rotated.iter().zip(WEIGHTS).map(|(q, w)| w * q[i] * q[i]).sum();
        (0..rotated[0].len()).map(entry).collect()
    }

    #[test]
    fn full_curvature_is_the_weighted_sum_of_squares() {
        for (d_out, d_in) in [(3, 8), (8, 3), (4, 4), (1, 5)] {
            let (bases, d) = (bases(d_out, d_in), random(3, &[4, d_out, d_in]));
            let mut ekfac = Ekfac::new("b", bases.clone()).unwrap();
            ekfac.add(&d.narrow(0, 0, 1).unwrap(), &WEIGHTS[..1]).unwrap();
            ekfac.add(&d.narrow(0, 1, 3).unwrap(), &WEIGHTS[1..]).unwrap();
            let got = ekfac.finish(Rank::Full).unwrap();
            assert_eq!(got.curvature.dims(), [d_out, d_in]);
            for (got, want) in values(&got.curvature).iter().zip(direct(&bases, &d)) {
                assert!((got - want).abs() < 1e-12, "{d_out} x {d_in}");
            }
        }
    }

    #[test]
    fn truncation_keeps_the_largest_directions_and_the_trace() {
        for (d_out, d_in) in [(3, 8), (8, 3)] {
            let (bases, d) = (bases(d_out, d_in), random(3, &[4, d_out, d_in]));
            let fit = |rank| {
                let mut ekfac = Ekfac::new("b", bases.clone()).unwrap();
                ekfac.add(&d, &WEIGHTS).unwrap();
                ekfac.finish(rank).unwrap()
            };
            let (full, top) = (fit(Rank::Full), fit(Rank::Top(2)));
            let (k_out, k_in) = if d_in > d_out { (3, 2) } else { (2, 3) };
            assert_eq!(top.curvature.dims(), [k_out, k_in]);
            assert_eq!(top.tail.as_ref().unwrap().dims(), [3]);
            assert!((top.trace().unwrap() / full.trace().unwrap() - 1.0).abs() < 1e-12);
            let long = if d_in > d_out { 0 } else { 1 };
            let mut sums: Vec<f64> = full.curvature.sum(long).unwrap().to_vec1().unwrap();
            sums.sort_by(|a, b| b.total_cmp(a));
            let kept: Vec<f64> = top.curvature.sum(long).unwrap().to_vec1().unwrap();
            assert!(kept.iter().zip(&sums).all(|(got, want)| (got - want).abs() < 1e-12));
        }
    }

    #[test]
    fn bases_that_do_not_keep_the_trace_are_refused_by_name() {
        let mut skewed = bases(2, 3);
        skewed.input.vectors = (skewed.input.vectors * 1.001).unwrap();
        let mut ekfac = Ekfac::new("layers.0.lora_A", skewed).unwrap();
        ekfac.add(&random(3, &[4, 2, 3]), &WEIGHTS).unwrap();
        let message = ekfac.finish(Rank::Full).unwrap_err().to_string();
        assert!(message.starts_with("compute: layers.0.lora_A: the trace of the curvature is"), "{message}");
    }
}

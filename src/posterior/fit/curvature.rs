//! A fitted curvature: bases, S and tail, still without a prior.
//!
//! Truncation keeps the k directions of the long side with the largest sums of S and spreads what is left evenly:
//!
//! ```text
//! T_i = (sum of S_ij over the d - k dropped j) / (d - k)      so the trace, sum S + (d - k) sum T, is unchanged
//! ```

use candle_core::{DType, Tensor};

use super::Rank;
use crate::{
    Error, Result,
    posterior::{Block, Parts, evidence::Spectrum, frame::Frame},
};

/// The curvature of one block in its eigenbasis.
#[derive(Debug, Clone)]
pub struct Curvature {
    /// U_i, (d_in, k_in).
    pub input_basis: Tensor,
    /// U_o, (d_out, k_out).
    pub output_basis: Tensor,
    /// S, (k_out, k_in), f64.
    pub curvature: Tensor,
    /// T in f64, where a side is truncated.
    pub tail: Option<Tensor>,
}

impl Curvature {
    /// What a block was made of, but for the prior.
    pub fn of(block: &Block) -> Self {
        let Parts { input_basis, output_basis, curvature, tail, .. } = block.parts().clone();
        Self { input_basis, output_basis, curvature, tail }
    }

    /// Truncates the longer side of a full curvature; ties keep the direction that comes first.
    pub fn truncated(self, rank: Rank) -> Result<Self> {
        let frame = Frame::new(&self.input_basis, &self.output_basis)?;
        let long = frame.long.dim(0)?;
        let k = match rank {
            Rank::Top(k) if k < long => k,
            _ => return Ok(self),
        };
        let curvature = frame.orient(&self.curvature)?; // (short, long)
        let order = by_falling_sum(&curvature)?;
        let (kept, dropped) = order.split_at(k);
        let tail = (columns(&curvature, dropped)?.sum(1)? / (long - k) as f64)?;
        let curvature = frame.orient(&columns(&curvature, kept)?)?; // its own inverse
        let (input_basis, output_basis) = frame.with_long(columns(&frame.long, kept)?);
        Ok(Self { input_basis, output_basis, curvature, tail: Some(tail) })
    }

    /// Trace of the block's curvature, tail included.
    pub fn trace(&self) -> Result<f64> {
        let Spectrum { kept, tail, dropped } = self.spectrum()?;
        Ok(kept.iter().sum::<f64>() + dropped as f64 * tail.iter().sum::<f64>())
    }

    /// The block's eigenvalues, for the evidence.
    pub fn spectrum(&self) -> Result<Spectrum> {
        let long = Frame::new(&self.input_basis, &self.output_basis)?.long;
        let tail = self.tail.as_ref().map(|tail| tail.to_vec1()).transpose()?;
        Ok(Spectrum {
            kept: self.curvature.flatten_all()?.to_vec1()?,
            tail: tail.unwrap_or_default(),
            dropped: long.dim(0)? - long.dim(1)?,
        })
    }

    /// The posterior under a prior precision; the error names the block.
    pub fn into_block(self, name: &str, prior_precision: f64) -> Result<Block> {
        let Self { input_basis, output_basis, curvature, tail } = self;
        let block = Block::new(Parts { input_basis, output_basis, curvature, tail, prior_precision });
        let message = |problems: Vec<String>| format!("{name}: {}", problems.join("; "));
        block.map_err(|problems| Error::Compute(candle_core::Error::Msg(message(problems))))
    }
}

/// Columns of a matrix by falling sum; equal ones in their order.
fn by_falling_sum(matrix: &Tensor) -> Result<Vec<u32>> {
    let sums: Vec<f64> = matrix.to_dtype(DType::F64)?.sum(0)?.to_vec1()?;
    let mut order: Vec<u32> = (0..).take(sums.len()).collect();
    order.sort_by(|a, b| sums[*b as usize].total_cmp(&sums[*a as usize]));
    Ok(order)
}

fn columns(matrix: &Tensor, index: &[u32]) -> Result<Tensor> {
    let index = Tensor::new(index, matrix.device())?;
    Ok(matrix.contiguous()?.index_select(&index, 1)?)
}

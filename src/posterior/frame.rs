//! The two bases of a block, laid out so that its long side comes last.
//!
//! A LoRA block has one short side (the rank) and one long side; only the long one may be truncated. With gradients as
//! (n, short, long), the rotation of the long side is one product for a whole batch, whichever side of the block it is:
//!
//! ```text
//! long side = input:  q = U_o^T (J U_i)          long side = output:  q^T = U_i^T (J^T U_o)
//! ```

use candle_core::{Result, Tensor};

/// The side of a block's matrix that is laid out last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Long {
    Input,
    Output,
}

/// A pair of bases with orthonormal columns, by length of side.
#[derive(Debug, Clone)]
pub struct Frame {
    long_side: Long,
    /// (d_long, k_long), fewer columns than rows where the block is truncated.
    pub long: Tensor,
    /// (d_short, k_short)
    pub short: Tensor,
}

impl Frame {
    /// Takes the truncated side as the long one, or else the longer one, or else the input.
    pub fn new(input: &Tensor, output: &Tensor) -> Result<Self> {
        let ((d_in, k_in), (d_out, k_out)) = (input.dims2()?, output.dims2()?);
        if k_out < d_out || (k_in == d_in && d_out > d_in) {
            Ok(Self { long_side: Long::Output, long: output.clone(), short: input.clone() })
        } else {
            Ok(Self { long_side: Long::Input, long: input.clone(), short: output.clone() })
        }
    }

    /// Whether the long side has directions outside its basis.
    pub fn is_truncated(&self) -> bool {
        self.long.dims()[1] < self.long.dims()[0]
    }

    /// (.., d_out, d_in) -> (.., d_short, d_long), contiguous; likewise (.., k_out, k_in). Its own inverse.
    pub fn orient(&self, j: &Tensor) -> Result<Tensor> {
        match self.long_side {
            Long::Input => j.contiguous(),
            Long::Output => j.transpose(candle_core::D::Minus2, candle_core::D::Minus1)?.contiguous(),
        }
    }

    /// The input and output bases again, after the long one was replaced.
    pub fn with_long(&self, long: Tensor) -> (Tensor, Tensor) {
        match self.long_side {
            Long::Input => (long, self.short.clone()),
            Long::Output => (self.short.clone(), long),
        }
    }

    /// J times the long basis: (n, d_short, d_long) -> (n, d_short, k_long).
    pub fn project_long(&self, j: &Tensor) -> Result<Tensor> {
        rows_times(j, &self.long)
    }

    /// What the long basis leaves out, J - (J U) U^T: (n, d_short, d_long), given the projection J U.
    pub fn residual(&self, j: &Tensor, projected: &Tensor) -> Result<Tensor> {
        j - rows_times(projected, &self.long.t()?)?
    }

    /// Rotates the short side: (n, d_short, m) -> (n, k_short, m).
    pub fn rotate_short(&self, j: &Tensor) -> Result<Tensor> {
        self.short.t()?.broadcast_matmul(j)
    }
}

/// (n, s, a) x (a, b) -> (n, s, b), as one product of n s rows.
fn rows_times(j: &Tensor, u: &Tensor) -> Result<Tensor> {
    let (n, s, a) = j.dims3()?;
    j.reshape((n * s, a))?.matmul(u)?.reshape((n, s, u.dim(1)?))
}

/// (n, d_out, d_in) with the longer side last, the inputs where both are as long: contiguous, as gradients come from a backward.
pub fn long_last(j: &Tensor) -> Result<Tensor> {
    let (_, d_out, d_in) = j.dims3()?;
    if d_out > d_in { j.transpose(1, 2)?.contiguous() } else { j.contiguous() }
}

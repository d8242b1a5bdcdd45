//! A frozen weight in eight bits, for forwards on the CPU.

use super::cpu::{self, Values, int8::QuantizedWeight};
use candle_core::{DType, Result, Tensor, bail};
use std::sync::Arc;

/// Integer codes with a scale for every group of inputs.
#[derive(Debug, Clone)]
pub struct Quantized(Arc<QuantizedWeight>);

impl Quantized {
    /// Rounds W (d_out, d_in), f32 in main memory.
    pub fn new(weight: &Tensor) -> Result<Self> {
        let dims = weight.dims2()?;
        match Values::of(weight) {
            Some(values) => Ok(Self(Arc::new(QuantizedWeight::new(&values, dims)))),
            None => bail!("int8 weights are computed with in f32 on the CPU, not in {:?}", weight.dtype()),
        }
    }

    /// Bytes of the weight, a number each.
    pub fn bytes(&self) -> usize {
        let (d_out, d_in) = self.0.dims();
        d_out * d_in
    }

    /// x W^T, with x rounded too: (N, d_in) -> (N, d_out).
    pub fn product(&self, x: &Tensor) -> Result<Tensor> {
        let (rows, (d_out, _)) = (x.dim(0)?, self.0.dims());
        match Values::of(x) {
            Some(x) => cpu::tensor(self.0.product(&x, None), (rows, d_out)),
            None => not_here(x.dtype()),
        }
    }

    /// to + x W^T.
    pub fn product_added(&self, x: &Tensor, to: &Tensor) -> Result<Tensor> {
        match Values::of_all([x, to]) {
            Some([x, values]) => cpu::tensor(self.0.product(&x, Some(&values)), to.dims()),
            None => not_here(x.dtype()),
        }
    }
}

fn not_here(dtype: DType) -> Result<Tensor> {
    bail!("int8 weights take contiguous f32 activations on the CPU, not {dtype:?}")
}

//! Matrix products, of matrices whose rows and columns may lie in any order.

use super::cpu::{self, Values, gemm};
use candle_core::{Result, Tensor};

/// a b: (n, k), (k, m) -> (n, m).
pub fn product(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let shape = (a.dim(0)?, b.dim(1)?);
    if let Some([a, b]) = Values::of_matrices([a, b]) {
        return cpu::tensor(gemm::product(a.matrix(), b.matrix()), shape);
    }
    a.contiguous()?.matmul(b)
}

/// to + a b.
pub fn product_added(a: &Tensor, b: &Tensor, to: &Tensor) -> Result<Tensor> {
    if let Some([a, b, values]) = Values::of_matrices([a, b, to])
        && to.is_contiguous()
    {
        return cpu::tensor(gemm::product_added(a.matrix(), b.matrix(), &values), to.dims());
    }
    to + product(a, b)?
}

/// The transpose, with its rows following each other.
pub fn transposed(x: &Tensor) -> Result<Tensor> {
    let (rows, columns) = x.dims2()?;
    match Values::of(x) {
        Some(values) => cpu::tensor(cpu::transpose::transpose(&values, (rows, columns)), (columns, rows)),
        None => x.t()?.contiguous(),
    }
}

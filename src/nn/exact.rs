//! What must not be rounded to half precision: norms, softmax, low-rank factors and Jacobians are in f32 there.

use candle_core::{DType, Device, Result, Tensor};

/// The type that stands in for `dtype` where rounding would tell: f32 for the half types, else the type itself.
pub fn exact_type(dtype: DType) -> DType {
    match dtype {
        DType::BF16 | DType::F16 => DType::F32,
        other => other,
    }
}

/// All numbers, in f64, which not every device has.
pub fn numbers(x: &Tensor) -> Result<Vec<f64>> {
    x.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
}

/// The sum of squares of each row of (n, F), summed in f64.
pub fn row_squares(x: &Tensor) -> Result<Vec<f64>> {
    x.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.sqr()?.sum(1)?.to_vec1()
}

/// The same numbers in the type of [`exact_type`].
pub fn exact(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(exact_type(x.dtype()))
}

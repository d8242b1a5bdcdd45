//! What must not be rounded to half precision: norms, softmax, low-rank factors and Jacobians are in f32 there.

use candle_core::{DType, Device, Result, Tensor};

use super::cpu::Values;

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

/// Numbers that are summed apart, so that additions do not wait for each other.
const LANES: usize = 8;

/// The sum of squares of each row of (n, F), summed in f64.
pub fn row_squares(x: &Tensor) -> Result<Vec<f64>> {
    if let Some(values) = Values::of(x) {
        let columns = x.dim(1)?;
        return Ok((0..x.dim(0)?).map(|row| squares(&values[row * columns..(row + 1) * columns])).collect());
    }
    x.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.sqr()?.sum(1)?.to_vec1()
}

fn squares(row: &[f32]) -> f64 {
    let (lanes, rest) = row.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for lane in lanes {
        sums.iter_mut().zip(lane).for_each(|(sum, x)| *sum += f64::from(*x).powi(2));
    }
    sums.iter().sum::<f64>() + rest.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>()
}

/// The same numbers in the type of [`exact_type`].
pub fn exact(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(exact_type(x.dtype()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::check::{random, values};

    #[test]
    fn rows_of_any_length_have_the_sums_of_their_squares() {
        for columns in [1, 7, 8, 9, 100] {
            let x = random(1, &[3, columns]);
            let want: Vec<f64> =
                values(&x).chunks(columns).map(|row| row.iter().map(|x| x * x).sum()).collect();
            for dtype in [DType::F32, DType::F64] {
                let got = row_squares(&x.to_dtype(dtype).unwrap()).unwrap();
                for (got, want) in got.iter().zip(&want) {
                    assert!((got - want).abs() <= 1e-6 * want, "{columns} {dtype:?}: {got}, not {want}");
                }
            }
        }
    }
}

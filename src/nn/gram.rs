//! Weighted sums of outer products of rows, as the factors of a curvature need them.

use super::{
    cpu::{self, Values},
    exact::numbers,
};
use candle_core::{Device, Result, Tensor};

/// Adds x^T x, x (T, d), to each of `sums`: the rows of a lower triangle, one after the other.
pub fn add(x: &Tensor, sums: Vec<&mut [f64]>) -> Result<()> {
    let (count, d) = x.dims2()?;
    if count == 0 {
        return Ok(());
    }
    if let Some(x) = Values::of(x) {
        cpu::gram::add(x.matrix(), sums);
        return Ok(());
    }
    let product = numbers(&x.t()?.matmul(x)?)?;
    for sum in sums {
        let mut sum = sum.iter_mut();
        for (i, row) in product.chunks_exact(d).enumerate() {
            row[..=i].iter().zip(&mut sum).for_each(|(x, sum)| *sum += x);
        }
    }
    Ok(())
}

/// Indices of the rows of (T, d) that are not zero.
pub fn not_zero(x: &Tensor) -> Result<Vec<u32>> {
    if let Some(x) = by_rows(x) {
        return Ok(cpu::gram::not_zero(x.matrix()));
    }
    Ok((0..).zip(numbers(&x.abs()?.sum(1)?)?).filter(|(_, m)| *m != 0.0).map(|(i, _)| i).collect())
}

/// Some rows of x (T, d), each times its factor: (R, d).
pub fn scaled(x: &Tensor, rows: &[u32], factors: &[f64]) -> Result<Tensor> {
    if let Some(values) = by_rows(x) {
        let factors: Vec<f32> = factors.iter().map(|factor| *factor as f32).collect();
        let scaled = cpu::gram::scaled(values.matrix(), rows, &factors);
        return cpu::tensor(scaled, (rows.len(), x.dim(1)?));
    }
    let factors =
        Tensor::new(factors, &Device::Cpu)?.unsqueeze(1)?.to_dtype(x.dtype())?.to_device(x.device())?;
    x.index_select(&Tensor::new(rows, x.device())?, 0)?.broadcast_mul(&factors)
}

/// The values of a matrix whose rows may lie anywhere, but whose columns follow each other.
fn by_rows(x: &Tensor) -> Option<Values<'_>> {
    let [values] = Values::of_matrices([x])?;
    (x.stride().last() == Some(&1)).then_some(values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::check::random;
    use candle_core::DType;

    #[test]
    fn the_fused_sum_is_that_of_f64() {
        for (count, d) in [(1, 1), (3, 7), (5, 64), (20, 65), (9, 200), (3, 1700)] {
            let x = random(1, &[count, d]);
            let sum = |x: &Tensor| {
                let mut sums = vec![vec![0.5; d * (d + 1) / 2]; 2];
                add(x, sums.iter_mut().map(Vec::as_mut_slice).collect()).unwrap();
                assert_eq!(sums[0], sums[1]);
                sums.swap_remove(0)
            };
            let (got, want) = (sum(&x.to_dtype(DType::F32).unwrap()), sum(&x));
            for (got, want) in got.iter().zip(want) {
                assert!((got - want).abs() < 1e-5, "{count} x {d}: {got} is not {want}");
            }
        }
    }

    #[test]
    fn rows_are_found_and_scaled_where_they_are() {
        let x = random(1, &[6, 9]).to_dtype(DType::F32).unwrap();
        let x =
            x.broadcast_mul(&Tensor::new(&[[1f32], [0.0], [1.0], [0.0], [1.0], [1.0]], x.device()).unwrap());
        let part = x.unwrap().narrow(1, 2, 4).unwrap();
        let rows = not_zero(&part).unwrap();
        assert_eq!(rows, [0, 2, 4, 5]);
        assert_eq!(rows, not_zero(&part.to_dtype(DType::F64).unwrap()).unwrap());
        let factors = [2.0, 0.5, 1.0, 4.0];
        let got = scaled(&part, &rows, &factors).unwrap().to_vec2::<f32>().unwrap();
        let want = scaled(&part.to_dtype(DType::F64).unwrap(), &rows, &factors).unwrap();
        assert_eq!(got, want.to_dtype(DType::F32).unwrap().to_vec2::<f32>().unwrap());
    }
}

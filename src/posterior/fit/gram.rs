//! A sum of outer products, sum_t x_t x_t^T, and its eigenvectors.
//!
//! Each call multiplies in the data type of the rows; the sum over calls is f64. Only the lower triangle is kept: the
//! factors of all blocks are held at once, and of a wide layer they weigh more than its weights.

use candle_core::{DType, Device, Tensor};
use faer::{Mat, Side};

use crate::{Error, Result, nn::gram};

/// A symmetric matrix, accumulated.
#[derive(Debug, Clone)]
pub struct Gram {
    dim: usize,
    /// Rows of the lower triangle, one after the other.
    packed: Vec<f64>,
}

/// Eigenvalues by falling size, and their vectors as columns.
#[derive(Debug, Clone)]
pub struct Eigen {
    /// Clamped at 0 from below: the matrix is positive semidefinite but for rounding.
    pub values: Vec<f64>,
    /// (dim, dim)
    pub vectors: Tensor,
}

impl Gram {
    /// Starts at zero.
    pub fn new(dim: usize) -> Self {
        Self { dim, packed: vec![0.0; dim * (dim + 1) / 2] }
    }

    /// Number of rows, and of columns.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// An entry on or below the diagonal: `column <= row`.
    pub fn at(&self, row: usize, column: usize) -> f64 {
        self.packed[row * (row + 1) / 2 + column]
    }

    /// Sum of the diagonal.
    pub fn trace(&self) -> f64 {
        (0..self.dim).map(|i| self.packed[i * (i + 1) / 2 + i]).sum()
    }

    /// The sum as it is kept: the rows of the lower triangle, f64.
    pub fn to_tensor(&self) -> Result<Tensor> {
        Ok(Tensor::new(self.packed.as_slice(), &Device::Cpu)?)
    }

    /// A sum of `dim` rows from the rows of its lower triangle; `None` where there are not as many numbers.
    pub fn from_packed(packed: Vec<f64>, dim: usize) -> Option<Self> {
        (packed.len() == dim * (dim + 1) / 2).then_some(Self { dim, packed })
    }

    /// Undoes [`Gram::to_tensor`].
    pub fn from_tensor(packed: &Tensor) -> Result<Self> {
        let packed = packed.to_vec1()?;
        // dim (dim + 1) / 2 numbers.
        let dim = ((8 * packed.len() + 1).isqrt() - 1) / 2;
        Ok(Self { dim, packed })
    }

    /// Adds rows^T rows, rows (T, dim).
    pub fn add(&mut self, rows: &Tensor) -> Result<()> {
        Self::add_to_all(vec![self], rows)
    }

    /// Adds rows^T rows, rows (T, dim), to sums of the same size, computed once.
    pub fn add_to_all(sums: Vec<&mut Self>, rows: &Tensor) -> Result<()> {
        Ok(gram::add(rows, sums.into_iter().map(|sum| sum.packed.as_mut_slice()).collect())?)
    }

    /// Decomposes the sum; the vectors come in `dtype`, `name` is for the error.
    pub fn eigen(&self, name: &str, dtype: DType) -> Result<Eigen> {
        if self.packed.iter().any(|x| !x.is_finite()) {
            return Err(Error::NotFinite(format!("the factors of {name}")));
        }
        let at = |i: usize, j: usize| self.packed[i * (i + 1) / 2 + j];
        let lower = Mat::from_fn(self.dim, self.dim, |i, j| if j <= i { at(i, j) } else { at(j, i) });
        let eigen = lower.self_adjoint_eigen(Side::Lower).map_err(|e| {
            Error::Compute(candle_core::Error::Msg(format!("{name}: no eigendecomposition: {e:?}")))
        })?;
        let by_falling = || (0..self.dim).rev();
        let values = by_falling().map(|k| eigen.S()[k].max(0.0)).collect();
        let vectors = (0..self.dim).flat_map(|i| by_falling().map(move |k| (i, k)));
        let vectors: Vec<f64> = vectors.map(|(i, k)| eigen.U()[(i, k)]).collect();
        let vectors = Tensor::from_vec(vectors, (self.dim, self.dim), &Device::Cpu)?.to_dtype(dtype)?;
        Ok(Eigen { values, vectors })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::check::{random, values};

    #[test]
    fn eigenvectors_rebuild_the_sum() {
        let (first, second) = (random(1, &[4, 6]), random(2, &[3, 6]));
        let mut gram = Gram::new(6);
        gram.add(&first).unwrap();
        gram.add(&second).unwrap();
        let rows = Tensor::cat(&[first, second], 0).unwrap();
        let want = rows.t().unwrap().matmul(&rows).unwrap();

        let eigen = gram.eigen("b", DType::F64).unwrap();
        assert!(eigen.values.is_sorted_by(|a, b| a >= b));
        let lambda = Tensor::new(eigen.values.as_slice(), &Device::Cpu).unwrap();
        let scaled = eigen.vectors.broadcast_mul(&lambda).unwrap();
        let got = scaled.matmul(&eigen.vectors.t().unwrap()).unwrap();
        for (got, want) in values(&got).iter().zip(values(&want)) {
            assert!((got - want).abs() < 1e-12);
        }
    }

    #[test]
    fn survives_being_kept_as_a_tensor() {
        for dim in [1, 2, 7, 33] {
            let mut gram = Gram::new(dim);
            gram.add(&random(1, &[3, dim])).unwrap();
            let back = Gram::from_tensor(&gram.to_tensor().unwrap()).unwrap();
            assert_eq!((back.dim, back.packed), (dim, gram.packed));
        }
    }

    #[test]
    fn overflow_is_an_error_that_names_the_block() {
        let mut gram = Gram::new(2);
        gram.add(&Tensor::new(&[[f32::MAX, 1.0]], &Device::Cpu).unwrap()).unwrap();
        let message = gram.eigen("layers.0.lora_A", DType::F32).unwrap_err().to_string();
        assert_eq!(message, "not a finite number: the factors of layers.0.lora_A");
    }
}

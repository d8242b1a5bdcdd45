//! Matrix products of strided views, on the calling thread or on the pool.

use super::{Slot, written};
use gemm::Parallelism;
use std::ops::Range;

/// A matrix that is read, somewhere in a slice.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    values: &'a [f32],
    dims: (usize, usize),
    strides: (usize, usize),
}

impl<'a> Matrix<'a> {
    /// `rows` by `columns` numbers whose rows begin `stride` apart; more than the slice holds is a panic.
    pub fn new(values: &'a [f32], dims: (usize, usize), stride: usize) -> Self {
        Self::strided(values, dims, (stride, 1))
    }

    /// As [`Matrix::new`], with columns that begin `strides.1` apart.
    pub fn strided(values: &'a [f32], dims: (usize, usize), strides: (usize, usize)) -> Self {
        assert!(extent(dims, strides) <= values.len(), "a matrix larger than its slice");
        Self { values, dims, strides }
    }

    pub fn columns(&self) -> usize {
        self.dims.1
    }

    /// Number of rows.
    pub fn height(&self) -> usize {
        self.dims.0
    }

    /// One row, of a matrix whose columns follow each other.
    pub fn row(&self, row: usize) -> &'a [f32] {
        assert!(row < self.dims.0 && self.strides.1 == 1, "a row that is not in one piece");
        &self.values[row * self.strides.0..][..self.dims.1]
    }

    /// Some of the rows.
    pub fn rows(self, rows: &Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.dims.0, "rows that the matrix does not have");
        let start = (rows.start * self.strides.0).min(self.values.len());
        Self { values: &self.values[start..], dims: (rows.len(), self.dims.1), ..self }
    }

    pub fn t(self) -> Self {
        Self { dims: (self.dims.1, self.dims.0), strides: (self.strides.1, self.strides.0), ..self }
    }
}

/// A matrix that is written, somewhere in a slice.
#[derive(Debug)]
pub struct MatrixMut<'a> {
    values: &'a mut [f32],
    dims: (usize, usize),
    stride: usize,
}

impl<'a> MatrixMut<'a> {
    /// As [`Matrix::new`]; rows that overlap are a panic.
    pub fn new(values: &'a mut [f32], (rows, columns): (usize, usize), stride: usize) -> Self {
        assert!(columns <= stride || rows <= 1, "rows that overlap");
        assert!(extent((rows, columns), (stride, 1)) <= values.len(), "a matrix larger than its slice");
        Self { values, dims: (rows, columns), stride }
    }

    /// Becomes a b, by this thread alone.
    pub fn set(self, a: Matrix, b: Matrix) {
        self.write(a, b, Update::Set, Parallelism::None);
    }

    /// Becomes a b, by the whole pool.
    pub fn set_in_parallel(self, a: Matrix, b: Matrix) {
        self.write(a, b, Update::Set, Parallelism::Rayon(0));
    }

    /// Grows by a b, by this thread alone.
    pub fn add(self, a: Matrix, b: Matrix) {
        self.write(a, b, Update::Add(1.0), Parallelism::None);
    }

    /// Grows by a b, by the whole pool.
    pub fn add_in_parallel(self, a: Matrix, b: Matrix) {
        self.write(a, b, Update::Add(1.0), Parallelism::Rayon(0));
    }

    /// Shrinks by a b, by this thread alone.
    pub fn subtract(self, a: Matrix, b: Matrix) {
        self.write(a, b, Update::Add(-1.0), Parallelism::None);
    }

    fn write(self, a: Matrix, b: Matrix, update: Update, parallelism: Parallelism) {
        assert_eq!(self.dims, product_dims(a, b), "an output of another size");
        // SAFETY: the constructor checked that every row is inside the slice, that rows do not overlap, and the slice is
        // borrowed mutably.
        unsafe { call(self.values.as_mut_ptr(), self.stride, a, b, update, parallelism) }
    }
}

/// a b as rows, by the whole pool.
pub fn product(a: Matrix, b: Matrix) -> Vec<f32> {
    let (rows, columns) = product_dims(a, b);
    let fill = |out: &mut [Slot]| {
        // SAFETY: `written` gives `rows * columns` slots; without reading it, the product writes each of them.
        unsafe { call(out.as_mut_ptr().cast(), columns, a, b, Update::Set, Parallelism::Rayon(0)) };
    };
    // SAFETY: the product sets every entry of its output.
    unsafe { written(rows * columns, fill) }
}

/// to + a b as rows, by the whole pool.
pub fn product_added(a: Matrix, b: Matrix, to: &[f32]) -> Vec<f32> {
    let (rows, columns) = product_dims(a, b);
    let mut sums = to.to_vec();
    MatrixMut::new(&mut sums, (rows, columns), columns).add_in_parallel(a, b);
    sums
}

/// Whether the output is read.
#[derive(Debug, Clone, Copy)]
enum Update {
    Set,
    /// Adds the product times this.
    Add(f32),
}

fn product_dims(a: Matrix, b: Matrix) -> (usize, usize) {
    assert_eq!(a.dims.1, b.dims.0, "{:?} x {:?}", a.dims, b.dims);
    (a.dims.0, b.dims.1)
}

/// # Safety
/// From `out` on there are as many rows of as many numbers as the product has, `stride` apart, that nothing else uses; for
/// [`Update::Add`] they are initialised.
unsafe fn call(out: *mut f32, stride: usize, a: Matrix, b: Matrix, update: Update, parallelism: Parallelism) {
    let ((m, k), n) = (a.dims, b.dims.1);
    let [out_row, a_row, a_column, b_row, b_column] =
        [stride, a.strides.0, a.strides.1, b.strides.0, b.strides.1].map(|s| s as isize);
    let (read, factor) = match update {
        Update::Set => (false, 1.0),
        Update::Add(factor) => (true, factor),
    };
    // SAFETY: the constructors of `Matrix` checked that every row and column is inside its slice; for the output the caller
    // vouches.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out,
            1,
            out_row,
            read,
            a.values.as_ptr(),
            a_column,
            a_row,
            b.values.as_ptr(),
            b_column,
            b_row,
            1.0,
            factor,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// Numbers from the first to the last of a matrix.
fn extent((rows, columns): (usize, usize), (down, across): (usize, usize)) -> usize {
    if rows == 0 || columns == 0 {
        return 0;
    }
    let last = (rows - 1).saturating_mul(down).saturating_add((columns - 1).saturating_mul(across));
    last.saturating_add(1)
}

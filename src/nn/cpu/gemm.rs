//! Matrix products of strided views, on the calling thread or on the pool.

use gemm::Parallelism;

/// A matrix that is read, somewhere in a slice.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    values: &'a [f32],
    dims: (usize, usize),
    strides: (usize, usize),
}

impl<'a> Matrix<'a> {
    /// `rows` by `columns` numbers whose rows begin `stride` apart; more than the slice holds is a panic.
    pub fn new(values: &'a [f32], (rows, columns): (usize, usize), stride: usize) -> Self {
        assert!(extent((rows, columns), stride) <= values.len(), "a matrix larger than its slice");
        Self { values, dims: (rows, columns), strides: (stride, 1) }
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
        assert!(extent((rows, columns), stride) <= values.len(), "a matrix larger than its slice");
        Self { values, dims: (rows, columns), stride }
    }

    /// Becomes a b, by this thread alone.
    pub fn set(self, a: Matrix, b: Matrix) {
        self.write(a, b, false, Parallelism::None);
    }

    /// Becomes a b, by the whole pool.
    pub fn set_in_parallel(self, a: Matrix, b: Matrix) {
        self.write(a, b, false, Parallelism::Rayon(0));
    }

    /// Grows by a b, by this thread alone.
    pub fn add(self, a: Matrix, b: Matrix) {
        self.write(a, b, true, Parallelism::None);
    }

    fn write(self, a: Matrix, b: Matrix, add: bool, parallelism: Parallelism) {
        let ((m, k), (k_b, n)) = (a.dims, b.dims);
        assert!(k == k_b && self.dims == (m, n), "{:?} x {:?} -> {:?}", a.dims, b.dims, self.dims);
        let [out_row, a_row, a_column, b_row, b_column] =
            [self.stride, a.strides.0, a.strides.1, b.strides.0, b.strides.1].map(|s| s as isize);
        // SAFETY: the constructors checked that every row and column of the three matrices is inside its slice; the
        // output is borrowed mutably, so it overlaps neither operand, and its rows do not overlap each other.
        unsafe {
            gemm::gemm(
                m,
                n,
                k,
                self.values.as_mut_ptr(),
                1,
                out_row,
                add,
                a.values.as_ptr(),
                a_column,
                a_row,
                b.values.as_ptr(),
                b_column,
                b_row,
                1.0,
                1.0,
                false,
                false,
                false,
                parallelism,
            );
        }
    }
}

/// Numbers from the first to the last of a matrix.
fn extent((rows, columns): (usize, usize), stride: usize) -> usize {
    match rows {
        0 => 0,
        _ => (rows - 1).saturating_mul(stride).saturating_add(columns),
    }
}

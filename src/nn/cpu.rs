//! The fused backend: f32 tensors in main memory, every pass over them once.
//!
//! The functions of [`super`] come here where all their operands are f32 on the CPU; everything else takes the portable way
//! through candle's operations, against which these kernels are tested. A kernel works on slices and runs on rayon's
//! pool, the same one that the matrix products use; what it writes it owns, so that results do not depend on the number of
//! threads. Outputs are written once and never zeroed first: they begin as [`Slot`]s.

use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Result, Shape, Storage, Tensor};
use parking_lot::RwLockReadGuard;
use rayon::prelude::*;
use std::{mem::MaybeUninit, ops::Deref};

pub mod attention;
pub mod contract;
pub mod exp;
pub mod fold;
pub mod gemm;
pub mod gram;
pub mod int8;
pub mod mlp;
pub mod norm;
pub mod outer;
pub mod rope;
pub mod rotate;
mod share;
#[cfg(test)]
mod tests;
pub mod transpose;

use gemm::Matrix;

/// Numbers that a task works on at least: below, handing it to another thread costs more than it saves.
const GRAIN: usize = 1 << 14;

/// Partial sums that are kept side by side, so that a sum can use the widest vectors.
const LANES: usize = 16;

/// A number that is still to be written.
pub type Slot = MaybeUninit<f32>;

/// A tensor of f32 in main memory, borrowed.
pub struct Values<'a> {
    storage: RwLockReadGuard<'a, Storage>,
    layout: &'a Layout,
}

impl<'a> Values<'a> {
    /// `None` for any other tensor; the numbers may lie in any order.
    fn strided(t: &'a Tensor) -> Option<Self> {
        let (storage, layout) = t.storage_and_layout();
        let fits = matches!(&*storage, Storage::Cpu(CpuStorage::F32(_)));
        fits.then_some(Self { storage, layout })
    }

    /// `None` for any other tensor, and where the numbers do not follow each other.
    pub fn of(t: &'a Tensor) -> Option<Self> {
        Self::strided(t).filter(|values| values.layout.is_contiguous())
    }

    /// The values of all tensors, or `None` if one has none.
    pub fn of_all<const K: usize>(tensors: [&'a Tensor; K]) -> Option<[Self; K]> {
        collect(tensors.map(Self::of))
    }

    /// The values of matrices whose rows and columns may lie in any order, or `None` if one has none.
    pub fn of_matrices<const K: usize>(tensors: [&'a Tensor; K]) -> Option<[Self; K]> {
        collect(tensors.map(|t| Self::strided(t).filter(|values| values.layout.dims().len() == 2)))
    }

    /// The values as a matrix; all but the last dimension count as rows where there are more than two.
    pub fn matrix(&self) -> Matrix<'_> {
        match (self.layout.dims(), self.layout.stride()) {
            ([rows, columns], [down, across]) => {
                Matrix::strided(self.stored(), (*rows, *columns), (*down, *across))
            }
            (dims, _) => {
                let columns = dims.last().copied().unwrap_or(1);
                Matrix::new(self, (self.layout.shape().elem_count() / columns.max(1), columns), columns)
            }
        }
    }

    /// Everything from the first number on.
    fn stored(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.layout.start_offset()..],
            _ => &[],
        }
    }
}

fn collect<'a, const K: usize>(values: [Option<Values<'a>>; K]) -> Option<[Values<'a>; K]> {
    values.into_iter().collect::<Option<Vec<_>>>()?.try_into().ok()
}

impl Deref for Values<'_> {
    type Target = [f32];

    /// The numbers of a contiguous tensor.
    fn deref(&self) -> &[f32] {
        &self.stored()[..self.layout.shape().elem_count()]
    }
}

/// A tensor of `values`.
pub fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> Result<Tensor> {
    Tensor::from_vec(values, shape.into(), &Device::Cpu)
}

/// Changes the numbers of a contiguous f32 tensor in main memory where they are; the caller has its only handle.
pub fn in_place(t: &Tensor, change: impl Fn(&mut [f32])) -> Result<()> {
    t.inplace_op1(&Change(change))
}

struct Change<F>(F);

impl<F: Fn(&mut [f32])> InplaceOp1 for Change<F> {
    fn name(&self) -> &'static str {
        "in place"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        match (storage, layout.contiguous_offsets()) {
            (CpuStorage::F32(values), Some((start, end))) => {
                (self.0)(&mut values[start..end]);
                Ok(())
            }
            _ => candle_core::bail!("only contiguous f32 tensors are changed in place"),
        }
    }
}

/// Runs `f` with the widest vector instructions of this processor; what it calls must be inlined to profit.
pub fn vectorized<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

/// `len` numbers without a pass that zeroes them.
///
/// # Safety
/// `fill` must have written every slot when it returns.
pub unsafe fn written(len: usize, fill: impl FnOnce(&mut [Slot])) -> Vec<f32> {
    let mut values = Vec::with_capacity(len);
    fill(&mut values.spare_capacity_mut()[..len]);
    // SAFETY: the capacity is `len` at least, and the caller promises that every one of them is written.
    unsafe { values.set_len(len) };
    values
}

/// Numbers of whole rows that make a task.
fn grain(width: usize) -> usize {
    (GRAIN / width.max(1)).max(1) * width
}

/// Gives `f` every row of `width` slots with its index, in parallel where there are many; the last may be shorter.
///
/// # Safety
/// `f` must write every slot of each row.
pub unsafe fn rows(len: usize, width: usize, f: impl Fn(usize, &mut [Slot]) + Sync) -> Vec<f32> {
    // SAFETY: the rows cover all slots, and by the caller's promise each is written.
    unsafe { written(len, |out| each_row(out, width, f)) }
}

/// Gives `f` rows of two outputs at once, `widths` of them wide; both have `count` rows.
///
/// # Safety
/// `f` must write every slot of both rows.
pub unsafe fn row_pairs(
    count: usize,
    widths: (usize, usize),
    f: impl Fn(usize, &mut [Slot], &mut [Slot]) + Sync,
) -> (Vec<f32>, Vec<f32>) {
    let tall = (GRAIN / (widths.0 + widths.1).max(1)).max(1);
    let mut second = Vec::new();
    let fill = |a: &mut [Slot]| {
        let fill = |b: &mut [Slot]| {
            let chunks = a.par_chunks_mut(tall * widths.0).zip(b.par_chunks_mut(tall * widths.1));
            chunks.enumerate().for_each(|(chunk, (a, b))| {
                vectorized(
                    #[inline(always)]
                    || {
                        let rows = a.chunks_mut(widths.0).zip(b.chunks_mut(widths.1));
                        for (i, (a, b)) in rows.enumerate() {
                            f(chunk * tall + i, a, b);
                        }
                    },
                );
            });
        };
        // SAFETY: as for the first output.
        second = unsafe { written(count * widths.1, fill) };
    };
    // SAFETY: both are as many chunks of as many rows, so that they cover all slots, and by the caller's promise each is
    // written.
    let first = unsafe { written(count * widths.0, fill) };
    (first, second)
}

/// Changes every row of `width` numbers, given its index, in parallel where there are many.
pub fn each_row<T: Send>(values: &mut [T], width: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    values.par_chunks_mut(grain(width)).enumerate().for_each(|(chunk, rows)| {
        vectorized(
            #[inline(always)]
            || {
                for (i, row) in rows.chunks_mut(width).enumerate() {
                    f(chunk * (grain(width) / width) + i, row);
                }
            },
        );
    });
}

/// The rows of (N, width) that `indices` name.
pub fn gather(x: &[f32], width: usize, indices: &[u32]) -> Vec<f32> {
    // SAFETY: a row of x is as wide as one of the output, so that every slot is written.
    unsafe {
        rows(indices.len() * width, width, |i, y| {
            y.write_copy_of_slice(&x[indices[i] as usize * width..][..width]);
        })
    }
}

/// Sum of f(i) over `0..len`, in [`LANES`] partial sums.
#[inline(always)]
pub fn sum_of(len: usize, f: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let whole = len / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += f(start + lane);
        }
    }
    let rest: f32 = (whole..len).map(f).sum();
    lanes.iter().sum::<f32>() + rest
}

//! The fused backend: f32 tensors in main memory, every pass over them once.
//!
//! The functions of [`super`] come here where all their operands are f32 and contiguous on the CPU; everything else takes
//! the portable way through candle's operations, against which these kernels are tested. A kernel works on slices and runs
//! on rayon's pool, the same one that the matrix products use; what it writes it owns, so that results do not depend on
//! the number of threads.

use candle_core::{CpuStorage, Device, Result, Storage, Tensor};
use parking_lot::RwLockReadGuard;
use rayon::prelude::*;
use std::ops::Deref;

pub mod attention;
pub mod exp;
pub mod gemm;
#[cfg(test)]
pub mod int8;
pub mod mlp;
pub mod norm;
pub mod outer;
pub mod rope;
mod share;
#[cfg(test)]
mod tests;

/// Numbers that a task works on at least: below, handing it to another thread costs more than it saves.
const GRAIN: usize = 1 << 14;

/// Partial sums that are kept side by side, so that a sum can use the widest vectors.
const LANES: usize = 16;

/// The values of a contiguous f32 tensor in main memory.
pub struct Values<'a> {
    storage: RwLockReadGuard<'a, Storage>,
    start: usize,
    len: usize,
}

impl<'a> Values<'a> {
    /// `None` for any other tensor.
    pub fn of(t: &'a Tensor) -> Option<Self> {
        let (storage, layout) = t.storage_and_layout();
        let (start, end) = layout.contiguous_offsets()?;
        let fits = matches!(&*storage, Storage::Cpu(CpuStorage::F32(_)));
        fits.then_some(Self { storage, start, len: end - start })
    }

    /// The values of all tensors, or `None` if one has none.
    pub fn of_all<const K: usize>(tensors: [&'a Tensor; K]) -> Option<[Self; K]> {
        let all: Option<Vec<Self>> = tensors.into_iter().map(Self::of).collect();
        all?.try_into().ok()
    }
}

impl Deref for Values<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.start..self.start + self.len],
            _ => &[],
        }
    }
}

/// A tensor of `values` in the shape of `like`.
pub fn tensor_like(values: Vec<f32>, like: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(values, like.dims(), &Device::Cpu)
}

/// Runs `f` with the widest vector instructions of this processor; what it calls must be inlined to profit.
pub fn vectorized<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

/// Gives `f` every row of `width` numbers with its index, in parallel where there are many; the last may be shorter.
pub fn for_rows(out: &mut [f32], width: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    let rows = (GRAIN / width.max(1)).max(1);
    out.par_chunks_mut(rows * width).enumerate().for_each(|(chunk, out)| {
        vectorized(
            #[inline(always)]
            || {
                for (i, row) in out.chunks_mut(width).enumerate() {
                    f(chunk * rows + i, row);
                }
            },
        );
    });
}

/// Gives `f` rows of two outputs at once.
pub fn for_row_pairs(
    (a, b): (&mut [f32], &mut [f32]),
    width: usize,
    f: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
) {
    let rows = (GRAIN / width.max(1)).max(1);
    let chunks = a.par_chunks_mut(rows * width).zip(b.par_chunks_mut(rows * width));
    chunks.enumerate().for_each(|(chunk, (a, b))| {
        vectorized(
            #[inline(always)]
            || {
                for (i, (a, b)) in a.chunks_mut(width).zip(b.chunks_mut(width)).enumerate() {
                    f(chunk * rows + i, a, b);
                }
            },
        );
    });
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

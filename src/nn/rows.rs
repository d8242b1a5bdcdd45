//! Some rows of a matrix.

use super::cpu::{self, Values};
use candle_core::{CpuStorage, Result, Storage, Tensor};

/// The rows of x (N, C) that `indices` (R) name, in their order: (R, C).
pub fn gather(x: &Tensor, indices: &Tensor) -> Result<Tensor> {
    if let Some(values) = Values::of(x) {
        let (storage, layout) = indices.storage_and_layout();
        if let (Storage::Cpu(CpuStorage::U32(all)), Some((start, end))) =
            (&*storage, layout.contiguous_offsets())
        {
            let (rows, width) = x.dims2()?;
            let indices = &all[start..end];
            if indices.iter().any(|i| *i as usize >= rows) {
                candle_core::bail!("a row outside the {rows} of the matrix");
            }
            return cpu::tensor(cpu::gather(&values, width, indices), (indices.len(), width));
        }
    }
    x.index_select(indices, 0)
}

//! Some rows of a matrix, and one added to all.

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

/// x (N, C) with `row` (C) added to every row. Takes the only handle of `x`.
pub fn add_row(x: Tensor, row: &Tensor) -> Result<Tensor> {
    if let Some(row) = Values::of(row)
        && Values::of(&x).is_some()
    {
        cpu::in_place(&x, |x| {
            cpu::each_row(x, row.len(), |_, x| x.iter_mut().zip(row.iter()).for_each(|(x, row)| *x += row));
        })?;
        return Ok(x);
    }
    x.broadcast_add(row)
}

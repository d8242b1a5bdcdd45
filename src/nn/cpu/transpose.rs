//! A matrix with its rows as columns.

use super::{Slot, vectorized, written};
use rayon::prelude::*;

/// Rows and columns that are turned at a time: both sides of such a square stay in the first cache.
const TILE: usize = 32;

/// (rows, columns) -> (columns, rows).
pub fn transpose(x: &[f32], (rows, columns): (usize, usize)) -> Vec<f32> {
    assert_eq!(x.len(), rows * columns, "a matrix of another size");
    let fill = |out: &mut [Slot]| {
        out.par_chunks_mut((TILE * rows).max(1)).enumerate().for_each(|(band, out)| {
            vectorized(
                #[inline(always)]
                || turn_band(x, (rows, columns), band * TILE, out),
            );
        });
    };
    // SAFETY: the bands cover the output, and each of their tiles is written.
    unsafe { written(x.len(), fill) }
}

/// Writes the columns of `x` from `first` on as rows.
#[inline(always)]
fn turn_band(x: &[f32], (rows, columns): (usize, usize), first: usize, out: &mut [Slot]) {
    for start in (0..rows).step_by(TILE) {
        let end = rows.min(start + TILE);
        for (j, out) in out.chunks_exact_mut(rows).enumerate() {
            for (i, out) in (start..end).zip(&mut out[start..end]) {
                out.write(x[i * columns + first + j]);
            }
        }
    }
}

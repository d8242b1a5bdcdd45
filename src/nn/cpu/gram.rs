//! Sums of outer products, rows^T rows, onto the lower triangles that keep them.
//!
//! A triangle is the rows of a symmetric matrix up to their diagonals, one after the other. A task computes a band of its rows
//! in f32, only as far as the diagonal, and adds them to the f64 sums while they are in the cache.

use super::{
    gemm::{Matrix, MatrixMut},
    rows as each_row, vectorized,
};
use rayon::prelude::*;
use std::ops::Range;

/// Rows of a band: more compute more beyond the diagonal, fewer are multiplied more slowly.
const BAND: usize = 64;

/// Columns that a band computes at a time, so that they stay in the second cache.
const TILE: usize = 1536;

/// Numbers in the first rows of a triangle.
fn triangle(rows: usize) -> usize {
    rows * (rows + 1) / 2
}

/// Adds x^T x, x (T, d), to each of the triangles.
pub fn add(x: Matrix, sums: Vec<&mut [f64]>) {
    let d = x.columns();
    let band = |start: usize| (start..d.min(start + BAND), Vec::with_capacity(sums.len()));
    let mut bands: Vec<(Range<usize>, Vec<&mut [f64]>)> = (0..d).step_by(BAND).map(band).collect();
    for mut rest in sums {
        assert_eq!(rest.len(), triangle(d), "a triangle of another size");
        for (rows, parts) in &mut bands {
            let (part, below) = rest.split_at_mut(triangle(rows.end) - triangle(rows.start));
            parts.push(part);
            rest = below;
        }
    }
    // The longest first, for they take the most time.
    bands.reverse();
    bands
        .into_par_iter()
        .with_max_len(1)
        .for_each_init(Vec::new, |scratch, (rows, parts)| add_band(x, rows, parts, scratch));
}

/// Adds some rows of x^T x to their part of each triangle.
fn add_band(x: Matrix, rows: Range<usize>, mut parts: Vec<&mut [f64]>, scratch: &mut Vec<f32>) {
    for first in (0..rows.end).step_by(TILE) {
        let columns = first..rows.end.min(first + TILE);
        let width = columns.len();
        scratch.resize(rows.len() * width, 0.0);
        let product = MatrixMut::new(scratch, (rows.len(), width), width);
        product.set(x.t().rows(&rows), x.t().rows(&columns).t());
        for part in &mut parts {
            vectorized(
                #[inline(always)]
                || {
                    for (row, values) in rows.clone().zip(scratch.chunks_exact(width)) {
                        let at = triangle(row) - triangle(rows.start) + first;
                        let kept = (row + 1).saturating_sub(first).min(width);
                        for (sum, value) in part[at..at + kept].iter_mut().zip(values) {
                            *sum += f64::from(*value);
                        }
                    }
                },
            );
        }
    }
}

/// Indices of the rows that are not zero.
pub fn not_zero(x: Matrix) -> Vec<u32> {
    (0..).zip(0..x.height()).filter(|(_, i)| x.row(*i).iter().any(|x| *x != 0.0)).map(|(i, _)| i).collect()
}

/// Some rows of x (T, d), each times its factor.
pub fn scaled(x: Matrix, rows: &[u32], factors: &[f32]) -> Vec<f32> {
    assert_eq!(rows.len(), factors.len(), "a factor for each row");
    let width = x.columns();
    // SAFETY: a row of x is as wide as one of the output, so that every slot is written.
    unsafe {
        each_row(rows.len() * width, width, |i, out| {
            for (out, x) in out.iter_mut().zip(x.row(rows[i] as usize)) {
                out.write(x * factors[i]);
            }
        })
    }
}

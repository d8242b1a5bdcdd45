//! The random projection of a batch of Jacobians, one pass over each.

use super::vectorized;
use crate::nn::fold::Fold;
use rayon::prelude::*;

/// Entries whose signs are drawn at once.
const WORD: usize = 64;

/// Projects rows of `entries` numbers: a row of `features` for each.
pub fn fold(fold: &Fold, jacobians: &[f32], entries: usize) -> Vec<f32> {
    let (features, count) = (fold.features, jacobians.len() / entries.max(1));
    let signs = signs(fold, entries);
    let mut sums = vec![0.0; count * features];
    sums.par_chunks_mut(features).zip(jacobians.par_chunks(entries)).for_each(|(sums, j)| {
        vectorized(
            #[inline(always)]
            || {
                let runs = j.chunks(features).zip(signs.chunks(features));
                for (c, (run, signs)) in runs.enumerate() {
                    // The run goes round the end of the features.
                    let (start, to_end) = (fold.shift(c as u64), features - fold.shift(c as u64));
                    let split = to_end.min(run.len());
                    add_signed(&mut sums[start..], &run[..split], &signs[..split]);
                    add_signed(sums, &run[split..], &signs[split..]);
                }
            },
        );
    });
    sums
}

#[inline(always)]
fn add_signed(sums: &mut [f32], run: &[f32], signs: &[u32]) {
    for ((sum, j), sign) in sums.iter_mut().zip(run).zip(signs) {
        *sum += f32::from_bits(j.to_bits() ^ sign);
    }
}

/// The sign bit of each entry, where an f32 has it.
fn signs(fold: &Fold, entries: usize) -> Vec<u32> {
    let mut signs = vec![0; entries];
    vectorized(
        #[inline(always)]
        || {
            for (k, run) in signs.chunks_mut(WORD).enumerate() {
                let word = fold.signs(k as u64);
                for (bit, sign) in run.iter_mut().enumerate() {
                    *sign = ((word >> bit & 1) as u32) << 31;
                }
            }
        },
    );
    signs
}

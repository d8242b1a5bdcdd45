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
                let mut done = 0;
                while done < entries {
                    let (c, i) = ((fold.offset + done) / features, (fold.offset + done) % features);
                    let end = entries.min(done + features - i);
                    let start = (i + fold.shift(c as u64)) % features;
                    // The run goes round the end of the features.
                    let split = end.min(done + features - start);
                    add_signed(&mut sums[start..], &j[done..split], &signs[done..split]);
                    add_signed(sums, &j[split..end], &signs[split..end]);
                    done = end;
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
            let mut done = 0;
            while done < entries {
                let (k, bit) = ((fold.offset + done) / WORD, (fold.offset + done) % WORD);
                let end = entries.min(done + WORD - bit);
                let word = fold.signs(k as u64) >> bit;
                for (bit, sign) in signs[done..end].iter_mut().enumerate() {
                    *sign = ((word >> bit & 1) as u32) << 31;
                }
                done = end;
            }
        },
    );
    signs
}

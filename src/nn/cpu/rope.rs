//! Rotary position embedding in Hugging Face's layout.

use super::each_row;

/// Turns, where they are, the heads of each token that begin at `starts`, by the angles whose cos and sin (N, half) are given,
/// and backwards with `direction` -1; a token has `width` numbers, and of a head the first two halves turn.
pub fn rotate(x: &mut [f32], width: usize, starts: &[usize], (cos, sin): (&[f32], &[f32]), direction: f32) {
    let half = cos.len() * width / x.len().max(1);
    each_row(
        x,
        width,
        #[inline(always)]
        |i, x| {
            let (cos, sin) = (&cos[i * half..][..half], &sin[i * half..][..half]);
            for start in starts {
                let (x1, x2) = x[*start..][..2 * half].split_at_mut(half);
                for j in 0..half {
                    let (c, s) = (cos[j], direction * sin[j]);
                    let (y1, y2) = (x1[j] * c - x2[j] * s, x2[j] * c + x1[j] * s);
                    (x1[j], x2[j]) = (y1, y2);
                }
            }
        },
    );
}

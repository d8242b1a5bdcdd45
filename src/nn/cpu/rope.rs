//! Rotary position embedding in Hugging Face's layout.

use super::each_row;

/// Turns the first `heads` heads of each token where they are, by the angles whose cos and sin (N, D / 2) are given, and
/// backwards with `direction` -1; a token has `width` numbers.
pub fn rotate(x: &mut [f32], width: usize, heads: usize, (cos, sin): (&[f32], &[f32]), direction: f32) {
    let half = cos.len() * width / x.len().max(1);
    each_row(
        x,
        width,
        #[inline(always)]
        |i, x| {
            let (cos, sin) = (&cos[i * half..][..half], &sin[i * half..][..half]);
            for head in x.chunks_exact_mut(2 * half).take(heads) {
                let (x1, x2) = head.split_at_mut(half);
                for j in 0..half {
                    let (c, s) = (cos[j], direction * sin[j]);
                    let (y1, y2) = (x1[j] * c - x2[j] * s, x2[j] * c + x1[j] * s);
                    (x1[j], x2[j]) = (y1, y2);
                }
            }
        },
    );
}

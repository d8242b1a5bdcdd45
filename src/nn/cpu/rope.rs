//! Rotary position embedding in Hugging Face's layout.

use super::for_rows;

/// Turns x (N, heads, D) by the angles whose cos and sin (N, D / 2) are given; backwards with `direction` -1.
pub fn rotate(x: &[f32], cos: &[f32], sin: &[f32], dims: (usize, usize, usize), direction: f32) -> Vec<f32> {
    let (_, heads, size) = dims;
    let half = size / 2;
    let mut y = vec![0.0; x.len()];
    for_rows(
        &mut y,
        heads * size,
        #[inline(always)]
        |i, y| {
            let x = &x[i * heads * size..][..heads * size];
            let (cos, sin) = (&cos[i * half..][..half], &sin[i * half..][..half]);
            for (y, x) in y.chunks_exact_mut(size).zip(x.chunks_exact(size)) {
                let ((y1, y2), (x1, x2)) = (y.split_at_mut(half), x.split_at(half));
                for j in 0..half {
                    let (c, s) = (cos[j], direction * sin[j]);
                    y1[j] = x1[j] * c - x2[j] * s;
                    y2[j] = x2[j] * c + x1[j] * s;
                }
            }
        },
    );
    y
}

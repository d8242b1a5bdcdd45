//! Root-mean-square normalisation, one pass for the sum of squares and one to scale.

use super::{for_rows, sum_of};

/// x (N, C), weight (C) -> w * x / rms(x), (N, C).
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let width = weight.len();
    let mut y = vec![0.0; x.len()];
    for_rows(
        &mut y,
        width,
        #[inline(always)]
        |i, y| {
            let x = &x[i * width..][..width];
            let inverse = inverse_rms(x, eps);
            for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
                *y = x * inverse * w;
            }
        },
    );
    y
}

/// Gradient of [`rms_norm`] with respect to `x`: (u - n mean(u n)) / rms, n = x / rms, u = w * dy.
pub fn rms_norm_backward(x: &[f32], weight: &[f32], eps: f32, dy: &[f32]) -> Vec<f32> {
    let width = weight.len();
    let mut dx = vec![0.0; x.len()];
    for_rows(
        &mut dx,
        width,
        #[inline(always)]
        |i, dx| {
            let (x, dy) = (&x[i * width..][..width], &dy[i * width..][..width]);
            let inverse = inverse_rms(x, eps);
            let dot = sum_of(
                width,
                #[inline(always)]
                |j| weight[j] * dy[j] * x[j],
            );
            // mean(u n) / rms, for x instead of n
            let pull = dot * inverse * inverse * inverse / width as f32;
            for (((dx, x), w), dy) in dx.iter_mut().zip(x).zip(weight).zip(dy) {
                *dx = w * dy * inverse - x * pull;
            }
        },
    );
    dx
}

#[inline(always)]
fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    let squares = sum_of(
        x.len(),
        #[inline(always)]
        |j| x[j] * x[j],
    );
    1.0 / (squares / x.len() as f32 + eps).sqrt()
}

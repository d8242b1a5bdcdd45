//! Normalisations of rows, one pass for each sum and one to scale.

use super::{rows, sum_of};

/// x (N, C), weight (C) -> w * x / rms(x), (N, C).
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let width = weight.len();
    // SAFETY: x, weight and the row of the output are of the same length, so that every slot is written.
    unsafe {
        rows(
            x.len(),
            width,
            #[inline(always)]
            |i, y| {
                let x = &x[i * width..][..width];
                let inverse = inverse_rms(x, eps);
                for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
                    y.write(x * inverse * w);
                }
            },
        )
    }
}

/// Gradient at the input of a residual branch that begins with [`rms_norm`]: of `beside`, which passes the branch by, and
/// of the branch, (u - n mean(u n)) / rms with n = x / rms, u = w * dy.
pub fn rms_norm_backward(x: &[f32], weight: &[f32], eps: f32, dy: &[f32], beside: &[f32]) -> Vec<f32> {
    let width = weight.len();
    // SAFETY: all rows are of the same length, so that every slot is written.
    unsafe {
        rows(
            x.len(),
            width,
            #[inline(always)]
            |i, dx| {
                let [x, dy, beside] = [x, dy, beside].map(|rows| &rows[i * width..][..width]);
                let inverse = inverse_rms(x, eps);
                let dot = sum_of(
                    width,
                    #[inline(always)]
                    |j| weight[j] * dy[j] * x[j],
                );
                // mean(u n) / rms, for x instead of n
                let pull = dot * inverse * inverse * inverse / width as f32;
                for (j, dx) in dx.iter_mut().enumerate() {
                    dx.write(beside[j] + (weight[j] * dy[j] * inverse - x[j] * pull));
                }
            },
        )
    }
}

/// x (N, C), weight and bias (C) -> w (x - mean) / sqrt(variance + eps) + b, (N, C).
pub fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32) -> Vec<f32> {
    let width = weight.len();
    // SAFETY: all rows are of the same length, so that every slot is written.
    unsafe {
        rows(
            x.len(),
            width,
            #[inline(always)]
            |i, y| {
                let x = &x[i * width..][..width];
                let (mean, inverse) = moments(x, eps);
                for (j, y) in y.iter_mut().enumerate() {
                    y.write((x[j] - mean) * inverse * weight[j] + bias[j]);
                }
            },
        )
    }
}

/// As [`rms_norm_backward`], of [`layer_norm`]: beside + (u - mean(u) - n mean(u n)) / sigma.
pub fn layer_norm_backward(x: &[f32], weight: &[f32], eps: f32, dy: &[f32], beside: &[f32]) -> Vec<f32> {
    let width = weight.len();
    // SAFETY: as above.
    unsafe {
        rows(
            x.len(),
            width,
            #[inline(always)]
            |i, dx| {
                let [x, dy, beside] = [x, dy, beside].map(|rows| &rows[i * width..][..width]);
                let (mean, inverse) = moments(x, eps);
                let share = 1.0 / width as f32;
                let level = share
                    * sum_of(
                        width,
                        #[inline(always)]
                        |j| weight[j] * dy[j],
                    );
                let pull = share
                    * inverse
                    * inverse
                    * sum_of(
                        width,
                        #[inline(always)]
                        |j| weight[j] * dy[j] * (x[j] - mean),
                    );
                for (j, dx) in dx.iter_mut().enumerate() {
                    dx.write(beside[j] + (weight[j] * dy[j] - level - (x[j] - mean) * pull) * inverse);
                }
            },
        )
    }
}

/// Mean of a row, and 1 / sqrt(variance + eps).
#[inline(always)]
fn moments(x: &[f32], eps: f32) -> (f32, f32) {
    let share = 1.0 / x.len() as f32;
    let mean = share
        * sum_of(
            x.len(),
            #[inline(always)]
            |j| x[j],
        );
    let variance = share
        * sum_of(
            x.len(),
            #[inline(always)]
            |j| (x[j] - mean) * (x[j] - mean),
        );
    (mean, 1.0 / (variance + eps).sqrt())
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

//! Normalisations of rows, one pass for each sum and one to scale: by the root mean square, or, centred, layer normalisation.

use super::{rows, sum_of};

/// x (N, C), weight (C) -> w x / rms(x), (N, C).
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    forward::<false>(x, weight, &[], eps)
}

/// As [`rms_norm`] of x - mean(x), plus the bias (C).
pub fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32) -> Vec<f32> {
    forward::<true>(x, weight, bias, eps)
}

/// Gradient at the input of a residual branch that begins with [`rms_norm`]: of `beside`, which passes the branch by, and
/// of the branch, (u - n mean(u n)) / rms with n = x / rms, u = w * dy.
pub fn rms_norm_backward(x: &[f32], weight: &[f32], eps: f32, dy: &[f32], beside: &[f32]) -> Vec<f32> {
    backward::<false>(x, weight, eps, dy, beside)
}

/// The same of [`layer_norm`], with n of the centred rows, and mean(u) taken off u.
pub fn layer_norm_backward(x: &[f32], weight: &[f32], eps: f32, dy: &[f32], beside: &[f32]) -> Vec<f32> {
    backward::<true>(x, weight, eps, dy, beside)
}

fn forward<const CENTRED: bool>(x: &[f32], weight: &[f32], bias: &[f32], eps: f32) -> Vec<f32> {
    let width = weight.len();
    // SAFETY: weight and the row of the output are of the same length, so that every slot is written.
    unsafe {
        rows(
            x.len(),
            width,
            #[inline(always)]
            |i, y| {
                let x = &x[i * width..][..width];
                let (mean, inverse) = moments::<CENTRED>(x, eps);
                for (j, y) in y.iter_mut().enumerate() {
                    let n = (x[j] - mean) * inverse * weight[j];
                    y.write(if CENTRED { n + bias[j] } else { n });
                }
            },
        )
    }
}

fn backward<const CENTRED: bool>(
    x: &[f32],
    weight: &[f32],
    eps: f32,
    dy: &[f32],
    beside: &[f32],
) -> Vec<f32> {
    let width = weight.len();
    let share = 1.0 / width as f32;
    // SAFETY: all rows are of the same length, so that every slot is written.
    unsafe {
        rows(
            x.len(),
            width,
            #[inline(always)]
            |i, dx| {
                let [x, dy, beside] = [x, dy, beside].map(|rows| &rows[i * width..][..width]);
                let (mean, inverse) = moments::<CENTRED>(x, eps);
                let level = match CENTRED {
                    true => {
                        share
                            * sum_of(
                                width,
                                #[inline(always)]
                                |j| weight[j] * dy[j],
                            )
                    }
                    false => 0.0,
                };
                let dot = sum_of(
                    width,
                    #[inline(always)]
                    |j| weight[j] * dy[j] * (x[j] - mean),
                );
                // mean(u n) / rms, for x - mean instead of n
                let pull = dot * inverse * inverse * share;
                for (j, dx) in dx.iter_mut().enumerate() {
                    dx.write(beside[j] + (weight[j] * dy[j] - level - (x[j] - mean) * pull) * inverse);
                }
            },
        )
    }
}

/// What is taken off a row, its mean or nothing, and 1 / sqrt(mean square of the rest + eps).
#[inline(always)]
fn moments<const CENTRED: bool>(x: &[f32], eps: f32) -> (f32, f32) {
    let share = 1.0 / x.len() as f32;
    let mean = match CENTRED {
        true => {
            share
                * sum_of(
                    x.len(),
                    #[inline(always)]
                    |j| x[j],
                )
        }
        false => 0.0,
    };
    let squares = sum_of(
        x.len(),
        #[inline(always)]
        |j| (x[j] - mean) * (x[j] - mean),
    );
    (mean, 1.0 / (squares * share + eps).sqrt())
}

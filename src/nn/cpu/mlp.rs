//! Activations and gates, forward and backward, in one pass each.

use super::{
    exp::{normal, sigmoid, tanh},
    row_pairs, rows,
};
use crate::nn::mlp::{Activation, Gate};

/// Rows of what `gate` takes -> rows of `width`.
pub fn forward(gate: Gate, x: &[f32], width: usize) -> Vec<f32> {
    match gate.activation {
        Activation::Silu => applied(gate.gated, x, width, silu),
        Activation::GeluTanh => applied(gate.gated, x, width, gelu_tanh),
        Activation::Gelu => applied(gate.gated, x, width, gelu),
    }
}

/// Gradient of [`forward`], and its output once more.
pub fn backward(gate: Gate, x: &[f32], width: usize, dy: &[f32]) -> (Vec<f32>, Vec<f32>) {
    match gate.activation {
        Activation::Silu => gradient(gate.gated, x, width, dy, silu),
        Activation::GeluTanh => gradient(gate.gated, x, width, dy, gelu_tanh),
        Activation::Gelu => gradient(gate.gated, x, width, dy, gelu),
    }
}

/// x s and s (1 + x (1 - s)), s = sigmoid(x).
#[inline(always)]
fn silu(x: f32) -> (f32, f32) {
    let s = sigmoid(x);
    (x * s, s * (1.0 + x * (1.0 - s)))
}

/// x (1 + t) / 2, t = tanh(sqrt(2 / pi) (x + 0.044715 x^3)), and its slope.
#[inline(always)]
fn gelu_tanh(x: f32) -> (f32, f32) {
    const ROOT: f32 = 0.797_884_6;
    const CUBE: f32 = 0.044_715;
    let t = tanh(ROOT * x * (1.0 + CUBE * x * x));
    let half = 0.5 * (1.0 + t);
    (x * half, half + 0.5 * x * (1.0 - t * t) * ROOT * (1.0 + 3.0 * CUBE * x * x))
}

/// x Phi(x), and Phi(x) + x phi(x).
#[inline(always)]
fn gelu(x: f32) -> (f32, f32) {
    let (below, density) = normal(x);
    (x * below, below + x * density)
}

fn applied(gated: bool, x: &[f32], width: usize, curve: impl Fn(f32) -> (f32, f32) + Sync) -> Vec<f32> {
    let wide = if gated { 2 * width } else { width };
    // SAFETY: gate, up and the row of the output are of the same length, so that every slot is written.
    unsafe {
        rows(
            x.len() / wide * width,
            width,
            #[inline(always)]
            |i, y| {
                let (gate, up) = x[i * wide..][..wide].split_at(width);
                if gated {
                    for ((y, g), u) in y.iter_mut().zip(gate).zip(up) {
                        y.write(curve(*g).0 * u);
                    }
                } else {
                    y.iter_mut().zip(gate).for_each(|(y, x)| {
                        y.write(curve(*x).0);
                    });
                }
            },
        )
    }
}

fn gradient(
    gated: bool,
    x: &[f32],
    width: usize,
    dy: &[f32],
    curve: impl Fn(f32) -> (f32, f32) + Sync,
) -> (Vec<f32>, Vec<f32>) {
    let wide = if gated { 2 * width } else { width };
    // SAFETY: as above, for both halves of the first output and for the second.
    unsafe {
        row_pairs(
            dy.len() / width,
            (wide, width),
            #[inline(always)]
            |i, dx, y| {
                let (gate, up) = x[i * wide..][..wide].split_at(width);
                let (dgate, dup) = dx.split_at_mut(width);
                let gradients = y.iter_mut().zip(dgate).zip(gate).zip(&dy[i * width..][..width]);
                if gated {
                    for ((((y, dgate), g), dy), (dup, up)) in gradients.zip(dup.iter_mut().zip(up)) {
                        let (value, slope) = curve(*g);
                        y.write(value * up);
                        dup.write(dy * value);
                        dgate.write(dy * up * slope);
                    }
                } else {
                    for (((y, dx), x), dy) in gradients {
                        let (value, slope) = curve(*x);
                        y.write(value);
                        dx.write(dy * slope);
                    }
                }
            },
        )
    }
}

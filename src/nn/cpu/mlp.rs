//! SwiGLU's gate, forward and backward, in one pass each.

use super::{exp::sigmoid, for_row_pairs, for_rows};

/// Numbers that are worked on at a time; the gate takes each on its own.
const WIDTH: usize = 256;

/// silu(gate) * up.
pub fn swiglu(gate: &[f32], up: &[f32]) -> Vec<f32> {
    let mut y = vec![0.0; gate.len()];
    for_rows(
        &mut y,
        WIDTH,
        #[inline(always)]
        |i, y| {
            for ((y, g), u) in y.iter_mut().zip(&gate[i * WIDTH..]).zip(&up[i * WIDTH..]) {
                *y = g * sigmoid(*g) * u;
            }
        },
    );
    y
}

/// Gradients (dgate, dup) of [`swiglu`]: silu' = s (1 + gate (1 - s)), s = sigmoid(gate).
pub fn swiglu_backward(gate: &[f32], up: &[f32], dy: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let (mut dgate, mut dup) = (vec![0.0; gate.len()], vec![0.0; gate.len()]);
    for_row_pairs(
        (&mut dgate, &mut dup),
        WIDTH,
        #[inline(always)]
        |i, dgate, dup| {
            let read = gate[i * WIDTH..].iter().zip(&up[i * WIDTH..]).zip(&dy[i * WIDTH..]);
            for ((dgate, dup), ((g, u), dy)) in dgate.iter_mut().zip(dup).zip(read) {
                let s = sigmoid(*g);
                *dup = dy * g * s;
                *dgate = dy * u * s * (1.0 + g * (1.0 - s));
            }
        },
    );
    (dgate, dup)
}

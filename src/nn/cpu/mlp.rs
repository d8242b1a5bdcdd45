//! SwiGLU's gate, forward and backward, in one pass each.

use super::{exp::sigmoid, row_pairs, rows};

/// Rows of gate and up beside each other, (N, 2 F) -> silu(gate) * up, (N, F).
pub fn swiglu(gate_up: &[f32], width: usize) -> Vec<f32> {
    // SAFETY: gate, up and the row of the output are of the same length, so that every slot is written.
    unsafe {
        rows(
            gate_up.len() / 2,
            width,
            #[inline(always)]
            |i, y| {
                let (gate, up) = gate_up[2 * i * width..][..2 * width].split_at(width);
                for ((y, g), u) in y.iter_mut().zip(gate).zip(up) {
                    y.write(g * sigmoid(*g) * u);
                }
            },
        )
    }
}

/// Gradient of [`swiglu`], (N, 2 F), and its output once more, (N, F): silu' = s (1 + gate (1 - s)), s = sigmoid(gate).
pub fn swiglu_backward(gate_up: &[f32], width: usize, dy: &[f32]) -> (Vec<f32>, Vec<f32>) {
    // SAFETY: as above, for both halves of the first output and for the second.
    unsafe {
        row_pairs(
            dy.len() / width,
            (2 * width, width),
            #[inline(always)]
            |i, dx, y| {
                let (gate, up) = gate_up[2 * i * width..][..2 * width].split_at(width);
                let (dgate, dup) = dx.split_at_mut(width);
                let dy = &dy[i * width..][..width];
                for (j, y) in y.iter_mut().enumerate() {
                    let (g, u) = (gate[j], up[j]);
                    let s = sigmoid(g);
                    y.write(g * s * u);
                    dup[j].write(dy[j] * g * s);
                    dgate[j].write(dy[j] * u * s * (1.0 + g * (1.0 - s)));
                }
            },
        )
    }
}

//! The gate of SwiGLU (Shazeer, 2020): y = silu(gate) * up.

use super::cpu::{self, Values};
use candle_core::{Result, Tensor};

/// `gate` and `up` (N, F) -> (N, F).
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if let Some([g, u]) = Values::of_all([gate, up]) {
        return cpu::tensor_like(cpu::mlp::swiglu(&g, &u), gate);
    }
    gate.silu()? * up
}

/// Gradients (dgate, dup) of [`swiglu`].
///
/// With s = sigmoid(gate): silu' = s * (1 + gate * (1 - s)).
pub fn swiglu_backward(gate: &Tensor, up: &Tensor, dy: &Tensor) -> Result<(Tensor, Tensor)> {
    if let Some([g, u, dy]) = Values::of_all([gate, up, dy]) {
        let (dgate, dup) = cpu::mlp::swiglu_backward(&g, &u, &dy);
        return Ok((cpu::tensor_like(dgate, gate)?, cpu::tensor_like(dup, up)?));
    }
    let s = candle_nn::ops::sigmoid(gate)?;
    let silu = (gate * &s)?;
    // s + silu * (1 - s)
    let slope = (&s + (&silu - (&silu * &s)?)?)?;
    Ok((((dy * up)? * slope)?, (dy * silu)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::check::{assert_gradient, random};

    #[test]
    fn backward_equals_finite_differences() {
        let (gate, up, dy) = (random(1, &[3, 4]), random(2, &[3, 4]), random(3, &[3, 4]));
        let gate = (gate * 3.0).unwrap();
        let (dgate, dup) = swiglu_backward(&gate, &up, &dy).unwrap();
        assert_gradient(&gate, &dy, &dgate, |g| swiglu(g, &up));
        assert_gradient(&up, &dy, &dup, |u| swiglu(&gate, u));
    }
}

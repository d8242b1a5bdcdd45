//! The gate of SwiGLU (Shazeer, 2020): y = silu(gate) * up.

use super::cpu::{self, Values};
use candle_core::{Result, Tensor};

/// Gate and up beside each other, (N, 2 F) -> (N, F).
pub fn swiglu(gate_up: &Tensor) -> Result<Tensor> {
    let (tokens, both) = gate_up.dims2()?;
    if let Some(values) = Values::of(gate_up) {
        return cpu::tensor(cpu::mlp::swiglu(&values, both / 2), (tokens, both / 2));
    }
    gate_up.narrow(1, 0, both / 2)?.silu()? * gate_up.narrow(1, both / 2, both / 2)?
}

/// Gradient (N, 2 F) of [`swiglu`], and its output (N, F) once more, which costs nothing here.
///
/// With s = sigmoid(gate): silu' = s * (1 + gate * (1 - s)).
pub fn swiglu_backward(gate_up: &Tensor, dy: &Tensor) -> Result<(Tensor, Tensor)> {
    let width = gate_up.dim(1)? / 2;
    if let Some([values, dy]) = Values::of_all([gate_up, dy]) {
        let (dx, y) = cpu::mlp::swiglu_backward(&values, width, &dy);
        return Ok((cpu::tensor(dx, gate_up.dims())?, cpu::tensor(y, (gate_up.dim(0)?, width))?));
    }
    let (gate, up) = (gate_up.narrow(1, 0, width)?, gate_up.narrow(1, width, width)?);
    let s = candle_nn::ops::sigmoid(&gate)?;
    let silu = (gate * &s)?;
    // s + silu * (1 - s)
    let slope = (&s + (&silu - (&silu * &s)?)?)?;
    let (dgate, dup) = (((dy * &up)? * slope)?, (dy * &silu)?);
    Ok((Tensor::cat(&[dgate, dup], 1)?, (silu * up)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::check::{assert_gradient, random, values};

    #[test]
    fn backward_equals_finite_differences() {
        let (gate_up, dy) = ((random(1, &[3, 8]) * 3.0).unwrap(), random(3, &[3, 4]));
        let (dx, y) = swiglu_backward(&gate_up, &dy).unwrap();
        assert_gradient(&gate_up, &dy, &dx, swiglu);
        for (got, want) in values(&y).iter().zip(values(&swiglu(&gate_up).unwrap())) {
            assert!((got - want).abs() < 1e-12);
        }
    }
}

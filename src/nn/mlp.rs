//! What lies between the two products of an MLP: an activation, in most decoders as a gate (Shazeer, 2020).
//!
//! With the activation phi: y = phi(gate) * up where there is a gate, gate and up beside each other; else y = phi(x).

use super::cpu::{self, Values};
use candle_core::{Result, Tensor};

/// phi.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x sigmoid(x).
    Silu,
    /// x Phi(x), Phi by tanh (Hendrycks and Gimpel, 2016).
    GeluTanh,
    /// x Phi(x), exactly.
    Gelu,
}

/// An activation, and whether it is a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gate {
    pub activation: Activation,
    pub gated: bool,
}

impl Gate {
    /// (N, 2 F) -> (N, F) where it is a gate, else (N, F) -> (N, F).
    pub fn forward(self, x: &Tensor) -> Result<Tensor> {
        let (tokens, width) = (x.dim(0)?, self.width(x)?);
        if let Some(values) = Values::of(x) {
            return cpu::tensor(cpu::mlp::forward(self, &values, width), (tokens, width));
        }
        let (gate, up) = self.halves(x)?;
        let (value, _) = self.activation.value_and_slope(&gate)?;
        up.map_or(Ok(value.clone()), |up| value * up)
    }

    /// Gradient at the input of [`Gate::forward`], and its output once more, which costs nothing here.
    pub fn backward(self, x: &Tensor, dy: &Tensor) -> Result<(Tensor, Tensor)> {
        let (tokens, width) = (x.dim(0)?, self.width(x)?);
        if let Some([values, dy]) = Values::of_all([x, dy]) {
            let (dx, y) = cpu::mlp::backward(self, &values, width, &dy);
            return Ok((cpu::tensor(dx, x.dims())?, cpu::tensor(y, (tokens, width))?));
        }
        let (gate, up) = self.halves(x)?;
        let (value, slope) = self.activation.value_and_slope(&gate)?;
        match up {
            None => Ok(((dy * slope)?, value)),
            Some(up) => {
                let (dgate, dup) = (((dy * &up)? * slope)?, (dy * &value)?);
                Ok((Tensor::cat(&[dgate, dup], 1)?, (value * up)?))
            }
        }
    }

    /// F.
    fn width(self, x: &Tensor) -> Result<usize> {
        Ok(if self.gated { x.dim(1)? / 2 } else { x.dim(1)? })
    }

    fn halves(self, x: &Tensor) -> Result<(Tensor, Option<Tensor>)> {
        let width = self.width(x)?;
        let up = if self.gated { Some(x.narrow(1, width, width)?) } else { None };
        Ok((x.narrow(1, 0, width)?, up))
    }
}

impl Activation {
    /// phi and its derivative, entry by entry.
    fn value_and_slope(self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        match self {
            Self::Silu => {
                let s = candle_nn::ops::sigmoid(x)?;
                let silu = (x * &s)?;
                // s + silu (1 - s)
                let slope = (&s + (&silu - (&silu * &s)?)?)?;
                Ok((silu, slope))
            }
            Self::GeluTanh => {
                let root = (2.0 / std::f64::consts::PI).sqrt();
                let square = x.sqr()?;
                let t = ((x * root)? * ((&square * 0.044715)? + 1.0)?)?.tanh()?;
                let half = ((&t + 1.0)? * 0.5)?;
                let inner = (((square * (3.0 * 0.044715))? + 1.0)? * root)?;
                let slope = (&half + (((x * 0.5)? * (1.0 - t.sqr()?)?)? * inner)?)?;
                Ok(((x * half)?, slope))
            }
            Self::Gelu => {
                let below = (((x * std::f64::consts::FRAC_1_SQRT_2)?.erf()? + 1.0)? * 0.5)?;
                let density = ((x.sqr()? * -0.5)?.exp()? * (1.0 / std::f64::consts::TAU.sqrt()))?;
                Ok(((x * &below)?, (&below + (x * density)?)?))
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::nn::check::{assert_gradient, random, values};

    /// Every activation, as a gate and alone.
    pub fn all() -> impl Iterator<Item = Gate> {
        let activations = [Activation::Silu, Activation::GeluTanh, Activation::Gelu];
        activations.into_iter().flat_map(|activation| [true, false].map(|gated| Gate { activation, gated }))
    }

    #[test]
    fn backward_equals_finite_differences() {
        for gate in all() {
            let x = (random(1, &[3, 8]) * 3.0).unwrap();
            let dy = random(3, &[3, if gate.gated { 4 } else { 8 }]);
            let (dx, y) = gate.backward(&x, &dy).unwrap();
            assert_gradient(&x, &dy, &dx, |x| gate.forward(x));
            for (got, want) in values(&y).iter().zip(values(&gate.forward(&x).unwrap())) {
                assert!((got - want).abs() < 1e-12);
            }
        }
    }
}

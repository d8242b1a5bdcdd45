//! Rotary position embedding (Su et al., 2021), in Hugging Face's layout: the first half of a head turns with the second.

use super::cpu::{self, Values};
use candle_core::{DType, Device, Result, Tensor};

/// cos and sin of every token's angles, (N, D / 2) each.
#[derive(Debug, Clone)]
pub struct Rotation {
    cos: Tensor,
    sin: Tensor,
}

impl Rotation {
    /// Angles position * frequency. They are formed in f32 as Hugging Face forms them, whatever `dtype` is.
    pub fn new(positions: &[u32], frequencies: &[f32], dtype: DType, device: &Device) -> Result<Self> {
        let angles: Vec<f32> =
            positions.iter().flat_map(|&p| frequencies.iter().map(move |f| p as f32 * f)).collect();
        let angles = Tensor::from_vec(angles, (positions.len(), frequencies.len()), device)?;
        Ok(Self { cos: angles.cos()?.to_dtype(dtype)?, sin: angles.sin()?.to_dtype(dtype)? })
    }

    /// Turns every head of `x`: (N, heads, D) -> (N, heads, D).
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        self.turn(x, 1.0)
    }

    /// Gradient of [`Rotation::apply`]: a rotation's transpose turns the other way.
    pub fn apply_backward(&self, dy: &Tensor) -> Result<Tensor> {
        self.turn(dy, -1.0)
    }

    fn turn(&self, x: &Tensor, direction: f64) -> Result<Tensor> {
        if let Some([values, cos, sin]) = Values::of_all([x, &self.cos, &self.sin]) {
            let turned = cpu::rope::rotate(&values, &cos, &sin, x.dims3()?, direction as f32);
            return cpu::tensor_like(turned, x);
        }
        let sin = (&self.sin * direction)?;
        candle_nn::rotary_emb::rope_thd(&x.unsqueeze(0)?.contiguous()?, &self.cos, &sin)?.squeeze(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::check::{assert_gradient, random};

    #[test]
    fn backward_equals_finite_differences() {
        let rotation = Rotation::new(&[0, 1, 7], &[1.0, 0.1], DType::F64, &Device::Cpu).unwrap();
        let (x, dy) = (random(1, &[3, 2, 4]), random(2, &[3, 2, 4]));
        let dx = rotation.apply_backward(&dy).unwrap();
        assert_gradient(&x, &dy, &dx, |x| rotation.apply(x));
    }
}

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

    /// Turns the first `heads` heads of each token: (N, width) -> (N, width). Takes the only handle of `x`.
    pub fn apply(&self, x: Tensor, heads: usize) -> Result<Tensor> {
        self.turn(x, heads, 1.0)
    }

    /// Gradient of [`Rotation::apply`]: a rotation's transpose turns the other way.
    pub fn apply_backward(&self, dy: Tensor, heads: usize) -> Result<Tensor> {
        self.turn(dy, heads, -1.0)
    }

    fn turn(&self, x: Tensor, heads: usize, direction: f64) -> Result<Tensor> {
        let (tokens, width) = x.dims2()?;
        let size = 2 * self.cos.dim(1)?;
        if let Some([cos, sin]) = Values::of_all([&self.cos, &self.sin])
            && Values::of(&x).is_some()
        {
            cpu::in_place(&x, |x| cpu::rope::rotate(x, width, heads, (&cos, &sin), direction as f32))?;
            return Ok(x);
        }
        let turned = x.narrow(1, 0, heads * size)?.reshape((1, tokens, heads, size))?;
        let sin = (&self.sin * direction)?;
        let turned = candle_nn::rotary_emb::rope_thd(&turned.contiguous()?, &self.cos, &sin)?;
        let rest = x.narrow(1, heads * size, width - heads * size)?;
        Tensor::cat(&[turned.reshape((tokens, heads * size))?, rest], 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::check::{assert_gradient, random};

    #[test]
    fn backward_equals_finite_differences() {
        let rotation = Rotation::new(&[0, 1, 7], &[1.0, 0.1], DType::F64, &Device::Cpu).unwrap();
        let (x, dy) = (random(1, &[3, 12]), random(2, &[3, 12]));
        let dx = rotation.apply_backward(dy.clone(), 2).unwrap();
        assert_gradient(&x, &dy, &dx, |x| rotation.apply(x.clone(), 2));
    }
}

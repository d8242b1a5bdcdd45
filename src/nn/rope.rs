//! Rotary position embedding (Su et al., 2021), in Hugging Face's layout: the first half of a head, or of its part that turns,
//! turns with the second.

use super::cpu::{self, Values};
use candle_core::{DType, Device, Result, Tensor};

/// cos and sin of every token's angles, (N, half) each: half of a head's numbers that turn.
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

    /// Makes what turns longer too.
    pub fn times(self, magnitude: f64) -> Result<Self> {
        Ok(Self { cos: (self.cos * magnitude)?, sin: (self.sin * magnitude)? })
    }

    /// Turns the heads of each token that begin at `starts`: (N, width) -> (N, width). Takes the only handle of `x`.
    pub fn apply(&self, x: Tensor, starts: &[usize]) -> Result<Tensor> {
        self.turn(x, starts, 1.0)
    }

    /// Gradient of [`Rotation::apply`]: a rotation's transpose turns the other way.
    pub fn apply_backward(&self, dy: Tensor, starts: &[usize]) -> Result<Tensor> {
        self.turn(dy, starts, -1.0)
    }

    fn turn(&self, x: Tensor, starts: &[usize], direction: f64) -> Result<Tensor> {
        let width = x.dim(1)?;
        if let Some([cos, sin]) = Values::of_all([&self.cos, &self.sin])
            && Values::of(&x).is_some()
        {
            cpu::in_place(&x, |x| cpu::rope::rotate(x, width, starts, (&cos, &sin), direction as f32))?;
            return Ok(x);
        }
        let (half, sin) = (self.cos.dim(1)?, (&self.sin * direction)?);
        // (N, width): x c + (its other halves) s, where c is 1 and s is 0 for what does not turn.
        let spread = |angles: &Tensor, of_first: f64, rest: f64| -> Result<Tensor> {
            let beside =
                |count: usize| Tensor::full(rest, (x.dim(0)?, count), x.device())?.to_dtype(x.dtype());
            let (mut parts, mut end) = (Vec::new(), 0);
            for start in starts {
                parts.extend([beside(start - end)?, (angles * of_first)?, angles.clone()]);
                end = start + 2 * half;
            }
            parts.push(beside(width - end)?);
            Tensor::cat(&parts, 1)
        };
        let mut other: Vec<u32> = (0..width as u32).collect();
        for start in starts {
            other[*start..][..2 * half].rotate_left(half);
        }
        let other = x.index_select(&Tensor::new(other, x.device())?, 1)?;
        (&x * spread(&self.cos, 1.0, 1.0)?)? + (other * spread(&sin, -1.0, 0.0)?)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::check::{assert_gradient, random};

    #[test]
    fn backward_equals_finite_differences() {
        let rotation = Rotation::new(&[0, 1, 7], &[1.0, 0.1], DType::F64, &Device::Cpu).unwrap();
        let (x, dy) = (random(1, &[3, 15]), random(2, &[3, 15]));
        let dx = rotation.apply_backward(dy.clone(), &[1, 9]).unwrap();
        assert_gradient(&x, &dy, &dx, |x| rotation.apply(x.clone(), &[1, 9]));
    }
}

//! Frozen linear layers with low-rank updates (LoRA, Hu et al., 2021): y = x (W + s B A)^T + b.
//!
//! The update is merged into an effective weight, so that forward and backward cost one matrix product each, as without
//! an adapter. The factors stay beside it: the gradients of A and B need s B^T g and A x, not the merged weight.
//!
//! Layers that read the same input (q, k and v; gate and up) are one matrix, their outputs side by side. The weight
//! is kept in both orders, for on a CPU a product is only fast where the rows of its right side follow each other: the forward
//! multiplies by W^T, the backward by W. A model that only ever goes forward drops the second.

use super::{
    product::{product, product_added, transposed},
    quantized::Quantized,
    rows::add_row,
};
use candle_core::{DType, Result, Tensor, bail};
use std::ops::Range;

/// A low-rank update s B A, and what may come with it.
#[derive(Debug, Clone)]
pub struct Lora {
    /// A, (r, d_in).
    pub a: Tensor,
    /// B, (d_out, r).
    pub b: Tensor,
    /// s: alpha / r, or alpha / sqrt(r) for rsLoRA.
    pub scale: f64,
    /// m, (d_out): the norm that each row of W + s B A is given (DoRA, Liu et al., 2024).
    pub magnitude: Option<Tensor>,
    /// Of B, (d_out), times s.
    pub bias: Option<Tensor>,
    /// m / |W + s B A| by rows, (d_out), once it is merged: what B's output is multiplied by. As in PEFT it has no gradient.
    gain: Option<Tensor>,
}

impl Lora {
    /// The factors alone.
    pub fn new(a: Tensor, b: Tensor, scale: f64) -> Self {
        Self { a, b, scale, magnitude: None, bias: None, gain: None }
    }

    /// The same with a magnitude and a bias of B, where there are any.
    pub fn with_rows(self, magnitude: Option<Tensor>, bias: Option<Tensor>) -> Self {
        Self { magnitude, bias, ..self }
    }

    /// The same with what `f` makes of each tensor.
    pub fn try_map(&self, f: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Self> {
        let some = |t: &Option<Tensor>| t.as_ref().map(&f).transpose();
        Ok(Self {
            a: f(&self.a)?,
            b: f(&self.b)?,
            scale: self.scale,
            magnitude: some(&self.magnitude)?,
            bias: some(&self.bias)?,
            gain: some(&self.gain)?,
        })
    }

    /// The same with other factors.
    pub fn with_factors(&self, a: Tensor, b: Tensor) -> Self {
        Self { a, b, ..self.clone() }
    }

    /// h = A x of every token: (N, d_in) -> (N, r).
    pub fn down(&self, x: &Tensor) -> Result<Tensor> {
        product(x, &self.a.t()?)
    }

    /// Gradient of B's output, s aside, given that of the layer's: (N, d_out).
    pub fn output_gradient(&self, g: Tensor) -> Result<Tensor> {
        match &self.gain {
            Some(gain) => g.broadcast_mul(gain),
            None => Ok(g),
        }
    }

    /// Output gradient of A, s B^T g of every token, g of [`Lora::output_gradient`]: (N, d_out) -> (N, r).
    pub fn down_gradient(&self, g: &Tensor) -> Result<Tensor> {
        product(g, &self.b)? * self.scale
    }

    /// Output gradient of B, s g of every token: (N, d_out).
    pub fn up_gradient(&self, g: &Tensor) -> Result<Tensor> {
        g * self.scale
    }

    /// W + s B A, its rows of norm m where there is one.
    fn merge(&mut self, base: &Tensor) -> Result<Tensor> {
        let merged = product_added(&(&self.b * self.scale)?, &self.a, base)?;
        let Some(magnitude) = &self.magnitude else { return Ok(merged) };
        let gain = (magnitude / merged.sqr()?.sum(1)?.sqrt()?)?;
        let scaled = merged.broadcast_mul(&gain.unsqueeze(1)?)?;
        self.gain = Some(gain);
        Ok(scaled)
    }

    /// The frozen bias plus that of B.
    fn biased(&self, base: Option<&Tensor>) -> Result<Option<Tensor>> {
        let own = self.bias.as_ref().map(|bias| bias * self.scale).transpose()?;
        Ok(match (base, own) {
            (Some(base), Some(own)) => Some((base + own)?),
            (base, own) => own.or(base.cloned()),
        })
    }
}

/// A frozen layer.
#[derive(Debug, Clone)]
pub struct Frozen {
    /// W, (d_out, d_in).
    pub weight: Tensor,
    /// b, (d_out).
    pub bias: Option<Tensor>,
}

/// One of the layers that share an input.
#[derive(Debug, Clone)]
struct Part {
    outputs: usize,
    /// Kept while the update may still change.
    base: Option<Frozen>,
    lora: Option<Lora>,
}

/// W + s B A of all parts, in the order that the forward multiplies by.
#[derive(Debug, Clone)]
enum Forward {
    /// Transposed, parts side by side, (d_in, d_out).
    Exact(Tensor),
    Int8(Quantized),
}

/// Linear layers that read the same input, as one.
#[derive(Debug, Clone)]
pub struct Linear {
    parts: Vec<Part>,
    forward: Forward,
    /// W + s B A of all parts below each other, (d_out, d_in).
    backward: Option<Tensor>,
    /// b of all parts beside each other, (d_out), where one has it.
    bias: Option<Tensor>,
}

impl Linear {
    /// Layers with their updates.
    pub fn new(mut layers: Vec<(Frozen, Option<Lora>)>) -> Result<Self> {
        let merged = layers.iter_mut().map(|(base, lora)| match lora {
            Some(lora) => lora.merge(&base.weight),
            None => Ok(base.weight.clone()),
        });
        let merged = merged.collect::<Result<Vec<_>>>()?;
        let bias = biases(&layers)?;
        let part = |(base, lora): (Frozen, _)| {
            let outputs = base.weight.dims()[0];
            Part { outputs, base: Some(base), lora }
        };
        let parts = layers.into_iter().map(part).collect();
        let backward = match &merged[..] {
            [one] => one.clone(),
            all => Tensor::cat(all, 0)?,
        };
        Ok(Self { parts, forward: Forward::Exact(transposed(&backward)?), backward: Some(backward), bias })
    }

    /// The rows of its output that belong to each part, with the part's update.
    pub fn parts(&self) -> impl Iterator<Item = (Range<usize>, Option<&Lora>)> {
        let rows = self.parts.iter().scan(0, |start, part| {
            let first = *start;
            *start += part.outputs;
            Some(first..*start)
        });
        rows.zip(self.parts.iter().map(|part| part.lora.as_ref()))
    }

    pub fn has_lora(&self) -> bool {
        self.parts.iter().any(|part| part.lora.is_some())
    }

    /// The same bases with other updates, those of `changed` by the index of their layer.
    pub fn with_lora(&self, changed: impl IntoIterator<Item = (usize, Lora)>) -> Result<Self> {
        let mut parts = self.parts.clone();
        for (index, lora) in changed {
            parts[index].lora = Some(lora);
        }
        let layers = parts.into_iter().map(|part| match part.base {
            Some(base) => Ok((base, part.lora)),
            None => bail!("the updates of a frozen model do not change"),
        });
        let mut changed = Self::new(layers.collect::<Result<_>>()?)?;
        if let Forward::Exact(weight) = &self.forward {
            changed.round(weight.dtype())?;
        }
        Ok(changed)
    }

    /// Bytes of the weights that it multiplies by, in both orders.
    pub fn bytes(&self) -> usize {
        let forward = match &self.forward {
            Forward::Exact(weight) => bytes(weight),
            Forward::Int8(weight) => weight.bytes(),
        };
        forward + self.backward.as_ref().map_or(0, bytes)
    }

    /// Drops what only a change of the updates needs.
    pub fn freeze(&mut self) {
        self.parts.iter_mut().for_each(|part| part.base = None);
    }

    /// Drops what only the backward needs.
    pub fn forward_only(&mut self) {
        self.backward = None;
    }

    /// Rounds the weights to half precision; the factors stay as they are.
    pub fn round(&mut self, dtype: DType) -> Result<()> {
        let of = |t: &Option<Tensor>| t.as_ref().map(|t| t.to_dtype(dtype)).transpose();
        (self.backward, self.bias) = (of(&self.backward)?, of(&self.bias)?);
        if let Forward::Exact(weight) = &mut self.forward {
            *weight = weight.to_dtype(dtype)?;
        }
        Ok(())
    }

    /// Rounds the forward's weight to eight bits, and drops what only the backward needs.
    pub fn quantize(&mut self) -> Result<()> {
        if let Some(weight) = self.backward.take() {
            self.forward = Forward::Int8(Quantized::new(&weight)?);
        }
        Ok(())
    }

    /// (N, d_in) -> (N, d_out).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.biased(match &self.forward {
            Forward::Exact(weight) => product(x, weight)?,
            Forward::Int8(weight) => weight.product(x)?,
        })
    }

    /// `to` plus the output: (N, d_in), (N, d_out) -> (N, d_out).
    pub fn forward_added(&self, x: &Tensor, to: &Tensor) -> Result<Tensor> {
        self.biased(match &self.forward {
            Forward::Exact(weight) => product_added(x, weight, to)?,
            Forward::Int8(weight) => weight.product_added(x, to)?,
        })
    }

    fn biased(&self, y: Tensor) -> Result<Tensor> {
        match &self.bias {
            Some(bias) => add_row(y, bias),
            None => Ok(y),
        }
    }

    /// Gradient with respect to the input: (N, d_out) -> (N, d_in).
    pub fn backward(&self, dy: &Tensor) -> Result<Tensor> {
        match &self.backward {
            Some(weight) => product(dy, weight),
            None => bail!("a model that only goes forward has no backward"),
        }
    }
}

fn bytes(tensor: &Tensor) -> usize {
    tensor.elem_count() * tensor.dtype().size_in_bytes()
}

/// The biases of layers beside each other, zero where one has none; `None` where none has.
fn biases(layers: &[(Frozen, Option<Lora>)]) -> Result<Option<Tensor>> {
    let each = layers.iter().map(|(base, lora)| match lora {
        Some(lora) => lora.biased(base.bias.as_ref()),
        None => Ok(base.bias.clone()),
    });
    let each = each.collect::<Result<Vec<_>>>()?;
    if each.iter().all(Option::is_none) {
        return Ok(None);
    }
    let filled = each.into_iter().zip(layers).map(|(bias, (Frozen { weight, .. }, _))| match bias {
        Some(bias) => Ok(bias),
        None => Tensor::zeros(weight.dim(0)?, weight.dtype(), weight.device()),
    });
    Tensor::cat(&filled.collect::<Result<Vec<_>>>()?, 0).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::check::{assert_gradient, random, values};

    /// Two layers of 3 and 2 outputs over one input of 5; only the first has an update.
    fn layer() -> Linear {
        let lora = Lora::new(random(1, &[2, 5]), random(2, &[3, 2]), 0.7);
        let first = Frozen { weight: random(3, &[3, 5]), bias: None };
        let second = Frozen { weight: random(6, &[2, 5]), bias: Some(random(8, &[2])) };
        Linear::new(vec![(first, Some(lora)), (second, None)]).unwrap()
    }

    fn lora() -> Lora {
        layer().parts[0].lora.clone().unwrap()
    }

    #[test]
    fn merged_equals_unmerged() {
        let (layer, lora, x) = (layer(), lora(), random(4, &[6, 5]));
        let side = (lora.down(&x).unwrap().matmul(&lora.b.t().unwrap()).unwrap() * lora.scale).unwrap();
        let base = |i: usize| x.matmul(&layer.parts[i].base.as_ref().unwrap().weight.t().unwrap()).unwrap();
        let second = base(1).broadcast_add(&random(8, &[2])).unwrap();
        let unmerged = Tensor::cat(&[(base(0) + side).unwrap(), second], 1).unwrap();
        let merged = layer.forward(&x).unwrap();
        for (got, want) in values(&merged).iter().zip(values(&unmerged)) {
            assert!((got - want).abs() < 1e-12);
        }
        assert_eq!(layer.parts().map(|(rows, _)| rows).collect::<Vec<_>>(), [0..3, 3..5]);
    }

    #[test]
    fn backward_equals_finite_differences() {
        let (layer, x, dy) = (layer(), random(4, &[6, 5]), random(5, &[6, 5]));
        let to = random(7, &[6, 5]);
        assert_gradient(&x, &dy, &layer.backward(&dy).unwrap(), |x| layer.forward_added(x, &to));
    }

    #[test]
    fn without_what_is_dropped_it_still_goes_forward() {
        let (mut layer, x) = (layer(), random(4, &[6, 5]));
        let want = values(&layer.forward(&x).unwrap());
        layer.freeze();
        layer.forward_only();
        assert_eq!(values(&layer.forward(&x).unwrap()), want);
        assert!(layer.backward(&x).is_err());
        assert!(layer.with_lora([(0, lora())]).is_err());
    }

    #[test]
    fn factor_gradients_equal_finite_differences() {
        let (layer, lora) = (layer(), lora());
        let (x, dy) = (random(4, &[6, 5]), random(5, &[6, 5]));
        let g = dy.narrow(1, 0, 3).unwrap();
        let da = lora.down_gradient(&g).unwrap().t().unwrap().matmul(&x).unwrap();
        let db = lora.up_gradient(&g).unwrap().t().unwrap().matmul(&lora.down(&x).unwrap()).unwrap();
        let moved = |lora: Lora| layer.with_lora([(0, lora)])?.forward(&x);
        assert_gradient(&lora.a, &dy, &da, |a| moved(lora.with_factors(a.clone(), lora.b.clone())));
        assert_gradient(&lora.b, &dy, &db, |b| moved(lora.with_factors(lora.a.clone(), b.clone())));
    }

    /// Rows have the norms that they are given, whatever the factors are; gradients take those norms as they are.
    #[test]
    fn magnitudes_are_the_norms_of_rows() {
        let (base, m) = (random(3, &[3, 5]), (random(9, &[3]) + 2.0).unwrap());
        let lora = Lora { magnitude: Some(m.clone()), bias: Some(random(10, &[3])), ..lora() };
        let frozen = Frozen { weight: base, bias: None };
        let layer = Linear::new(vec![(frozen, Some(lora.clone()))]).unwrap();
        let weight = layer.backward.as_ref().unwrap();
        let norms = values(&weight.sqr().unwrap().sum(1).unwrap().sqrt().unwrap());
        norms.iter().zip(values(&m)).for_each(|(got, want)| assert!((got - want).abs() < 1e-12));
        let zero = Tensor::zeros((1, 5), candle_core::DType::F64, m.device()).unwrap();
        let (got, bias) = (values(&layer.forward(&zero).unwrap()), values(&random(10, &[3])));
        got.iter().zip(bias).for_each(|(got, bias)| assert!((got - lora.scale * bias).abs() < 1e-12));
        let (_, merged) = layer.parts().next().unwrap();
        let g = values(
            &merged
                .unwrap()
                .output_gradient(Tensor::ones((1, 3), candle_core::DType::F64, m.device()).unwrap())
                .unwrap(),
        );
        let unscaled = Lora { magnitude: None, ..lora }.merge(&random(3, &[3, 5])).unwrap();
        let plain = values(&unscaled.sqr().unwrap().sum(1).unwrap().sqrt().unwrap());
        g.iter().zip(plain).zip(values(&m)).for_each(|((g, norm), m)| assert!((g - m / norm).abs() < 1e-12));
    }
}

//! A frozen linear layer with a low-rank update (LoRA, Hu et al., 2021): y = x (W + s B A)^T.
//!
//! The update is merged into an effective weight, so that forward and backward cost one matrix product each, as without
//! an adapter. The factors stay beside it: the gradients of A and B need s B^T g and A x, not the merged weight.

use candle_core::{Result, Tensor};

/// The factors of a low-rank update s B A.
#[derive(Debug, Clone)]
pub struct Lora {
    /// A, (r, d_in).
    pub a: Tensor,
    /// B, (d_out, r).
    pub b: Tensor,
    /// s: alpha / r, or alpha / sqrt(r) for rsLoRA.
    pub scale: f64,
}

impl Lora {
    /// h = A x of every token: (N, d_in) -> (N, r).
    pub fn down(&self, x: &Tensor) -> Result<Tensor> {
        x.matmul(&self.a.t()?)
    }

    /// Output gradient of A, s B^T g of every token: (N, d_out) -> (N, r).
    pub fn down_gradient(&self, g: &Tensor) -> Result<Tensor> {
        g.matmul(&self.b)? * self.scale
    }

    /// Output gradient of B, s g of every token: (N, d_out).
    pub fn up_gradient(&self, g: &Tensor) -> Result<Tensor> {
        g * self.scale
    }
}

/// A linear layer without bias, weights (d_out, d_in).
#[derive(Debug, Clone)]
pub struct Linear {
    base: Tensor,
    lora: Option<Lora>,
    /// W + s B A; shares `base` where there is no update.
    effective: Tensor,
}

impl Linear {
    pub fn new(base: Tensor, lora: Option<Lora>) -> Result<Self> {
        let effective = match &lora {
            Some(lora) => (&base + (&lora.b * lora.scale)?.matmul(&lora.a)?)?,
            None => base.clone(),
        };
        Ok(Self { base, lora, effective })
    }

    pub fn lora(&self) -> Option<&Lora> {
        self.lora.as_ref()
    }

    /// The same base with another update.
    pub fn with_lora(&self, lora: Lora) -> Result<Self> {
        Self::new(self.base.clone(), Some(lora))
    }

    /// (N, d_in) -> (N, d_out).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.matmul(&self.effective.t()?)
    }

    /// Gradient with respect to the input: (N, d_out) -> (N, d_in).
    pub fn backward(&self, dy: &Tensor) -> Result<Tensor> {
        dy.matmul(&self.effective)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::check::{assert_gradient, random, values};

    fn layer() -> Linear {
        let lora = Lora { a: random(1, &[2, 5]), b: random(2, &[3, 2]), scale: 0.7 };
        Linear::new(random(3, &[3, 5]), Some(lora)).unwrap()
    }

    #[test]
    fn merged_equals_unmerged() {
        let (layer, x) = (layer(), random(4, &[6, 5]));
        let lora = layer.lora().unwrap();
        let side = (lora.down(&x).unwrap().matmul(&lora.b.t().unwrap()).unwrap() * lora.scale).unwrap();
        let unmerged = (x.matmul(&layer.base.t().unwrap()).unwrap() + side).unwrap();
        let merged = layer.forward(&x).unwrap();
        for (got, want) in values(&merged).iter().zip(values(&unmerged)) {
            assert!((got - want).abs() < 1e-12);
        }
    }

    #[test]
    fn backward_equals_finite_differences() {
        let (layer, x, dy) = (layer(), random(4, &[6, 5]), random(5, &[6, 3]));
        assert_gradient(&x, &dy, &layer.backward(&dy).unwrap(), |x| layer.forward(x));
    }

    #[test]
    fn factor_gradients_equal_finite_differences() {
        let (layer, x, dy) = (layer(), random(4, &[6, 5]), random(5, &[6, 3]));
        let lora = layer.lora().unwrap().clone();
        let da = lora.down_gradient(&dy).unwrap().t().unwrap().matmul(&x).unwrap();
        let db = lora.up_gradient(&dy).unwrap().t().unwrap().matmul(&lora.down(&x).unwrap()).unwrap();
        assert_gradient(&lora.a, &dy, &da, |a| {
            layer.with_lora(Lora { a: a.clone(), ..lora.clone() })?.forward(&x)
        });
        assert_gradient(&lora.b, &dy, &db, |b| {
            layer.with_lora(Lora { b: b.clone(), ..lora.clone() })?.forward(&x)
        });
    }
}

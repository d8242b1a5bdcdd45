//! One decoder layer: x + o(attention(norm(x))), then + down(swiglu(norm(·))); its backward in reverse order.

use super::{
    config::Config,
    sink::Sink,
    site::{Projection, Site},
};
use crate::Result;
use crate::nn::{
    attention::{attention, attention_backward},
    linear::{Linear, Lora},
    mlp::{swiglu, swiglu_backward},
    norm::{rms_norm, rms_norm_backward},
    pack::Segment,
    rope::Rotation,
};
use candle_core::Tensor;

/// What every layer needs to know of the batch.
pub(super) struct Batch<'a> {
    pub segments: &'a [Segment],
    pub rotation: &'a Rotation,
    pub config: &'a Config,
}

#[derive(Debug, Clone)]
pub(super) struct Layer {
    pub index: usize,
    pub input_norm: Tensor,
    pub post_norm: Tensor,
    /// In the order of [`Projection::ALL`].
    pub linears: [Linear; 7],
}

/// What the backward reads again. The norms, the gated activation and the attention's probabilities are cheap to
/// compute a second time and are not kept.
pub(super) struct Trace {
    /// (N, C)
    x: Tensor,
    /// Rotated: (N, H, D), (N, G, D); v (N, G, D)
    q: Tensor,
    k: Tensor,
    v: Tensor,
    /// Attention's output, (N, H D)
    mixed: Tensor,
    /// After the attention's residual, (N, C)
    middle: Tensor,
    /// (N, F)
    gate: Tensor,
    up: Tensor,
}

impl Layer {
    pub fn linear(&self, projection: Projection) -> &Linear {
        &self.linears[projection as usize]
    }

    /// (N, C) -> (N, C), with what [`Layer::backward`] reads.
    pub fn forward(&self, x: &Tensor, batch: &Batch) -> Result<(Tensor, Trace)> {
        use Projection::*;
        let Config { heads, kv_heads, head_dim, rms_norm_eps: eps, .. } = *batch.config;
        let tokens = x.dim(0)?;
        let n = rms_norm(x, &self.input_norm, eps)?;
        // (N, H D) -> (N, H, D)
        let q = self.linear(Q).forward(&n)?.reshape((tokens, heads, head_dim))?;
        let k = self.linear(K).forward(&n)?.reshape((tokens, kv_heads, head_dim))?;
        let v = self.linear(V).forward(&n)?.reshape((tokens, kv_heads, head_dim))?;
        let (q, k) = (batch.rotation.apply(&q)?, batch.rotation.apply(&k)?);
        let mixed = attention(&q, &k, &v, batch.segments)?.flatten_from(1)?;
        let middle = (x + self.linear(O).forward(&mixed)?)?;
        let n = rms_norm(&middle, &self.post_norm, eps)?;
        let (gate, up) = (self.linear(Gate).forward(&n)?, self.linear(Up).forward(&n)?);
        let y = (&middle + self.linear(Down).forward(&swiglu(&gate, &up)?)?)?;
        Ok((y, Trace { x: x.clone(), q, k, v, mixed, middle, gate, up }))
    }

    /// Gradient of the input, (N, C) -> (N, C); every site with an update is shown to `sink`.
    pub fn backward(&self, trace: &Trace, batch: &Batch, dy: &Tensor, sink: &mut dyn Sink) -> Result<Tensor> {
        use Projection::*;
        let Trace { x, q, k, v, mixed, middle, gate, up } = trace;
        let Config { heads, head_dim, rms_norm_eps: eps, .. } = *batch.config;
        let tokens = x.dim(0)?;
        let dact = self.through(Down, || swiglu(gate, up), dy, sink)?;
        let (dgate, dup) = swiglu_backward(gate, up, &dact)?;
        let n = rms_norm(middle, &self.post_norm, eps)?;
        let dn = (self.through(Gate, || Ok(n.clone()), &dgate, sink)?
            + self.through(Up, || Ok(n.clone()), &dup, sink)?)?;
        let dmiddle = (dy + rms_norm_backward(middle, &self.post_norm, eps, &dn)?)?;
        let dmixed = self.through(O, || Ok(mixed.clone()), &dmiddle, sink)?;
        let dmixed = dmixed.reshape((tokens, heads, head_dim))?;
        let (dq, dk, dv) = attention_backward(q, k, v, batch.segments, &dmixed)?;
        let (dq, dk) = (batch.rotation.apply_backward(&dq)?, batch.rotation.apply_backward(&dk)?);
        let n = rms_norm(x, &self.input_norm, eps)?;
        let dn = self.through(Q, || Ok(n.clone()), &dq.flatten_from(1)?, sink)?;
        let dn = (dn + self.through(K, || Ok(n.clone()), &dk.flatten_from(1)?, sink)?)?;
        let dn = (dn + self.through(V, || Ok(n.clone()), &dv.flatten_from(1)?, sink)?)?;
        Ok((dmiddle + rms_norm_backward(x, &self.input_norm, eps, &dn)?)?)
    }

    /// Backward of one projection, whose input is formed only where a sink wants to see it.
    fn through(
        &self,
        projection: Projection,
        input: impl FnOnce() -> candle_core::Result<Tensor>,
        dy: &Tensor,
        sink: &mut dyn Sink,
    ) -> Result<Tensor> {
        let linear = self.linear(projection);
        if let Some(lora) = linear.lora() {
            sink.site(Site { layer: self.index, projection }, lora, &input()?, dy)?;
        }
        Ok(linear.backward(dy)?)
    }

    /// Puts another update on one projection.
    pub fn assign(&mut self, projection: Projection, lora: Lora) -> Result<()> {
        let linear = &mut self.linears[projection as usize];
        *linear = linear.with_lora(lora)?;
        Ok(())
    }

    pub fn has_lora(&self) -> bool {
        self.linears.iter().any(|linear| linear.lora().is_some())
    }
}

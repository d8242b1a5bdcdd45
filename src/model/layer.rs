//! One decoder layer: x + o(attention(norm(x))), then + down(swiglu(norm(·))); its backward in reverse order.
//!
//! Of the last layer only the pooled tokens are read, and the same holds for everything in it that follows the attention:
//! from there on it is computed for their rows alone, in both directions.

use super::{
    config::Config,
    sink::{Rows, Sink, Visit},
    site::Projection,
};
use crate::Result;
use crate::nn::{
    attention::{Heads, attention, attention_backward},
    linear::{Linear, Lora},
    mlp::{swiglu, swiglu_backward},
    norm::{rms_norm, rms_norm_backward},
    pack::{Packed, Query},
    rope::Rotation,
    rows::gather,
};
use candle_core::{DType, Device, Tensor};

/// What every layer needs to know of the batch.
#[derive(Clone)]
pub(super) struct Batch<'a> {
    config: &'a Config,
    heads: Heads,
    rotation: Rotation,
    /// Every token.
    all: Vec<Query>,
    /// The pooled tokens, and their indices (M).
    pooled: (Vec<Query>, Tensor),
}

impl<'a> Batch<'a> {
    pub fn new(packed: &Packed, config: &'a Config, dtype: DType, device: &Device) -> Result<Self> {
        let frequencies = config.rope.frequencies(config.head_dim);
        let pooled: Vec<u32> = packed.pooled.iter().map(|i| *i as u32).collect();
        let rows = Tensor::new(pooled, device)?;
        Ok(Self {
            config,
            heads: Heads { heads: config.heads, groups: config.kv_heads, size: config.head_dim },
            rotation: Rotation::new(&packed.positions, &frequencies, dtype, device)?,
            all: Query::all(&packed.segments),
            pooled: (Query::some(&packed.segments, &packed.pooled), rows),
        })
    }

    fn queries(&self, rows: Rows) -> &[Query] {
        match rows {
            Rows::All => &self.all,
            Rows::Pooled => &self.pooled.0,
        }
    }

    /// Heads that are rotated: of the queries and keys.
    fn rotated(&self) -> usize {
        self.heads.heads + self.heads.groups
    }

    /// The rows of (N, C) that are computed.
    pub fn pick(&self, rows: Rows, x: &Tensor) -> candle_core::Result<Tensor> {
        match rows {
            Rows::All => Ok(x.clone()),
            Rows::Pooled => gather(x, &self.pooled.1),
        }
    }

    /// Undoes [`Batch::pick`] for a gradient, which is zero elsewhere; `like` has all rows.
    fn spread(&self, rows: Rows, dx: Tensor, like: &Tensor) -> candle_core::Result<Tensor> {
        match rows {
            Rows::All => Ok(dx),
            Rows::Pooled => like.zeros_like()?.index_add(&self.pooled.1, &dx, 0),
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Layer {
    pub index: usize,
    /// What of its output is read.
    pub rows: Rows,
    pub input_norm: Tensor,
    pub post_norm: Tensor,
    /// In the order of [`Projection::TOGETHER`].
    pub linears: [Linear; 4],
}

/// What the backward reads again. The norms, the gated activation and the attention's probabilities are cheap to
/// compute a second time and are not kept.
#[derive(Clone)]
pub(super) struct Trace {
    /// (N, C)
    x: Tensor,
    /// Queries and keys rotated, (N, (H + 2 G) D).
    qkv: Tensor,
    /// Attention's output, (R, H D), for the rows that are computed.
    mixed: Tensor,
    /// After the attention's residual, (R, C)
    middle: Tensor,
    /// (R, 2 F)
    gate_up: Tensor,
}

/// Gradients from which that of the input is formed, where it is wanted.
pub(super) struct Below {
    /// (N, (H + 2 G) D)
    dqkv: Tensor,
    /// (R, C)
    dmiddle: Tensor,
}

impl Trace {
    /// What a batch has whose tokens are rows of this one's: `tokens` of all, `computed` of those that follow the attention.
    pub fn select(&self, tokens: &Tensor, computed: &Tensor) -> Result<Self> {
        Ok(Self {
            x: gather(&self.x, tokens)?,
            qkv: gather(&self.qkv, tokens)?,
            mixed: gather(&self.mixed, computed)?,
            middle: gather(&self.middle, computed)?,
            gate_up: gather(&self.gate_up, computed)?,
        })
    }
}

impl Layer {
    /// (N, C) -> (R, C), with what [`Layer::backward`] reads.
    pub fn forward(&self, x: &Tensor, batch: &Batch) -> Result<(Tensor, Trace)> {
        let [to_qkv, o, to_gate_up, down] = &self.linears;
        let eps = batch.config.rms_norm_eps;
        let n = rms_norm(x, &self.input_norm, eps)?;
        let qkv = batch.rotation.apply(to_qkv.forward(&n)?, batch.rotated())?;
        let mixed = attention(&qkv, batch.heads, batch.queries(self.rows))?;
        let middle = o.forward_added(&mixed, &batch.pick(self.rows, x)?)?;
        let n = rms_norm(&middle, &self.post_norm, eps)?;
        let gate_up = to_gate_up.forward(&n)?;
        let y = down.forward_added(&swiglu(&gate_up)?, &middle)?;
        Ok((y, Trace { x: x.clone(), qkv, mixed, middle, gate_up }))
    }

    /// Shows every site with an update to `sink`, given the gradient of the output, (R, C).
    pub fn backward(&self, trace: &Trace, batch: &Batch, dy: &Tensor, sink: &mut dyn Sink) -> Result<Below> {
        let [_, o, to_gate_up, down] = &self.linears;
        let Trace { x, qkv, mixed, middle, gate_up } = trace;
        let eps = batch.config.rms_norm_eps;
        let (dgate_up, act) = swiglu_backward(gate_up, &down.backward(dy)?)?;
        self.show(3, &act, dy, sink)?;
        drop(act);
        let n = rms_norm(middle, &self.post_norm, eps)?;
        self.show(2, &n, &dgate_up, sink)?;
        let dn = to_gate_up.backward(&dgate_up)?;
        let dmiddle = rms_norm_backward(middle, &self.post_norm, eps, &dn, dy)?;
        self.show(1, mixed, &dmiddle, sink)?;
        let dqkv = attention_backward(qkv, batch.heads, batch.queries(self.rows), &o.backward(&dmiddle)?)?;
        let dqkv = batch.rotation.apply_backward(dqkv, batch.rotated())?;
        let n = rms_norm(x, &self.input_norm, eps)?;
        self.show(0, &n, &dqkv, sink)?;
        Ok(Below { dqkv, dmiddle })
    }

    /// Gradient of the input, (N, C).
    pub fn input_gradient(&self, trace: &Trace, batch: &Batch, below: Below) -> Result<Tensor> {
        let (x, eps) = (&trace.x, batch.config.rms_norm_eps);
        let dn = self.linears[0].backward(&below.dqkv)?;
        let beside = batch.spread(self.rows, below.dmiddle, x)?;
        Ok(rms_norm_backward(x, &self.input_norm, eps, &dn, &beside)?)
    }

    /// Shows the linear layers of one input and their output gradients.
    fn show(&self, group: usize, x: &Tensor, g: &Tensor, sink: &mut dyn Sink) -> Result<()> {
        let linear = &self.linears[group];
        if !linear.has_lora() {
            return Ok(());
        }
        // The attention is the last that sees all tokens.
        let rows = if group == 0 { Rows::All } else { self.rows };
        sink.visit(&Visit { layer: self.index, projections: Projection::TOGETHER[group], linear, rows, x, g })
    }

    /// The updates, by projection.
    pub fn updates(&self) -> impl Iterator<Item = (Projection, &Lora)> {
        let groups = Projection::TOGETHER.into_iter().zip(&self.linears);
        groups.flat_map(|(projections, linear)| {
            let updates = projections.iter().zip(linear.parts());
            updates.filter_map(|(projection, (_, lora))| Some((*projection, lora?)))
        })
    }

    /// Puts other updates on some projections.
    pub fn assign(&mut self, updates: &[(Projection, Lora)]) -> Result<()> {
        for (projections, linear) in Projection::TOGETHER.iter().zip(&mut self.linears) {
            let index = |p: &Projection| projections.iter().position(|other| other == p);
            let changed: Vec<(usize, Lora)> =
                updates.iter().filter_map(|(p, lora)| Some((index(p)?, lora.clone()))).collect();
            if !changed.is_empty() {
                *linear = linear.with_lora(changed)?;
            }
        }
        Ok(())
    }

    pub fn has_lora(&self) -> bool {
        self.linears.iter().any(Linear::has_lora)
    }
}

//! One decoder layer: x + o(attention(norm(x))), then + down(gate(norm(·))), or what experts make of it; its backward in reverse
//! order.
//!
//! Norms may act before attention and MLP, on what they add, or on both; and both may read the layer's input and add up
//! ([`Config`]). Of the last layer only the pooled tokens are read, and the same holds for everything in it that follows the
//! attention: from there on it is computed for their rows alone, in both directions.

use super::{
    config::{Config, names::Norms},
    sink::{Rows, Sink, Visit},
    site::Projection,
};
use crate::Result;
use crate::nn::{
    attention::Attention,
    exact::exact,
    experts::Experts,
    linear::{Linear, Lora},
    mlp::Gate,
    norm::Norm,
    pack::{Packed, Query},
    rope::Rotation,
    rows::gather,
};
use candle_core::{DType, Device, Tensor};

/// What every layer needs to know of the batch.
#[derive(Clone)]
pub(super) struct Batch {
    /// One for each of the model's rotary embeddings.
    rotations: Vec<Rotation>,
    /// Every token.
    all: Vec<Query>,
    /// The pooled tokens, and their indices (M).
    pooled: (Vec<Query>, Tensor),
}

impl Batch {
    pub fn new(packed: &Packed, config: &Config, dtype: DType, device: &Device) -> Result<Self> {
        let pooled: Vec<u32> = packed.pooled.iter().map(|i| *i as u32).collect();
        let rotations = config.ropes.iter().map(|rope| {
            let rotation = Rotation::new(&packed.positions, &rope.frequencies(), dtype, device)?;
            Ok(rotation.times(rope.magnitude())?)
        });
        Ok(Self {
            rotations: rotations.collect::<Result<_>>()?,
            all: Query::all(&packed.segments),
            pooled: (Query::some(&packed.segments, &packed.pooled), Tensor::new(pooled, device)?),
        })
    }

    fn queries(&self, rows: Rows) -> &[Query] {
        match rows {
            Rows::All => &self.all,
            Rows::Pooled => &self.pooled.0,
        }
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
    pub norms: Norms<Option<Norm>>,
    /// Of queries and of keys, each over as many numbers as its weight has.
    pub qk_norms: Option<[Norm; 2]>,
    pub attention: Attention,
    /// Where the heads begin that turn, and by which of the batch's rotations.
    pub turning: Vec<usize>,
    pub rotation: usize,
    /// Whether the MLP reads the layer's input, not what the attention made of it.
    pub parallel: bool,
    /// Of the attention's input, and of its output.
    pub attention_linears: [Linear; 2],
    pub mlp: Mlp,
    /// The projections of the attention's linear layers and of the MLP's: those that may have updates.
    pub projections: [&'static [Projection]; 4],
}

/// What follows the attention.
#[derive(Debug, Clone)]
pub(super) enum Mlp {
    /// Its input's linear layers, and its output's.
    One { linears: [Linear; 2], gate: Gate },
    /// Without updates.
    Many(Experts),
}

/// What the backward reads again. Norms of the residual, the gated activation and the attention's probabilities are cheap to
/// compute a second time and are not kept.
#[derive(Clone)]
pub(super) struct Trace {
    /// (N, C)
    x: Tensor,
    /// Queries and keys before their norms, where they have some, (N, (H + 2 G) D).
    raw: Option<Tensor>,
    /// Queries and keys rotated, (N, (H + 2 G) D).
    qkv: Tensor,
    /// Attention's output, (R, H D), for the rows that are computed.
    mixed: Tensor,
    /// What attention and MLP add to the residual before their norms, where they have some, (R, C).
    added: [Option<Tensor>; 2],
    /// After the attention's residual, (R, C)
    middle: Tensor,
    /// What the MLP's activation reads, (R, 2 F), or (R, F) without a gate; what experts read, (R, C).
    inner: Tensor,
}

/// Gradients from which that of the input is formed, where it is wanted.
pub(super) struct Below {
    /// (N, (H + 2 G) D)
    dqkv: Tensor,
    /// Of the input's rows that are computed, past the attention: (R, C).
    beside: Tensor,
}

impl Trace {
    /// What a batch has whose tokens are rows of this one's: `tokens` of all, `computed` of those that follow the attention.
    pub fn select(&self, tokens: &Tensor, computed: &Tensor) -> Result<Self> {
        let some = |x: &Option<Tensor>, rows| x.as_ref().map(|x| gather(x, rows)).transpose();
        Ok(Self {
            x: gather(&self.x, tokens)?,
            raw: some(&self.raw, tokens)?,
            qkv: gather(&self.qkv, tokens)?,
            mixed: gather(&self.mixed, computed)?,
            added: [some(&self.added[0], computed)?, some(&self.added[1], computed)?],
            middle: gather(&self.middle, computed)?,
            inner: gather(&self.inner, computed)?,
        })
    }
}

impl Layer {
    /// (N, C) -> (R, C), with what [`Layer::backward`] reads.
    pub fn forward(&self, x: &Tensor, batch: &Batch) -> Result<(Tensor, Trace)> {
        let [to_qkv, o] = &self.attention_linears;
        let of_all = to_qkv.forward(&normed(&self.norms.attention_in, x)?)?;
        let (qkv, raw) = match &self.qk_norms {
            Some(norms) => (self.qk_normed(&of_all, norms)?, Some(of_all)),
            None => (of_all, None),
        };
        let qkv = batch.rotations[self.rotation].apply(qkv, &self.turning)?;
        let mixed = self.attention.forward(&qkv, batch.queries(self.rows))?;
        let input = batch.pick(self.rows, x)?;
        let (middle, by_attention) = added(o, &mixed, &input, &self.norms.attention_out)?;
        let read = if self.parallel { &input } else { &middle };
        let read = normed(&self.norms.mlp_in, read)?;
        let ((y, by_mlp), inner) = match &self.mlp {
            Mlp::One { linears: [to_gate_up, down], gate } => {
                let gate_up = to_gate_up.forward(&read)?;
                (added(down, &gate.forward(&gate_up)?, &middle, &self.norms.mlp_out)?, gate_up)
            }
            Mlp::Many(experts) => (summed(experts.forward(&read)?, &middle, &self.norms.mlp_out)?, read),
        };
        let added = [by_attention, by_mlp];
        Ok((y, Trace { x: x.clone(), raw, qkv, mixed, added, middle, inner }))
    }

    /// Shows every site with an update to `sink`, given the gradient of the output, (R, C).
    pub fn backward(&self, trace: &Trace, batch: &Batch, dy: &Tensor, sink: &mut dyn Sink) -> Result<Below> {
        let Trace { x, raw, qkv, mixed, added: [by_attention, by_mlp], middle, inner } = trace;
        let g = before(&self.norms.mlp_out, by_mlp, dy)?;
        let read = if self.parallel { &batch.pick(self.rows, x)? } else { middle };
        let dn = match &self.mlp {
            Mlp::One { linears: [to_gate_up, down], gate } => {
                let (dgate_up, act) = gate.backward(inner, &down.backward(&g)?)?;
                self.show(3, down, &act, &g, sink)?;
                drop(act);
                self.show(2, to_gate_up, &normed(&self.norms.mlp_in, read)?, &dgate_up, sink)?;
                to_gate_up.backward(&dgate_up)?
            }
            Mlp::Many(experts) => experts.backward(inner, &g)?,
        };
        // The residual that the MLP adds to, and what it reads: the same but for a parallel layer.
        let beside = through(&self.norms.mlp_in, read, &dn, dy)?;
        let dmiddle = if self.parallel { dy } else { &beside };
        let g = before(&self.norms.attention_out, by_attention, dmiddle)?;
        let [to_qkv, o] = &self.attention_linears;
        self.show(1, o, mixed, &g, sink)?;
        let dqkv = self.attention.backward(qkv, batch.queries(self.rows), &o.backward(&g)?)?;
        let dqkv = batch.rotations[self.rotation].apply_backward(dqkv, &self.turning)?;
        let dqkv = match (&self.qk_norms, raw) {
            (Some(norms), Some(raw)) => self.before_qk_norms(raw, dqkv, norms)?,
            _ => dqkv,
        };
        self.show(0, to_qkv, &normed(&self.norms.attention_in, x)?, &dqkv, sink)?;
        Ok(Below { dqkv, beside })
    }

    /// Gradient of the input, (N, C).
    pub fn input_gradient(&self, trace: &Trace, batch: &Batch, below: Below) -> Result<Tensor> {
        let x = &trace.x;
        let dn = self.attention_linears[0].backward(&below.dqkv)?;
        through(&self.norms.attention_in, x, &dn, &batch.spread(self.rows, below.beside, x)?)
    }

    /// Queries and keys normalised, values as they are: (N, (H + 2 G) D), heads by kind.
    fn qk_normed(&self, raw: &Tensor, norms: &[Norm; 2]) -> Result<Tensor> {
        self.of_queries_and_keys(raw, |at, part| Ok(norms[at].forward(&rows_of(part, &norms[at])?)?))
    }

    /// Gradient of [`Layer::qk_normed`].
    fn before_qk_norms(&self, raw: &Tensor, dqkv: Tensor, norms: &[Norm; 2]) -> Result<Tensor> {
        let raw = self.parts(raw)?;
        self.of_queries_and_keys(&dqkv, |at, part| {
            let (raw, dy) = (rows_of(&raw[at], &norms[at])?, rows_of(part, &norms[at])?);
            Ok(norms[at].backward(&raw, &dy, &dy.zeros_like()?)?)
        })
    }

    fn of_queries_and_keys(
        &self,
        x: &Tensor,
        change: impl Fn(usize, &Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let [q, k, v] = self.parts(x)?;
        let changed =
            |at: usize, part: &Tensor| Ok::<_, crate::Error>(change(at, part)?.reshape(part.dims())?);
        Ok(Tensor::cat(&[changed(0, &q)?, changed(1, &k)?, v], 1)?)
    }

    /// Queries, keys and values.
    fn parts(&self, x: &Tensor) -> Result<[Tensor; 3]> {
        let heads = self.attention.heads;
        let (queries, keys) = (heads.heads * heads.size, heads.groups * heads.size);
        let part = |start: usize, len: usize| x.narrow(1, start, len)?.contiguous();
        Ok([part(0, queries)?, part(queries, keys)?, part(queries + keys, keys)?])
    }

    /// Shows the linear layers of one input and their output gradients.
    fn show(&self, group: usize, linear: &Linear, x: &Tensor, g: &Tensor, sink: &mut dyn Sink) -> Result<()> {
        if !linear.has_lora() {
            return Ok(());
        }
        // The attention is the last that sees all tokens.
        let rows = if group == 0 { Rows::All } else { self.rows };
        let (projections, x, g) = (self.projections[group], &exact(x)?, &exact(g)?);
        sink.visit(&Visit { layer: self.index, projections, linear, rows, x, g })
    }

    /// The updates, by projection.
    pub fn updates(&self) -> impl Iterator<Item = (Projection, &Lora)> {
        let groups = self.projections.into_iter().zip(self.linears());
        groups.flat_map(|(projections, linear)| {
            let updates = projections.iter().zip(linear.parts());
            updates.filter_map(|(projection, (_, lora))| Some((*projection, lora?)))
        })
    }

    /// Puts other updates on some projections.
    pub fn assign(&mut self, updates: &[(Projection, Lora)]) -> Result<()> {
        for (projections, linear) in self.projections.into_iter().zip(self.linears_mut()) {
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
        self.linears().any(Linear::has_lora)
    }

    /// In the order of the projections, experts last.
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        let of_mlp: Box<dyn Iterator<Item = &Linear>> = match &self.mlp {
            Mlp::One { linears, .. } => Box::new(linears.iter()),
            Mlp::Many(experts) => Box::new(experts.linears()),
        };
        self.attention_linears.iter().chain(of_mlp)
    }

    pub fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        let of_mlp: Box<dyn Iterator<Item = &mut Linear>> = match &mut self.mlp {
            Mlp::One { linears, .. } => Box::new(linears.iter_mut()),
            Mlp::Many(experts) => Box::new(experts.linears_mut()),
        };
        self.attention_linears.iter_mut().chain(of_mlp)
    }
}

/// x where there is no norm.
fn normed(norm: &Option<Norm>, x: &Tensor) -> Result<Tensor> {
    Ok(norm.as_ref().map_or(Ok(x.clone()), |norm| norm.forward(x))?)
}

/// `to` plus the linear layer's output, or plus its norm; with the output itself where its norm's backward reads it.
fn added(linear: &Linear, x: &Tensor, to: &Tensor, norm: &Option<Norm>) -> Result<(Tensor, Option<Tensor>)> {
    match norm {
        None => Ok((linear.forward_added(x, to)?, None)),
        Some(_) => summed(linear.forward(x)?, to, norm),
    }
}

/// The same of an output that is there.
fn summed(y: Tensor, to: &Tensor, norm: &Option<Norm>) -> Result<(Tensor, Option<Tensor>)> {
    Ok(match norm {
        None => ((to + y)?, None),
        Some(norm) => ((to + norm.forward(&y)?)?, Some(y)),
    })
}

/// The gradient of a linear layer's output, given that of what is added to the residual.
fn before(norm: &Option<Norm>, output: &Option<Tensor>, dy: &Tensor) -> Result<Tensor> {
    Ok(match (norm, output) {
        (Some(norm), Some(output)) => norm.backward(output, dy, &dy.zeros_like()?)?,
        _ => dy.clone(),
    })
}

/// The gradient of the residual where a branch leaves it, by a norm where there is one: `dn` of what the branch reads, `beside`
/// of what passes it by.
fn through(norm: &Option<Norm>, x: &Tensor, dn: &Tensor, beside: &Tensor) -> Result<Tensor> {
    Ok(match norm {
        Some(norm) => norm.backward(x, dn, beside)?,
        None => (dn + beside)?,
    })
}

/// As rows of what the norm is over.
fn rows_of(x: &Tensor, norm: &Norm) -> candle_core::Result<Tensor> {
    x.reshape(((), norm.weight.dim(0)?))
}

//! The reward model: a frozen decoder, low-rank updates and a scalar head, with one forward and one backward pass.
//!
//! Both passes work on packed sequences ([`Packed`]). The backward visits every trainable matrix once and shows its inputs
//! and output gradients to a [`Sink`]: gradients for training, curvature for fitting, Jacobians for variances. Frozen weights
//! need no gradient of their own, so it costs about what the forward costs (Laplace-LoRA's Jacobians, Yang et al., 2024,
//! without a tape and without a pass per sequence).

use crate::{
    Error, Result,
    nn::{
        exact::{exact, exact_type, numbers},
        linear::{Linear, Lora},
        norm::Norm,
        pack::Packed,
        product::product,
    },
};
use candle_core::{DType, Device, Tensor};
use std::collections::BTreeMap;

pub mod adapter;
mod build;
pub mod checkpoint;
pub mod config;
pub mod cross_encoder;
pub mod descent;
pub mod forward;
pub mod head;
mod layer;
pub mod sink;
pub mod site;

pub use build::Keep;

use config::Config;
use descent::Descent;
use layer::{Batch, Layer};
use sink::Sink;
use site::{Factor, HEAD, Projection, Site};

#[derive(Debug, Clone)]
pub struct RewardModel {
    config: Config,
    /// (V, C), in the type that it is stored in: of it only rows are read, and models on one base share it.
    embedding: Tensor,
    layers: Vec<Layer>,
    norm: Norm,
    /// (1, C)
    head: Tensor,
    head_bias: f64,
    /// Whether the head is one of the adapter's blocks.
    head_trainable: bool,
    activation_bytes: usize,
    dtype: DType,
    device: Device,
}

/// Bytes of activations that a forward keeps, unless another number is set.
pub const ACTIVATION_BYTES: usize = 448 << 20;

/// A forward pass, kept for its backward.
pub struct Trace<'a> {
    rewards: Vec<f64>,
    packed: &'a Packed,
    batch: Batch,
    layers: Vec<Kept>,
    /// What the pooled tokens had before the last norm, (M, C).
    last: Tensor,
}

/// What is kept of a layer.
enum Kept {
    Whole(layer::Trace),
    /// (N, C)
    Input(Tensor),
}

impl Trace<'_> {
    /// Tokens of each reward's sequence.
    pub fn lengths(&self) -> Vec<usize> {
        self.packed.pooled.iter().map(|token| self.packed.positions[*token] as usize + 1).collect()
    }

    /// A reward for each pooled token.
    pub fn rewards(&self) -> &[f64] {
        &self.rewards
    }
}

impl RewardModel {
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where it computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Drops what only another assignment of the updates needs: [`RewardModel::assign`] fails from now on.
    pub fn freeze(&mut self) {
        self.linears_mut().for_each(Linear::freeze);
    }

    /// Drops what only the backward needs: [`RewardModel::backward`] fails from now on.
    pub fn forward_only(&mut self) {
        self.linears_mut().for_each(Linear::forward_only);
    }

    /// Keeps at most so many bytes of activations for a backward, those of the upper layers; of the layers below a forward keeps
    /// the inputs alone, and the backward computes them once more.
    pub fn keep_activations(&mut self, bytes: usize) {
        self.activation_bytes = bytes;
    }

    /// A reward for each pooled token, computed without keeping anything for a backward.
    pub fn rewards(&self, packed: &Packed) -> Result<Vec<f64>> {
        self.read_out(&self.last(packed)?)
    }

    /// Hidden states of the pooled tokens after the last norm, (M, C): what a language model's head would read.
    pub fn hidden(&self, packed: &Packed) -> Result<Tensor> {
        Ok(self.norm.forward(&self.last(packed)?)?)
    }

    /// What the pooled tokens have before the last norm, (M, C).
    fn last(&self, packed: &Packed) -> Result<Tensor> {
        let batch = self.batch(packed)?;
        let mut x = self.embed(packed)?;
        for layer in &self.layers {
            x = layer.forward(&x, &batch)?.0;
        }
        Ok(x)
    }

    /// The token embedding (V, C), without its scale; also the language model's head where the two are
    /// tied.
    pub fn embedding(&self) -> &Tensor {
        &self.embedding
    }

    /// The rewards, with everything that [`RewardModel::backward`] reads.
    pub fn forward<'a>(&'a self, packed: &'a Packed) -> Result<Trace<'a>> {
        self.forward_within(packed, self.activation_bytes)
    }

    /// As [`RewardModel::forward`], keeping so many bytes of activations at most.
    pub fn forward_within<'a>(&'a self, packed: &'a Packed, bytes: usize) -> Result<Trace<'a>> {
        let batch = self.batch(packed)?;
        let whole = bytes / (packed.tokens() * self.layer_bytes()).max(1);
        let mut x = self.embed(packed)?;
        let mut layers = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            let (y, trace) = layer.forward(&x, &batch)?;
            let upper = layer.index + whole >= self.layers.len();
            layers.push(if upper { Kept::Whole(trace) } else { Kept::Input(x) });
            x = y;
        }
        Ok(Trace { rewards: self.read_out(&x)?, packed, batch, layers, last: x })
    }

    /// Bytes that it takes beside what models on one base share, which is the embedding.
    pub fn bytes(&self) -> usize {
        self.layers.iter().flat_map(Layer::linears).map(Linear::bytes).sum()
    }

    /// Bytes of activations that are kept at most.
    pub fn activation_bytes(&self) -> usize {
        self.activation_bytes
    }

    /// Tokens of one forward whose activations are kept in all layers.
    pub fn tokens_kept(&self) -> usize {
        self.tokens_within(self.activation_bytes)
    }

    /// Tokens whose activations in all layers take so many bytes.
    pub fn tokens_within(&self, bytes: usize) -> usize {
        (bytes / (self.layer_bytes() * self.layers.len()).max(1)).max(1)
    }

    /// Bytes of one token's activations that a layer keeps.
    fn layer_bytes(&self) -> usize {
        let Config { hidden_size, intermediate_size, gate, qk_norm, mixture, .. } = self.config;
        let ((queries, keys), norms) = (self.config.head_rows(), &self.config.names.norms);
        let qkv = queries + 2 * keys;
        // x, middle, and what is added before a norm; qkv, perhaps twice, and mixed; gate and up, or
        // what experts read.
        let after = [norms.attention_out, norms.mlp_out].iter().flatten().count();
        let attention = qkv * (1 + usize::from(qk_norm.is_some())) + queries;
        let mlp = match mixture {
            None => intermediate_size * (1 + usize::from(gate.gated)),
            Some(_) => hidden_size,
        };
        let numbers = (2 + after) * hidden_size + attention + mlp;
        numbers * self.dtype.size_in_bytes()
    }

    /// Walks back from `sum_i cotangents[i] * reward[i]` and shows every trainable matrix to `sink`, the head first,
    /// then layer by layer from the top.
    pub fn backward(&self, trace: &Trace, cotangents: &[f64], sink: &mut dyn Sink) -> Result<()> {
        self.show_head(trace, cotangents, sink)?;
        let mut descent = Descent::whole(self, trace, cotangents)?;
        while descent.depth() > 0 {
            descent.layer(sink)?;
        }
        Ok(())
    }

    /// Shows the reward head alone to `sink`, every reward with the cotangent 1.
    pub fn head_backward(&self, trace: &Trace, sink: &mut dyn Sink) -> Result<()> {
        self.show_head(trace, &vec![1.0; trace.rewards.len()], sink)
    }

    /// Begins to walk some sequences back below the head, each from its own reward, given by index.
    pub fn descend<'a>(&'a self, trace: &'a Trace<'a>, rewards: &[usize]) -> Result<Descent<'a>> {
        Descent::of_rewards(self, trace, rewards)
    }

    /// Every trainable matrix by block name, in main memory.
    pub fn blocks(&self) -> Result<BTreeMap<String, Tensor>> {
        let here = |t: &Tensor| t.to_device(&Device::Cpu);
        let mut blocks = BTreeMap::new();
        for (site, lora) in self.sites() {
            blocks.insert(site.block(Factor::A), here(&lora.a)?);
            blocks.insert(site.block(Factor::B), here(&lora.b)?);
        }
        if self.head_trainable {
            blocks.insert(HEAD.to_owned(), here(&self.head)?);
        }
        Ok(blocks)
    }

    /// Rows and columns of every trainable matrix.
    pub fn shapes(&self) -> BTreeMap<String, (usize, usize)> {
        let shape = |t: &Tensor| (t.dims()[0], t.dims()[1]);
        let of_site = |(site, lora): (Site, &Lora)| {
            [(Factor::A, &lora.a), (Factor::B, &lora.b)].map(|(f, t)| (site.block(f), shape(t)))
        };
        let head = self.head_trainable.then(|| (HEAD.to_owned(), shape(&self.head)));
        self.sites().flat_map(of_site).chain(head).collect()
    }

    /// Replaces trainable matrices by those of the same block name.
    pub fn assign(&mut self, blocks: &BTreeMap<String, Tensor>) -> Result<()> {
        let placed = blocks.iter().map(|(name, block)| Ok((name, block.to_device(&self.device)?)));
        let blocks: BTreeMap<&String, Tensor> = placed.collect::<Result<_>>()?;
        for layer in &mut self.layers {
            let index = layer.index;
            let changed = layer.updates().filter_map(|(projection, lora)| {
                let site = Site { layer: index, projection };
                let (a, b) = (blocks.get(&site.block(Factor::A)), blocks.get(&site.block(Factor::B)));
                let or = |new: Option<&Tensor>, old: &Tensor| new.unwrap_or(old).clone();
                let lora = lora.with_factors(or(a, &lora.a), or(b, &lora.b));
                (a.is_some() || b.is_some()).then_some((projection, lora))
            });
            let changed: Vec<(Projection, Lora)> = changed.collect();
            layer.assign(&changed)?;
        }
        if let Some(head) = blocks.get(&HEAD.to_owned()) {
            self.head = head.clone();
        }
        Ok(())
    }

    fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        self.layers.iter_mut().flat_map(Layer::linears_mut)
    }

    fn sites(&self) -> impl Iterator<Item = (Site, &Lora)> {
        self.layers.iter().flat_map(|layer| {
            let index = layer.index;
            layer.updates().map(move |(projection, lora)| (Site { layer: index, projection }, lora))
        })
    }

    fn batch(&self, packed: &Packed) -> Result<Batch> {
        Batch::new(packed, &self.config, self.dtype, &self.device)
    }

    /// (N, C)
    fn embed(&self, packed: &Packed) -> Result<Tensor> {
        let ids = Tensor::from_slice(&packed.ids, packed.ids.len(), &self.device)?;
        let rows = self.embedding.index_select(&ids, 0)?.to_dtype(exact_type(self.dtype))?;
        let scale = self.config.embedding_scale;
        Ok(if scale == 1.0 { rows } else { (rows * scale)? }.to_dtype(self.dtype)?)
    }

    /// Last norm and head: (M, C) -> M rewards, all finite.
    fn read_out(&self, last: &Tensor) -> Result<Vec<f64>> {
        let hidden = self.norm.forward(&exact(last)?)?;
        let products = numbers(&product(&hidden, &self.head.t()?)?)?;
        let rewards: Vec<f64> = products.into_iter().map(|product| product + self.head_bias).collect();
        match rewards.iter().position(|r| !r.is_finite()) {
            Some(i) => Err(Error::NotFinite(format!("reward {i} of the batch"))),
            None => Ok(rewards),
        }
    }
}

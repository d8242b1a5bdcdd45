//! The reward model: a frozen decoder, low-rank updates and a scalar head, with one forward and one backward pass.
//!
//! Both passes work on packed sequences ([`Packed`]). The backward visits every trainable matrix once and shows its inputs
//! and output gradients to a [`Sink`]: gradients for training, curvature for fitting, Jacobians for variances. Frozen weights
//! need no gradient of their own, so it costs about what the forward costs (Laplace-LoRA's Jacobians, Yang et al., 2024,
//! without a tape and without a pass per sequence).

use crate::{
    Error, Result,
    nn::{
        linear::{Linear, Lora},
        norm::{rms_norm, rms_norm_backward},
        pack::Packed,
        rope::Rotation,
    },
};
use candle_core::{DType, Device, Tensor};
use std::collections::BTreeMap;

pub mod adapter;
pub mod checkpoint;
pub mod config;
mod layer;
pub mod sink;
pub mod site;

use adapter::Adapter;
use checkpoint::Checkpoint;
use config::Config;
use layer::{Batch, Layer};
use sink::Sink;
use site::{Factor, HEAD, Projection, Site};

#[derive(Debug, Clone)]
pub struct RewardModel {
    config: Config,
    /// (V, C)
    embedding: Tensor,
    layers: Vec<Layer>,
    norm: Tensor,
    /// (1, C)
    head: Tensor,
    /// Whether the head is one of the adapter's blocks.
    head_trainable: bool,
    frequencies: Vec<f32>,
    dtype: DType,
    device: Device,
}

/// A forward pass, kept for its backward.
pub struct Trace {
    rewards: Vec<f64>,
    rotation: Rotation,
    layers: Vec<layer::Trace>,
    /// What the pooled tokens had before the last norm, (M, C).
    last: Tensor,
    /// Indices of the pooled tokens, (M).
    pooled: Tensor,
    tokens: usize,
}

impl Trace {
    /// A reward for each pooled token.
    pub fn rewards(&self) -> &[f64] {
        &self.rewards
    }
}

impl RewardModel {
    /// Puts an adapter on a base. The head is the adapter's where it has one, else the base's.
    pub fn new(base: &Checkpoint, adapter: Option<&Adapter>, dtype: DType, device: &Device) -> Result<Self> {
        let head = adapter.and_then(|adapter| adapter.head.as_ref());
        let Some(used) = head.or(base.head()) else {
            let hint = "hint: give an adapter that saves `score`, or train one";
            return Err(Error::Usage(format!(
                "no reward head: neither `{}` nor an adapter has `score` ({hint})",
                base.name
            )));
        };
        let place = |t: &Tensor| t.to_dtype(dtype)?.to_device(device);
        let tensor = |name: String| match base.tensors.get(&name) {
            Some(tensor) => Ok(place(tensor)?),
            None => Err(Error::Usage(format!("{name} is missing"))),
        };
        let linear = |site: Site| -> Result<Linear> {
            let lora = adapter.and_then(|adapter| adapter.lora.get(&site));
            let lora = lora.map(|l| Ok(Lora { a: place(&l.a)?, b: place(&l.b)?, scale: l.scale }));
            Ok(Linear::new(tensor(format!("{site}.weight"))?, lora.transpose().map_err(Error::Compute)?)?)
        };
        let layers = (0..base.config.layers).map(|index| {
            let [q, k, v, o, gate, up, down] =
                Projection::ALL.map(|projection| linear(Site { layer: index, projection }));
            Ok(Layer {
                index,
                input_norm: tensor(format!("model.layers.{index}.input_layernorm.weight"))?,
                post_norm: tensor(format!("model.layers.{index}.post_attention_layernorm.weight"))?,
                linears: [q?, k?, v?, o?, gate?, up?, down?],
            })
        });
        Ok(Self {
            embedding: tensor("model.embed_tokens.weight".into())?,
            layers: layers.collect::<Result<_>>()?,
            norm: tensor("model.norm.weight".into())?,
            head: place(used)?,
            head_trainable: head.is_some(),
            frequencies: base.config.rope.frequencies(base.config.head_dim),
            config: base.config.clone(),
            dtype,
            device: device.clone(),
        })
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// A reward for each pooled token, computed without keeping anything for a backward.
    pub fn rewards(&self, packed: &Packed) -> Result<Vec<f64>> {
        let rotation = self.rotation(packed)?;
        let batch = self.batch(packed, &rotation);
        let mut x = self.embed(packed)?;
        for layer in &self.layers {
            x = layer.forward(&x, &batch)?.0;
        }
        self.read_out(&self.rows(&x, packed)?)
    }

    /// Hidden states after the last norm, (N, C): what a language model's head would read.
    pub fn hidden(&self, packed: &Packed) -> Result<Tensor> {
        let rotation = self.rotation(packed)?;
        let batch = self.batch(packed, &rotation);
        let mut x = self.embed(packed)?;
        for layer in &self.layers {
            x = layer.forward(&x, &batch)?.0;
        }
        Ok(rms_norm(&x, &self.norm, self.config.rms_norm_eps)?)
    }

    /// The token embedding (V, C), which is also the language model's head where the two are tied.
    pub fn embedding(&self) -> &Tensor {
        &self.embedding
    }

    /// The rewards, with everything that [`RewardModel::backward`] reads.
    pub fn forward(&self, packed: &Packed) -> Result<Trace> {
        let rotation = self.rotation(packed)?;
        let batch = self.batch(packed, &rotation);
        let mut x = self.embed(packed)?;
        let mut layers = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            let (y, trace) = layer.forward(&x, &batch)?;
            layers.push(trace);
            x = y;
        }
        let pooled = self.pooled(packed)?;
        let last = x.index_select(&pooled, 0)?;
        let rewards = self.read_out(&last)?;
        Ok(Trace { rewards, rotation, layers, last, pooled, tokens: packed.tokens() })
    }

    /// Walks back from `sum_i cotangents[i] * reward[i]` and shows every trainable matrix to `sink`, the head first,
    /// then layer by layer from the top.
    pub fn backward(
        &self,
        packed: &Packed,
        trace: &Trace,
        cotangents: &[f64],
        sink: &mut dyn Sink,
    ) -> Result<()> {
        let cotangents =
            Tensor::from_slice(cotangents, (cotangents.len(), 1), &self.device)?.to_dtype(self.dtype)?;
        let eps = self.config.rms_norm_eps;
        if self.head_trainable {
            sink.head(&rms_norm(&trace.last, &self.norm, eps)?, &cotangents)?;
        }
        let Some(lowest) = self.layers.iter().position(Layer::has_lora) else {
            return Ok(());
        };
        let dhidden = cotangents.matmul(&self.head)?;
        let dlast = rms_norm_backward(&trace.last, &self.norm, eps, &dhidden)?;
        let zeros = Tensor::zeros((trace.tokens, self.config.hidden_size), self.dtype, &self.device)?;
        let mut dx = zeros.index_add(&trace.pooled, &dlast, 0)?;
        let batch = self.batch(packed, &trace.rotation);
        for (layer, trace) in self.layers.iter().zip(&trace.layers).skip(lowest).rev() {
            dx = layer.backward(trace, &batch, &dx, sink)?;
        }
        Ok(())
    }

    /// Every trainable matrix by block name.
    pub fn blocks(&self) -> BTreeMap<String, Tensor> {
        let mut blocks = BTreeMap::new();
        for (site, lora) in self.sites() {
            blocks.insert(site.block(Factor::A), lora.a.clone());
            blocks.insert(site.block(Factor::B), lora.b.clone());
        }
        if self.head_trainable {
            blocks.insert(HEAD.to_owned(), self.head.clone());
        }
        blocks
    }

    /// Rows and columns of every trainable matrix.
    pub fn shapes(&self) -> BTreeMap<String, (usize, usize)> {
        let shape = |t: &Tensor| (t.dims()[0], t.dims()[1]);
        self.blocks().iter().map(|(name, tensor)| (name.clone(), shape(tensor))).collect()
    }

    /// Replaces trainable matrices by those of the same block name.
    pub fn assign(&mut self, blocks: &BTreeMap<String, Tensor>) -> Result<()> {
        let updates: Vec<(Site, Lora)> = self.sites().map(|(site, lora)| (site, lora.clone())).collect();
        for (site, mut lora) in updates {
            if let Some(a) = blocks.get(&site.block(Factor::A)) {
                lora.a = a.clone();
            }
            if let Some(b) = blocks.get(&site.block(Factor::B)) {
                lora.b = b.clone();
            }
            self.layers[site.layer].assign(site.projection, lora)?;
        }
        if let Some(head) = blocks.get(HEAD) {
            self.head = head.clone();
        }
        Ok(())
    }

    fn sites(&self) -> impl Iterator<Item = (Site, &Lora)> {
        self.layers.iter().flat_map(|layer| {
            Projection::ALL.into_iter().filter_map(|projection| {
                let lora = layer.linear(projection).lora()?;
                Some((Site { layer: layer.index, projection }, lora))
            })
        })
    }

    fn rotation(&self, packed: &Packed) -> Result<Rotation> {
        Ok(Rotation::new(&packed.positions, &self.frequencies, self.dtype, &self.device)?)
    }

    fn batch<'a>(&'a self, packed: &'a Packed, rotation: &'a Rotation) -> Batch<'a> {
        Batch { segments: &packed.segments, rotation, config: &self.config }
    }

    /// (N, C)
    fn embed(&self, packed: &Packed) -> Result<Tensor> {
        let ids = Tensor::from_slice(&packed.ids, packed.ids.len(), &self.device)?;
        Ok(self.embedding.index_select(&ids, 0)?)
    }

    fn pooled(&self, packed: &Packed) -> Result<Tensor> {
        let pooled: Vec<u32> = packed.pooled.iter().map(|i| *i as u32).collect();
        let count = pooled.len();
        Ok(Tensor::from_vec(pooled, count, &self.device)?)
    }

    /// The pooled tokens' rows: (N, C) -> (M, C).
    fn rows(&self, x: &Tensor, packed: &Packed) -> Result<Tensor> {
        Ok(x.index_select(&self.pooled(packed)?, 0)?)
    }

    /// Last norm and head: (M, C) -> M rewards, all finite.
    fn read_out(&self, last: &Tensor) -> Result<Vec<f64>> {
        let hidden = rms_norm(last, &self.norm, self.config.rms_norm_eps)?;
        let rewards: Vec<f64> =
            hidden.matmul(&self.head.t()?)?.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?;
        match rewards.iter().position(|r| !r.is_finite()) {
            Some(i) => Err(Error::NotFinite(format!("reward {i} of the batch"))),
            None => Ok(rewards),
        }
    }
}

//! A model from a checkpoint and an adapter, layer by layer.

use super::{
    ACTIVATION_BYTES, RewardModel,
    adapter::Adapter,
    checkpoint::Checkpoint,
    config::{Mixture, NormKind},
    head::Head,
    layer::{Layer, Mlp},
    sink::Rows,
    site::Site,
};
use crate::{
    Error, Result,
    nn::{
        exact::exact_type,
        experts::{Expert, Experts},
        linear::{Frozen, Linear, Lora},
        norm::Norm,
    },
};
use candle_core::{DType, Device, Tensor};

/// Which weights a frozen model keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Those of both directions.
    Both,
    /// Those of the forward: there are no variances.
    Forward,
    /// The same in eight bits.
    Int8,
}

impl Keep {
    fn of(self, linear: &mut Linear) -> candle_core::Result<()> {
        linear.freeze();
        match self {
            Self::Both => Ok(()),
            Self::Forward => {
                linear.forward_only();
                Ok(())
            }
            Self::Int8 => linear.quantize(),
        }
    }
}

impl RewardModel {
    /// Puts an adapter on a base. The head is the adapter's where it has one, else the base's.
    ///
    /// In bf16 and f16 the products of the frozen weights are in half precision, as are the activations between them; updates are
    /// merged before they are rounded, and norms, attention, head, low-rank factors and Jacobians are in f32.
    pub fn new(base: &Checkpoint, adapter: Option<&Adapter>, dtype: DType, device: &Device) -> Result<Self> {
        Builder { base, adapter, dtype, device, keep: None }.model()
    }

    /// As [`RewardModel::new`], for a model whose updates do not change any more. What it does not keep is dropped layer by layer, so
    /// that it is never there as a whole.
    pub fn frozen(
        base: &Checkpoint,
        adapter: Option<&Adapter>,
        (dtype, device): (DType, &Device),
        keep: Keep,
    ) -> Result<Self> {
        Builder { base, adapter, dtype, device, keep: Some(keep) }.model()
    }
}

/// What a model is built from, and how.
struct Builder<'a> {
    base: &'a Checkpoint,
    adapter: Option<&'a Adapter>,
    dtype: DType,
    device: &'a Device,
    /// Of a frozen model.
    keep: Option<Keep>,
}

impl Builder<'_> {
    fn model(&self) -> Result<RewardModel> {
        let config = &self.base.config;
        let head = self.head()?;
        let (weight, head_bias) = head.reward(&self.base.outputs)?;
        Ok(RewardModel {
            embedding: self.embedding()?,
            layers: (0..config.layers).map(|index| self.layer(index)).collect::<Result<_>>()?,
            norm: self.norm(config.names.norm)?,
            head: self.place(&weight)?,
            head_bias,
            head_trainable: self.adapter.is_some_and(|adapter| adapter.head.is_some()),
            activation_bytes: ACTIVATION_BYTES,
            config: config.clone(),
            dtype: self.dtype,
            device: self.device.clone(),
        })
    }

    fn head(&self) -> Result<Head> {
        if let Some(head) = self.adapter.and_then(|adapter| adapter.head.clone()) {
            return Ok(head);
        }
        let hint = "hint: give an adapter that saves `score`, or train one";
        let name = &self.base.name;
        let none =
            || Error::Usage(format!("no reward head: neither `{name}` nor an adapter has `score` ({hint})"));
        self.base.head()?.ok_or_else(none)
    }

    /// The base's own is shared by all models on it, in the type that it is stored in.
    fn embedding(&self) -> Result<Tensor> {
        let name = self.base.config.names.embedding;
        let stored = self.trained(name).map_or_else(|| self.base.embedding(), |trained| Ok(Some(trained)))?;
        let embedding = stored.ok_or_else(|| missing(name))?.to_device(self.device)?;
        let Some(lora) = self.adapter.and_then(|adapter| adapter.embedding.as_ref()) else {
            return Ok(embedding);
        };
        // (V, C) + s (B A)^T
        let update = (self.place(&lora.b)?.matmul(&self.place(&lora.a)?)?.t()? * lora.scale)?;
        Ok((self.place(&embedding)? + update)?)
    }

    fn layer(&self, index: usize) -> Result<Layer> {
        let config = &self.base.config;
        let of_layer = format!("{}.{index}", config.names.layers);
        let norm = |name: &str| self.norm(&format!("{of_layer}.{name}"));
        let [queries, keys] = config.names.queries_and_keys;
        let attention = config.attention(index);
        Ok(Layer {
            index,
            rows: if index + 1 == config.layers { Rows::Pooled } else { Rows::All },
            norms: config.names.norms.clone().try_map(|name| name.map(norm).transpose())?,
            qk_norms: config.qk_norm.map(|_| Ok::<_, Error>([norm(queries)?, norm(keys)?])).transpose()?,
            turning: attention.heads.turning(),
            attention,
            rotation: config.sights[index].rope,
            parallel: config.parallel,
            attention_linears: [self.linear(&of_layer, index, 0)?, self.linear(&of_layer, index, 1)?],
            mlp: match &config.mixture {
                None => Mlp::One {
                    linears: [self.linear(&of_layer, index, 2)?, self.linear(&of_layer, index, 3)?],
                    gate: config.gate,
                },
                Some(mixture) => Mlp::Many(self.experts(&of_layer, mixture)?),
            },
            projections: config.names.linears,
        })
    }

    /// The linear layers of one input, by its place among [`super::config::names::Names::linears`].
    fn linear(&self, of_layer: &str, index: usize, input: usize) -> Result<Linear> {
        let config = &self.base.config;
        let biased = config.biases.by_input()[input];
        let parts = config.names.linears[input].iter().map(|projection| {
            let module = format!("{of_layer}.{}", projection.module());
            let bias = biased.then(|| self.tensor(&format!("{module}.bias"))).transpose()?;
            let frozen = Frozen { weight: self.tensor(&format!("{module}.weight"))?, bias };
            Ok((frozen, self.lora(Site { layer: index, projection: *projection })?))
        });
        self.placed(parts.collect::<Result<_>>()?)
    }

    /// The experts of a layer, none of which has an update.
    fn experts(&self, of_layer: &str, mixture: &Mixture) -> Result<Experts> {
        let Mixture { names, experts, chosen, normalised } = *mixture;
        let linear = |expert: usize, linears: &[&str]| {
            let parts = linears.iter().map(|name| {
                let weight = self.tensor(&names.weight(of_layer, expert, name))?;
                Ok((Frozen { weight, bias: None }, None))
            });
            self.placed(parts.collect::<Result<_>>()?)
        };
        let expert = |expert| {
            Ok(Expert { gate_up: linear(expert, &names.gate_up)?, down: linear(expert, &[names.down])? })
        };
        Ok(Experts {
            router: self.tensor(&format!("{of_layer}.{}.weight", names.router))?,
            experts: (0..experts).map(expert).collect::<Result<_>>()?,
            gate: self.base.config.gate,
            chosen,
            normalised,
        })
    }

    /// Rounded to the type that they compute in, less what is not kept.
    fn placed(&self, parts: Vec<(Frozen, Option<Lora>)>) -> Result<Linear> {
        let mut linear = Linear::new(parts)?;
        linear.round(self.dtype)?;
        self.keep.map_or(Ok(()), |keep| keep.of(&mut linear))?;
        Ok(linear)
    }

    fn lora(&self, site: Site) -> Result<Option<Lora>> {
        let lora = self.adapter.and_then(|adapter| adapter.lora.get(&site));
        Ok(lora.map(|lora| lora.try_map(|t| self.place(t))).transpose()?)
    }

    /// A norm by the name of its module.
    fn norm(&self, name: &str) -> Result<Norm> {
        let config = &self.base.config;
        let weight = self.tensor(&format!("{name}.weight"))?;
        let (weight, bias) = match config.norm {
            NormKind::Rms => (weight, None),
            NormKind::RmsFromOne => ((weight + 1.0)?, None),
            NormKind::Layer => (weight, Some(self.tensor(&format!("{name}.bias"))?)),
        };
        Ok(Norm { weight, bias, eps: config.norm_eps })
    }

    /// A tensor by its name, placed.
    fn tensor(&self, name: &str) -> Result<Tensor> {
        let stored =
            self.trained(name).map_or_else(|| self.base.weights.get(name), |trained| Ok(Some(trained)))?;
        Ok(self.place(&stored.ok_or_else(|| missing(name))?)?)
    }

    /// What an adapter has in a tensor's place.
    fn trained(&self, name: &str) -> Option<Tensor> {
        Some(self.adapter?.replaced.get(name)?.1.clone())
    }

    /// On the device, in no half precision.
    fn place(&self, tensor: &Tensor) -> candle_core::Result<Tensor> {
        tensor.to_dtype(exact_type(self.dtype))?.to_device(self.device)
    }
}

fn missing(name: &str) -> Error {
    Error::Usage(format!("{name} is missing"))
}

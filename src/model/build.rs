//! A model from a checkpoint and an adapter, layer by layer.

use super::{
    ACTIVATION_BYTES, RewardModel,
    adapter::Adapter,
    checkpoint::Checkpoint,
    config::{Config, Mixture, NormKind},
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
        Self::build(base, adapter, (dtype, device), |_| Ok(()))
    }

    /// As [`RewardModel::new`], for a model whose updates do not change any more. What it does not keep is dropped layer by layer, so
    /// that it is never there as a whole.
    pub fn frozen(
        base: &Checkpoint,
        adapter: Option<&Adapter>,
        backend: (DType, &Device),
        keep: Keep,
    ) -> Result<Self> {
        Self::build(base, adapter, backend, |linear| keep.of(linear))
    }

    /// Builds layer by layer; `done` hears of each linear layer.
    fn build(
        base: &Checkpoint,
        adapter: Option<&Adapter>,
        (dtype, device): (DType, &Device),
        done: impl Fn(&mut Linear) -> candle_core::Result<()>,
    ) -> Result<Self> {
        let head = adapter.and_then(|adapter| adapter.head.clone());
        let head_trainable = head.is_some();
        let Some(head) = head.map_or_else(|| base.head(), |head| Ok(Some(head)))? else {
            let hint = "hint: give an adapter that saves `score`, or train one";
            return Err(Error::Usage(format!(
                "no reward head: neither `{}` nor an adapter has `score` ({hint})",
                base.name
            )));
        };
        let config = &base.config;
        let place = |t: &Tensor| t.to_dtype(exact_type(dtype))?.to_device(device);
        let (head, head_bias) = head.reward(&base.outputs)?;
        let trained = |name: &str| adapter.and_then(|adapter| Some(adapter.replaced.get(name)?.1.clone()));
        let missing = |name: &str| Error::Usage(format!("{name} is missing"));
        let tensor = |name: String| {
            let stored =
                trained(&name).map_or_else(|| base.weights.get(&name), |trained| Ok(Some(trained)))?;
            Ok(place(&stored.ok_or_else(|| missing(&name))?)?)
        };
        let name = config.names.embedding;
        let embedding = trained(name).map_or_else(|| base.embedding(), |trained| Ok(Some(trained)))?;
        let embedding = embedding.ok_or_else(|| missing(name))?.to_device(device)?;
        let lora = |site: Site| -> Result<Option<Lora>> {
            let lora = adapter.and_then(|adapter| adapter.lora.get(&site));
            lora.map(|lora| lora.try_map(place)).transpose().map_err(Error::Compute)
        };
        let mut layers = Vec::with_capacity(config.layers);
        for index in 0..config.layers {
            let of_layer = format!("{}.{index}", config.names.layers);
            let biased = config.biases.by_input();
            let linear = |at: usize| -> Result<Linear> {
                let parts = config.names.linears[at].iter().map(|projection| {
                    let module = format!("{of_layer}.{}", projection.module());
                    let bias = biased[at].then(|| tensor(format!("{module}.bias"))).transpose()?;
                    let frozen = Frozen { weight: tensor(format!("{module}.weight"))?, bias };
                    Ok((frozen, lora(Site { layer: index, projection: *projection })?))
                });
                placed(parts.collect::<Result<_>>()?, dtype, &done)
            };
            let attention_linears = [linear(0)?, linear(1)?];
            let mlp = match &config.mixture {
                None => Mlp::One { linears: [linear(2)?, linear(3)?], gate: config.gate },
                Some(mixture) => {
                    let place = |parts| placed(parts, dtype, &done);
                    Mlp::Many(experts(config, mixture, &of_layer, &tensor, place)?)
                }
            };
            let named = |name: &str| norm(config, format!("{of_layer}.{name}"), &tensor);
            let norms = config.names.norms.clone().try_map(|name| name.map(&named).transpose())?;
            let qk_norms = match config.qk_norm {
                Some(_) => {
                    let [queries, keys] = config.names.queries_and_keys;
                    Some([named(queries)?, named(keys)?])
                }
                None => None,
            };
            let attention = config.attention(index);
            layers.push(Layer {
                index,
                rows: if index + 1 == config.layers { Rows::Pooled } else { Rows::All },
                norms,
                qk_norms,
                turning: attention.heads.turning(),
                attention,
                rotation: config.sights[index].rope,
                parallel: config.parallel,
                attention_linears,
                mlp,
                projections: config.names.linears,
            });
        }
        let embedding = match adapter.and_then(|adapter| adapter.embedding.as_ref()) {
            // (V, C) + s (B A)^T
            Some(lora) => {
                (place(&embedding)? + (place(&lora.b)?.matmul(&place(&lora.a)?)?.t()? * lora.scale)?)?
            }
            None => embedding,
        };
        Ok(Self {
            embedding,
            layers,
            norm: norm(config, config.names.norm.into(), &tensor)?,
            head: place(&head)?,
            head_bias,
            head_trainable,
            activation_bytes: ACTIVATION_BYTES,
            config: config.clone(),
            dtype,
            device: device.clone(),
        })
    }
}

/// Linear layers of one input, rounded to the type that they compute in; `done` hears of them.
fn placed(
    parts: Vec<(Frozen, Option<Lora>)>,
    dtype: DType,
    done: impl Fn(&mut Linear) -> candle_core::Result<()>,
) -> Result<Linear> {
    let mut linear = Linear::new(parts)?;
    linear.round(dtype)?;
    done(&mut linear)?;
    Ok(linear)
}

/// The experts of a layer, none of which has an update.
fn experts(
    config: &Config,
    mixture: &Mixture,
    of_layer: &str,
    tensor: &impl Fn(String) -> Result<Tensor>,
    place: impl Fn(Vec<(Frozen, Option<Lora>)>) -> Result<Linear>,
) -> Result<Experts> {
    let Mixture { names, experts, chosen, normalised } = *mixture;
    let router = tensor(format!("{of_layer}.{}.weight", names.router))?;
    let linear = |expert: usize, linears: &[&str]| {
        let parts = linears.iter().map(|name| {
            let weight = tensor(names.weight(of_layer, expert, name))?;
            Ok((Frozen { weight, bias: None }, None))
        });
        place(parts.collect::<Result<_>>()?)
    };
    let expert = |expert| {
        Ok(Expert { gate_up: linear(expert, &names.gate_up)?, down: linear(expert, &[names.down])? })
    };
    let experts = (0..experts).map(expert).collect::<Result<_>>()?;
    Ok(Experts { router, experts, gate: config.gate, chosen, normalised })
}

/// A norm by the name of its module.
fn norm(config: &Config, name: String, tensor: &impl Fn(String) -> Result<Tensor>) -> Result<Norm> {
    let weight = tensor(format!("{name}.weight"))?;
    let (weight, bias) = match config.norm {
        NormKind::Rms => (weight, None),
        NormKind::RmsFromOne => ((weight + 1.0)?, None),
        NormKind::Layer => (weight, Some(tensor(format!("{name}.bias"))?)),
    };
    Ok(Norm { weight, bias, eps: config.norm_eps })
}

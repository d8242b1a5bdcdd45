//! The encoders, and how each pools a sequence.

use candle_core::{D, DType, Result, Tensor};
use candle_nn::{LayerNorm, Linear, Module, VarBuilder, layer_norm_no_bias, linear, linear_no_bias};
use candle_transformers::models::{bert, debertav2, modernbert};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

/// A family, by its configuration.
#[derive(Debug, Clone)]
pub enum Family {
    Bert(Box<bert::Config>),
    /// v3 too.
    Deberta(Box<debertav2::Config>),
    ModernBert(modernbert::Config, Pooling),
}

/// What ModernBERT's head reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// The first token.
    #[default]
    Cls,
    /// All tokens' mean.
    Mean,
}

/// An encoder with its weights, and what it does with its last hidden states.
pub enum Body {
    /// tanh(dense(first)).
    Bert(Box<bert::BertModel>, Linear),
    /// act(dense(first)).
    Deberta(Box<(debertav2::DebertaV2Model, debertav2::DebertaV2ContextPooler)>),
    /// norm(gelu(dense(first or mean))).
    ModernBert(modernbert::ModernBert, Pooling, Linear, LayerNorm),
}

impl Family {
    /// The `model_type` of a configuration, where it is a cross-encoder's.
    pub fn of(json: &[u8]) -> Option<String> {
        let config: Value = serde_json::from_slice(json).ok()?;
        let family = config["model_type"].as_str()?;
        ["bert", "deberta-v2", "modernbert"].contains(&family).then(|| family.to_owned())
    }

    /// Parses a `config.json`; the error names the field.
    pub fn parse(json: &[u8]) -> std::result::Result<Self, String> {
        let mut config: Value = serde_json::from_slice(json).map_err(|e| e.to_string())?;
        match Self::of(json).as_deref() {
            Some("bert") => Ok(Self::Bert(Box::new(read(config)?))),
            Some("deberta-v2") => {
                if config["conv_kernel_size"].as_u64().is_some_and(|size| size > 0) {
                    return Err("conv_kernel_size: a convolution is not supported".into());
                }
                default(&mut config, "pooler_dropout", 0.into());
                default(&mut config, "pooler_hidden_act", "gelu".into());
                let size = config["hidden_size"].clone();
                default(&mut config, "pooler_hidden_size", size);
                Ok(Self::Deberta(Box::new(read(config)?)))
            }
            Some("modernbert") => {
                // transformers 5 has the rotary bases in a table, by kind of layer.
                for (field, kind) in
                    [("global_rope_theta", "full_attention"), ("local_rope_theta", "sliding_attention")]
                {
                    let theta = config["rope_parameters"][kind]["rope_theta"].clone();
                    default(&mut config, field, theta);
                }
                let eps = config["norm_eps"].clone();
                default(&mut config, "layer_norm_eps", eps);
                let pooling = config["classifier_pooling"].take();
                let pooling = if pooling.is_null() { Pooling::default() } else { read(pooling)? };
                Ok(Self::ModernBert(read(config)?, pooling))
            }
            _ => Err(format!("model_type: {} is not a cross-encoder", config["model_type"])),
        }
    }

    /// `model_type`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Bert(_) => "bert",
            Self::Deberta(_) => "deberta-v2",
            Self::ModernBert(..) => "modernbert",
        }
    }

    pub fn vocabulary(&self) -> usize {
        match self {
            Self::Bert(config) => config.vocab_size,
            Self::Deberta(config) => config.vocab_size,
            Self::ModernBert(config, _) => config.vocab_size,
        }
    }

    pub fn max_length(&self) -> usize {
        match self {
            Self::Bert(config) => config.max_position_embeddings,
            Self::Deberta(config) => config.max_position_embeddings,
            Self::ModernBert(config, _) => config.max_position_embeddings,
        }
    }

    /// Puts weights on it; the error names the tensor.
    pub fn load(&self, weights: &VarBuilder) -> Result<Body> {
        match self {
            Self::Bert(config) => {
                let size = config.hidden_size;
                let pooler = linear(size, size, weights.pp("bert.pooler.dense"))?;
                Ok(Body::Bert(Box::new(bert::BertModel::load(weights.pp("bert"), config)?), pooler))
            }
            Self::Deberta(config) => {
                let pooler = debertav2::DebertaV2ContextPooler::load(weights.clone(), config)?;
                let model = debertav2::DebertaV2Model::load(weights.pp("deberta"), config)?;
                Ok(Body::Deberta(Box::new((model, pooler))))
            }
            Self::ModernBert(config, pooling) => {
                let (size, head) = (config.hidden_size, weights.pp("head"));
                let dense = linear_no_bias(size, size, head.pp("dense"))?;
                let norm = layer_norm_no_bias(size, config.layer_norm_eps, head.pp("norm"))?;
                let model = modernbert::ModernBert::load(weights.clone(), config)?;
                Ok(Body::ModernBert(model, *pooling, dense, norm))
            }
        }
    }
}

impl Body {
    /// What the classification head reads of a sequence: ids and types (1, T) -> (1, C).
    pub fn pooled(&self, ids: &Tensor, types: &Tensor) -> Result<Tensor> {
        match self {
            Self::Bert(model, dense) => dense.forward(&first(&model.forward(ids, types, None)?)?)?.tanh(),
            Self::Deberta(both) => {
                let (model, pooler) = &**both;
                pooler.forward(&model.forward(ids, Some(types.clone()), None)?)
            }
            Self::ModernBert(model, pooling, dense, norm) => {
                let hidden = model.forward(ids, &Tensor::ones(ids.dims(), DType::F32, ids.device())?)?;
                let pooled = match pooling {
                    Pooling::Cls => first(&hidden)?,
                    Pooling::Mean => hidden.mean(D::Minus2)?,
                };
                norm.forward(&dense.forward(&pooled)?.gelu_erf()?)
            }
        }
    }
}

/// (1, T, C) -> (1, C)
fn first(hidden: &Tensor) -> Result<Tensor> {
    hidden.narrow(1, 0, 1)?.squeeze(1)?.contiguous()
}

fn read<T: DeserializeOwned>(config: Value) -> std::result::Result<T, String> {
    serde_path_to_error::deserialize(config).map_err(|e| e.to_string())
}

/// Fills a field that is missing.
fn default(config: &mut Value, field: &str, value: Value) {
    if config[field].is_null() {
        config[field] = value;
    }
}

//! The shape of a decoder: what a checkpoint's configuration says, parsed once, so that nothing after it can be wrong.

use crate::{Error, Result};
use serde::Deserialize;
use serde_json::Value;
use std::path::Path;

/// Largest number that a configuration may give for a size; a guard against overflow.
const LARGEST: usize = 1 << 24;

/// A decoder of the llama family.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub vocab_size: usize,
    /// C.
    pub hidden_size: usize,
    /// F.
    pub intermediate_size: usize,
    pub layers: usize,
    /// H.
    pub heads: usize,
    /// G.
    pub kv_heads: usize,
    /// D.
    pub head_dim: usize,
    pub rms_norm_eps: f64,
    /// Longest sequence, in tokens.
    pub max_length: usize,
    pub rope: Rope,
    pub pad_token_id: Option<u32>,
}

/// Rotary position embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    pub theta: f64,
    pub scaling: Scaling,
}

/// How the frequencies are changed for contexts longer than those of the pre-training.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "rope_type", rename_all = "lowercase")]
pub enum Scaling {
    Default,
    /// Llama 3.1: long wavelengths are stretched by `factor`, short ones kept, those between interpolated.
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_max_position_embeddings: f64,
    },
}

impl Config {
    /// Parses the `config.json` of a Hugging Face checkpoint, of transformers 4 or 5.
    pub fn from_json(path: &Path, json: &[u8]) -> Result<Self> {
        let wrong = |e: &dyn std::fmt::Display| Error::file(path, e);
        let raw: Raw = serde_json::from_slice(json).map_err(|e| wrong(&e))?;
        let config = raw.resolve().map_err(|e| wrong(&e))?;
        config.check().map_err(|e| wrong(&e))?;
        Ok(config)
    }

    /// Refuses sizes that no model can have.
    pub fn check(&self) -> Result<(), String> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.layers),
            ("num_attention_heads", self.heads),
            ("num_key_value_heads", self.kv_heads),
            ("head_dim", self.head_dim),
            ("max_position_embeddings", self.max_length),
        ];
        if let Some((name, size)) = sizes.iter().find(|(_, size)| !(1..=LARGEST).contains(size)) {
            return Err(format!("{name}: {size} is not between 1 and {LARGEST}"));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let (heads, groups) = (self.heads, self.kv_heads);
            return Err(format!("num_key_value_heads: {groups} does not divide num_attention_heads {heads}"));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(format!("head_dim: {} is odd, rotary embedding needs pairs", self.head_dim));
        }
        let positive = [("rms_norm_eps", self.rms_norm_eps), ("rope_theta", self.rope.theta)];
        match positive.iter().find(|(_, x)| !(x.is_finite() && *x > 0.0)) {
            Some((name, x)) => Err(format!("{name}: {x} is not a positive number")),
            None => self.rope.check(),
        }
    }

    /// Name and shape of every tensor that a checkpoint must hold, in Hugging Face's names; the head apart.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (hidden, wide) = (self.hidden_size, self.intermediate_size);
        let (queries, keys) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let mut all = vec![
            ("model.embed_tokens.weight".to_owned(), vec![self.vocab_size, hidden]),
            ("model.norm.weight".to_owned(), vec![hidden]),
        ];
        for layer in 0..self.layers {
            let tensors = [
                ("input_layernorm", vec![hidden]),
                ("self_attn.q_proj", vec![queries, hidden]),
                ("self_attn.k_proj", vec![keys, hidden]),
                ("self_attn.v_proj", vec![keys, hidden]),
                ("self_attn.o_proj", vec![hidden, queries]),
                ("post_attention_layernorm", vec![hidden]),
                ("mlp.gate_proj", vec![wide, hidden]),
                ("mlp.up_proj", vec![wide, hidden]),
                ("mlp.down_proj", vec![hidden, wide]),
            ];
            all.extend(tensors.map(|(name, shape)| (format!("model.layers.{layer}.{name}.weight"), shape)));
        }
        all
    }
}

impl Rope {
    fn check(&self) -> Result<(), String> {
        let Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } =
            &self.scaling
        else {
            return Ok(());
        };
        let all = [factor, low_freq_factor, high_freq_factor, original_max_position_embeddings];
        if all.iter().any(|x| !(x.is_finite() && **x > 0.0)) || low_freq_factor >= high_freq_factor {
            return Err(
                "rope_parameters: llama3 needs positive numbers, low_freq_factor < high_freq_factor".into()
            );
        }
        Ok(())
    }

    /// Angle per position of each pair of a head's dimensions, D / 2 numbers, rounded to f32 as Hugging Face does.
    pub fn frequencies(&self, head_dim: usize) -> Vec<f32> {
        let plain = (0..head_dim / 2).map(|i| {
            let exponent = (2 * i) as f32 / head_dim as f32;
            1.0 / (self.theta as f32).powf(exponent)
        });
        plain.map(|frequency| self.scaling.apply(f64::from(frequency)) as f32).collect()
    }
}

impl Scaling {
    fn apply(&self, frequency: f64) -> f64 {
        let Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } =
            self
        else {
            return frequency;
        };
        // Turns of the pair within the context of the pre-training.
        let turns = original_max_position_embeddings * frequency / std::f64::consts::TAU;
        let kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
        (1.0 - kept) * frequency / factor + kept * frequency
    }
}

/// `config.json` as written.
#[derive(Deserialize)]
struct Raw {
    model_type: String,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    #[serde(default = "default_eps")]
    rms_norm_eps: f64,
    max_position_embeddings: usize,
    rope_theta: Option<f64>,
    rope_scaling: Option<Value>,
    rope_parameters: Option<Value>,
    pad_token_id: Option<i64>,
    hidden_act: Option<String>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
}

fn default_eps() -> f64 {
    1e-6
}

impl Raw {
    fn resolve(self) -> Result<Config, String> {
        if self.model_type != "llama" {
            return Err(format!("model_type: `{}` is not supported (hint: `llama` is)", self.model_type));
        }
        if let Some(act) = self.hidden_act.as_deref().filter(|act| !["silu", "swish"].contains(act)) {
            return Err(format!("hidden_act: `{act}` is not supported (hint: `silu` is)"));
        }
        for (name, set) in [("attention_bias", self.attention_bias), ("mlp_bias", self.mlp_bias)] {
            if set {
                return Err(format!("{name}: biases are not supported"));
            }
        }
        let rope = self.rope()?;
        let pad_token_id = self.pad_token_id.and_then(|id| u32::try_from(id).ok());
        let heads = self.num_attention_heads;
        Ok(Config {
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            layers: self.num_hidden_layers,
            heads,
            kv_heads: self.num_key_value_heads.unwrap_or(heads),
            head_dim: self.head_dim.unwrap_or(self.hidden_size.checked_div(heads).unwrap_or(0)),
            rms_norm_eps: self.rms_norm_eps,
            max_length: self.max_position_embeddings,
            rope,
            pad_token_id,
        })
    }

    /// `rope_parameters` of transformers 5, or `rope_theta` and `rope_scaling` (whose `type` is the older name).
    fn rope(&self) -> Result<Rope, String> {
        let (key, written) = match (&self.rope_parameters, &self.rope_scaling) {
            (Some(parameters), _) => ("rope_parameters", Some(parameters)),
            (None, scaling) => ("rope_scaling", scaling.as_ref()),
        };
        let Some(written) = written else {
            return Ok(Rope { theta: self.rope_theta.unwrap_or(1e4), scaling: Scaling::Default });
        };
        let mut fields = written.as_object().cloned().ok_or_else(|| format!("{key}: expected an object"))?;
        if let Some(old) = fields.remove("type") {
            fields.entry("rope_type").or_insert(old);
        }
        fields.entry("rope_type").or_insert("default".into());
        let theta = match fields.get("rope_theta") {
            Some(theta) => theta.as_f64().ok_or_else(|| format!("{key}: rope_theta: expected a number"))?,
            None => self.rope_theta.unwrap_or(1e4),
        };
        let scaling = serde_json::from_value(fields.into()).map_err(|e| format!("{key}: {e}"))?;
        Ok(Rope { theta, scaling })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn base() -> Value {
        json!({
            "model_type": "llama", "vocab_size": 10, "hidden_size": 8, "intermediate_size": 6, "num_hidden_layers": 2,
            "num_attention_heads": 2, "max_position_embeddings": 64, "pad_token_id": null, "rope_theta": 5e5
        })
    }

    fn parse(change: Value) -> Result<Config> {
        let mut config = base();
        for (key, value) in change.as_object().unwrap() {
            config[key] = value.clone();
        }
        Config::from_json(Path::new("config.json"), config.to_string().as_bytes())
    }

    #[test]
    fn defaults_follow_hugging_face() {
        let config = parse(json!({})).unwrap();
        assert_eq!((config.kv_heads, config.head_dim, config.rms_norm_eps), (2, 4, 1e-6));
        assert_eq!(config.rope, Rope { theta: 5e5, scaling: Scaling::Default });
        assert_eq!(config.pad_token_id, None);
        assert_eq!(parse(json!({"pad_token_id": -1})).unwrap().pad_token_id, None);
    }

    #[test]
    fn both_generations_say_the_same_rope() {
        let llama3 = json!({
            "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32
        });
        let mut old = llama3.clone();
        old["type"] = "llama3".into();
        let mut new = llama3;
        new["rope_type"] = "llama3".into();
        new["rope_theta"] = 5e5.into();
        let old = parse(json!({"rope_scaling": old})).unwrap();
        assert_eq!(old, parse(json!({"rope_parameters": new, "rope_theta": null})).unwrap());
        assert!(matches!(old.rope.scaling, Scaling::Llama3 { factor: 8.0, .. }));
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let table = [
            (json!({"model_type": "qwen9"}), "model_type: `qwen9` is not supported"),
            (json!({"hidden_act": "gelu"}), "hidden_act: `gelu` is not supported"),
            (json!({"attention_bias": true}), "attention_bias: biases"),
            (json!({"rope_scaling": {"type": "yarn"}}), "rope_scaling: unknown variant `yarn`"),
            (json!({"num_key_value_heads": 3}), "num_key_value_heads: 3 does not divide"),
            (json!({"num_attention_heads": 0}), "num_attention_heads: 0 is not between"),
            (json!({"head_dim": 3}), "head_dim: 3 is odd"),
            (json!({"hidden_size": "x"}), "invalid type: string \"x\""),
        ];
        for (change, want) in table {
            let message = parse(change).unwrap_err().to_string();
            assert!(message.starts_with("config.json: ") && message.contains(want), "{message}");
        }
    }
}

//! `config.json` as Hugging Face writes it, for each family.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    Biases, Config, MOST_LAYERS, Mixture, NormKind, QkNorm, Sight,
    names::{
        ExpertNames, GEMMA, GPT_NEOX, LLAMA, MIXTRAL_EXPERTS, MIXTURE, Names, OLMO2, PHI3, QWEN3_EXPERTS,
    },
    rope::{Rope, Scaling},
};
use crate::nn::{
    attention::Order,
    mlp::{Activation, Gate},
};

/// Families that are read.
const FAMILIES: &str =
    "llama, mistral, mixtral, qwen2, qwen3, qwen3_moe, gemma, gemma2, gemma3_text, gpt_neox, phi3, olmo2";

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
    rms_norm_eps: Option<f64>,
    layer_norm_eps: Option<f64>,
    max_position_embeddings: usize,
    rope_theta: Option<f64>,
    rope_local_base_freq: Option<f64>,
    rotary_emb_base: Option<f64>,
    rotary_pct: Option<f64>,
    partial_rotary_factor: Option<f64>,
    rope_scaling: Option<Value>,
    rope_parameters: Option<Value>,
    pad_token_id: Option<i64>,
    hidden_act: Option<String>,
    hidden_activation: Option<String>,
    attention_bias: Option<bool>,
    #[serde(default)]
    mlp_bias: bool,
    query_pre_attn_scalar: Option<f64>,
    attn_logit_softcapping: Option<f64>,
    sliding_window: Option<usize>,
    use_sliding_window: Option<bool>,
    max_window_layers: Option<usize>,
    sliding_window_pattern: Option<usize>,
    layer_types: Option<Vec<String>>,
    use_parallel_residual: Option<bool>,
    use_bidirectional_attention: Option<bool>,
    num_experts: Option<usize>,
    num_local_experts: Option<usize>,
    num_experts_per_tok: Option<usize>,
    moe_intermediate_size: Option<usize>,
    norm_topk_prob: Option<bool>,
    decoder_sparse_step: Option<usize>,
    mlp_only_layers: Option<Vec<usize>>,
}

/// What a family is, beside what its configuration says.
struct Family {
    names: &'static Names,
    norm: NormKind,
    qk_norm: Option<QkNorm>,
    gate: Gate,
    biases: Biases,
    order: Order,
    parallel: bool,
    intermediate_size: usize,
    /// What its experts are called, and whether their weights add up to 1.
    experts: Option<(&'static ExpertNames, bool)>,
    scaled_embedding: bool,
    /// Which layers see a window where the configuration lists no kinds of layers.
    windows: fn(&Raw, usize) -> bool,
    theta: f64,
    rotary: f64,
}

/// A configuration, not checked.
pub fn parse(json: &[u8]) -> Result<Config, String> {
    let raw: Raw = serde_json::from_slice(json).map_err(|e| e.to_string())?;
    raw.resolve()
}

impl Raw {
    fn family(&self) -> Result<Family, String> {
        let silu = Gate { activation: Activation::Silu, gated: true };
        let gelu = Gate { activation: Activation::GeluTanh, gated: true };
        let attention_bias = self.attention_bias.unwrap_or(false);
        let llama = Family {
            names: &LLAMA,
            norm: NormKind::Rms,
            qk_norm: None,
            gate: silu,
            biases: Biases { qkv: attention_bias, o: attention_bias, mlp: self.mlp_bias },
            order: Order::ByKind,
            parallel: false,
            intermediate_size: self.intermediate_size,
            experts: None,
            scaled_embedding: false,
            windows: |_, _| false,
            theta: 1e4,
            rotary: 1.0,
        };
        let always = |_: &Self, _: usize| true;
        let after = |raw: &Self, layer: usize| {
            raw.use_sliding_window == Some(true) && raw.max_window_layers.is_none_or(|first| layer >= first)
        };
        let gemma = Family { norm: NormKind::RmsFromOne, gate: gelu, scaled_embedding: true, ..llama };
        Ok(match self.model_type.as_str() {
            "llama" => llama,
            "mistral" => Family { windows: always, ..llama },
            "mixtral" => Family {
                names: &MIXTURE,
                experts: Some((&MIXTRAL_EXPERTS, true)),
                windows: always,
                theta: 1e6,
                ..llama
            },
            "qwen2" => Family { biases: Biases { qkv: true, ..Biases::default() }, windows: after, ..llama },
            "qwen3" => Family { qk_norm: Some(QkNorm::Head), windows: after, ..llama },
            "qwen3_moe" => Family {
                names: &MIXTURE,
                intermediate_size: self.moe_intermediate_size.unwrap_or(self.intermediate_size),
                experts: Some((&QWEN3_EXPERTS, self.norm_topk_prob.unwrap_or(false))),
                qk_norm: Some(QkNorm::Head),
                windows: |raw, _| raw.use_sliding_window == Some(true),
                ..llama
            },
            "phi3" => Family {
                names: &PHI3,
                windows: always,
                rotary: self.partial_rotary_factor.unwrap_or(1.0),
                ..llama
            },
            "olmo2" => Family { names: &OLMO2, qk_norm: Some(QkNorm::Token), theta: 5e5, ..llama },
            "gemma" => gemma,
            "gemma2" => Family { names: &GEMMA, windows: |_, layer| layer.is_multiple_of(2), ..gemma },
            "gemma3_text" => Family {
                names: &GEMMA,
                qk_norm: Some(QkNorm::Head),
                windows: |raw, layer| !(layer + 1).is_multiple_of(raw.sliding_window_pattern.unwrap_or(6)),
                theta: 1e6,
                ..gemma
            },
            "gpt_neox" => {
                let bias = self.attention_bias.unwrap_or(true);
                Family {
                    names: &GPT_NEOX,
                    norm: NormKind::Layer,
                    gate: Gate { activation: Activation::Gelu, gated: false },
                    biases: Biases { qkv: bias, o: bias, mlp: true },
                    order: Order::ByGroup,
                    parallel: self.use_parallel_residual.unwrap_or(true),
                    rotary: self.rotary_pct.unwrap_or(0.25),
                    ..llama
                }
            }
            other => return Err(format!("model_type: `{other}` is not supported (hint: {FAMILIES} are)")),
        })
    }

    fn resolve(self) -> Result<Config, String> {
        let family = self.family()?;
        // The only one that memory is spent by before all are checked.
        if self.num_hidden_layers > MOST_LAYERS {
            return Err(format!(
                "num_hidden_layers: {} is not between 1 and {MOST_LAYERS}",
                self.num_hidden_layers
            ));
        }
        if self.use_bidirectional_attention == Some(true) {
            return Err("use_bidirectional_attention: only causal attention is supported".into());
        }
        let heads = self.num_attention_heads;
        let head_dim = self.head_dim.unwrap_or(self.hidden_size.checked_div(heads).unwrap_or(0));
        let (ropes, kinds) = self.ropes(&family, head_dim)?;
        let sights = (0..self.num_hidden_layers).map(|layer| {
            let slides = self.slides(&family, layer)?;
            let window = if slides { self.sliding_window } else { None };
            Ok(Sight { window, rope: kinds[usize::from(slides)] })
        });
        let sights = sights.collect::<Result<_, String>>()?;
        let scale = self.query_pre_attn_scalar.unwrap_or(head_dim as f64).sqrt().recip();
        let gemma2 = self.model_type == "gemma2";
        Ok(Config {
            gate: self.gate(&family)?,
            mixture: self.mixture(&family)?,
            family: self.model_type,
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            intermediate_size: family.intermediate_size,
            layers: self.num_hidden_layers,
            heads,
            kv_heads: self.num_key_value_heads.unwrap_or(heads),
            head_dim,
            max_length: self.max_position_embeddings,
            pad_token_id: self.pad_token_id.and_then(|id| u32::try_from(id).ok()),
            names: family.names,
            norm: family.norm,
            norm_eps: match family.norm {
                NormKind::Layer => self.layer_norm_eps.unwrap_or(1e-5),
                _ => self.rms_norm_eps.unwrap_or(1e-6),
            },
            qk_norm: family.qk_norm,
            order: family.order,
            attention_scale: scale,
            attention_cap: self.attn_logit_softcapping.filter(|_| gemma2),
            sights,
            ropes,
            biases: family.biases,
            parallel: family.parallel,
            embedding_scale: if family.scaled_embedding { (self.hidden_size as f64).sqrt() } else { 1.0 },
        })
    }

    /// The family's experts, of which every layer must have some.
    fn mixture(&self, family: &Family) -> Result<Option<Mixture>, String> {
        let Some((names, normalised)) = family.experts else { return Ok(None) };
        if self.decoder_sparse_step.unwrap_or(1) != 1
            || self.mlp_only_layers.iter().flatten().next().is_some()
        {
            return Err(
                "decoder_sparse_step, mlp_only_layers: layers without experts are not supported".into()
            );
        }
        let given = |number: Option<usize>, key: &str| number.ok_or_else(|| format!("{key}: missing"));
        Ok(Some(Mixture {
            names,
            experts: given(self.num_experts.or(self.num_local_experts), "num_experts")?,
            chosen: given(self.num_experts_per_tok, "num_experts_per_tok")?,
            normalised,
        }))
    }

    /// The family's gate with the activation that the configuration names.
    fn gate(&self, family: &Family) -> Result<Gate, String> {
        let (key, named) = match (&self.hidden_activation, &self.hidden_act) {
            (Some(name), _) => ("hidden_activation", name),
            (None, Some(name)) => ("hidden_act", name),
            (None, None) => return Ok(family.gate),
        };
        let activation = match named.as_str() {
            "silu" | "swish" => Activation::Silu,
            "gelu_pytorch_tanh" | "gelu_new" | "gelu_fast" => Activation::GeluTanh,
            // Gemma's first configurations say `gelu` and mean the other.
            "gelu" if family.gate.activation == Activation::GeluTanh => Activation::GeluTanh,
            "gelu" => Activation::Gelu,
            other => {
                let hint = "hint: silu, gelu and gelu_pytorch_tanh are";
                return Err(format!("{key}: `{other}` is not supported ({hint})"));
            }
        };
        Ok(Gate { activation, ..family.gate })
    }

    /// Whether a layer sees a window only.
    fn slides(&self, family: &Family, layer: usize) -> Result<bool, String> {
        match &self.layer_types {
            None => Ok((family.windows)(self, layer)),
            Some(types) => match types.get(layer).map(String::as_str) {
                Some("full_attention") => Ok(false),
                Some("sliding_attention") => Ok(true),
                Some(other) => Err(format!("layer_types: `{other}` is not supported")),
                None => Err(format!("layer_types: {} for {} layers", types.len(), self.num_hidden_layers)),
            },
        }
    }

    /// The rotary embeddings, and which of them layers without and with a window use.
    fn ropes(&self, family: &Family, head_dim: usize) -> Result<(Vec<Rope>, [usize; 2]), String> {
        let theta = self.rope_theta.or(self.rotary_emb_base).unwrap_or(family.theta);
        let size = |factor: f64| (head_dim as f64 * factor) as usize;
        let (key, written) = match (&self.rope_parameters, &self.rope_scaling) {
            (Some(parameters), _) => ("rope_parameters", Some(parameters)),
            (None, scaling) => ("rope_scaling", scaling.as_ref()),
        };
        let wrong = |e: String| format!("{key}: {e}");
        let plain = |theta| Rope { theta, size: size(family.rotary), scaling: Scaling::Default };
        let fields = match written {
            None => None,
            Some(written) => Some(written.as_object().ok_or_else(|| wrong("expected an object".into()))?),
        };
        let read = |fields: &Map<String, Value>| rope(fields, theta, family.rotary, head_dim).map_err(wrong);
        let by_kind = fields.filter(|fields| fields.contains_key("full_attention"));
        if let Some(fields) = by_kind {
            let of = |kind: &str| match fields.get(kind).and_then(Value::as_object) {
                Some(fields) => read(fields),
                None => Err(wrong(format!("{kind}: expected an object"))),
            };
            return Ok((vec![of("full_attention")?, of("sliding_attention")?], [0, 1]));
        }
        let full = fields.map_or(Ok(plain(theta)), read)?;
        match self.model_type.as_str() {
            "gemma3_text" => Ok((vec![full, plain(self.rope_local_base_freq.unwrap_or(1e4))], [0, 1])),
            _ => Ok((vec![full], [0, 0])),
        }
    }
}

/// One rotary embedding of transformers 5, or the scaling of one of transformers 4 (whose `type` is the older name).
fn rope(fields: &Map<String, Value>, theta: f64, rotary: f64, head_dim: usize) -> Result<Rope, String> {
    let mut fields = fields.clone();
    if let Some(old) = fields.remove("type") {
        fields.entry("rope_type").or_insert(old);
    }
    fields.entry("rope_type").or_insert("default".into());
    let number = |key: &str, or: f64| match fields.get(key) {
        Some(value) => value.as_f64().ok_or_else(|| format!("{key}: expected a number")),
        None => Ok(or),
    };
    let (theta, factor) = (number("rope_theta", theta)?, number("partial_rotary_factor", rotary)?);
    let scaling = serde_json::from_value(fields.into()).map_err(|e| e.to_string())?;
    Ok(Rope { theta, size: (head_dim as f64 * factor) as usize, scaling })
}

#[cfg(test)]
mod tests;

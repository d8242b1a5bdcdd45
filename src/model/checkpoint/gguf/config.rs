//! Values of a GGUF file as a [`Config`]: those that Hugging Face's configurations have are put under their names there, so
//! that what a family is stands in one place; the others change what comes of it.

use super::Architecture;
use crate::{
    Error, Result,
    gguf::Gguf,
    model::config::{Config, MOST_LAYERS, rope::Scaling},
};
use serde_json::{Value, json};

/// Keys of sizes, less the architecture, with Hugging Face's names.
const SIZES: [(&str, &str); 5] = [
    ("context_length", "max_position_embeddings"),
    ("embedding_length", "hidden_size"),
    ("feed_forward_length", "intermediate_size"),
    ("block_count", "num_hidden_layers"),
    ("attention.head_count", "num_attention_heads"),
];
/// Keys that a file may do without.
const OPTIONAL_SIZES: [(&str, &str); 2] =
    [("attention.head_count_kv", "num_key_value_heads"), ("attention.key_length", "head_dim")];
const EPSILON: &str = "attention.layer_norm_rms_epsilon";
const CAP: &str = "attn_logit_softcapping";
/// Those whose values a configuration may refuse, for its message.
const NAMED: [(&str, &str); 5] = [
    (EPSILON, "rms_norm_eps"),
    ("attention.sliding_window", "sliding_window"),
    ("attention.scale", "query_pre_attn_scalar"),
    (CAP, "attn_logit_softcapping"),
    ("rope.freq_base", "rope_theta"),
];
/// Base of the rotary embedding where a file gives none.
const THETA: f64 = 1e4;

pub fn read(gguf: &Gguf, architecture: &'static Architecture) -> Result<Config> {
    let values = Values { gguf, architecture };
    let refused = |message: String| Error::file(gguf.path(), values.in_its_words(&message));
    values.refuse_what_is_unknown()?;
    let mut config = Config::from_fields(&values.fields()?).map_err(refused)?;
    values.change(&mut config)?;
    config.check().map_err(refused)?;
    Ok(config)
}

/// A file's values, by keys less the architecture.
struct Values<'a> {
    gguf: &'a Gguf,
    architecture: &'static Architecture,
}

impl Values<'_> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture.name)
    }

    fn size(&self, key: &str) -> Result<Option<usize>> {
        self.gguf.size(&self.key(key))
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        self.gguf.number(&self.key(key))
    }

    fn wrong(&self, key: &str, message: impl std::fmt::Display) -> Error {
        self.gguf.wrong(&self.key(key), message)
    }

    /// A message about a field of Hugging Face's, with the key that it came from.
    fn in_its_words(&self, message: &str) -> String {
        let mut all = SIZES.iter().chain(&OPTIONAL_SIZES).chain(&NAMED);
        let known = all.find_map(|(key, field)| Some((key, message.strip_prefix(field)?.strip_prefix(':')?)));
        known.map_or_else(|| message.to_owned(), |(key, rest)| format!("{}:{rest}", self.key(key)))
    }

    fn refuse_what_is_unknown(&self) -> Result<()> {
        if self.size("expert_count")?.is_some_and(|experts| experts > 0) {
            return Err(self.wrong("expert_count", "mixtures of experts are not supported"));
        }
        if self.gguf.flag(&self.key("attention.causal"))? == Some(false) {
            return Err(self.wrong("attention.causal", "only causal attention is supported"));
        }
        let [keys, values] = [self.size("attention.key_length")?, self.size("attention.value_length")?];
        match (keys, values) {
            (Some(keys), Some(values)) if keys != values => {
                Err(self.wrong("attention.value_length", format!("{values}, other than the keys' {keys}")))
            }
            _ => Ok(()),
        }
    }

    /// What Hugging Face's `config.json` would say.
    fn fields(&self) -> Result<Value> {
        let window =
            self.size("attention.sliding_window")?.or(self.architecture.window).filter(|keys| *keys > 0);
        // In Hugging Face's words, a llama whose layers have windows is a mistral.
        let family = match self.architecture.family {
            "llama" if window.is_some() => "mistral",
            family => family,
        };
        let epsilon = self.number(EPSILON)?;
        let mut fields = json!({
            "model_type": family,
            "vocab_size": self.vocabulary()?,
            "rms_norm_eps": self.gguf.required(&self.key(EPSILON), epsilon)?,
            "rope_theta": self.number("rope.freq_base")?.unwrap_or(THETA),
            "rope_local_base_freq": self.number("rope.freq_base_swa")?.unwrap_or(THETA),
            "sliding_window": window,
            "layer_types": self.layer_types()?,
            "pad_token_id": self.gguf.token_id("tokenizer.ggml.padding_token_id")?,
            "attn_logit_softcapping": self.number(CAP)?.or(self.architecture.attention_cap),
        });
        for (key, field) in SIZES {
            fields[field] = json!(self.gguf.required(&self.key(key), self.size(key)?)?);
        }
        for (key, field) in OPTIONAL_SIZES {
            fields[field] = json!(self.size(key)?);
        }
        Ok(fields)
    }

    /// Rows of the embedding.
    fn vocabulary(&self) -> Result<usize> {
        const NAME: &str = "token_embd.weight";
        self.gguf.required(NAME, self.gguf.dims(NAME).and_then(|dims| dims.first().copied()))
    }

    /// Which layers have a window, where the file says: for each layer, or as a number of which the last has none.
    fn layer_types(&self) -> Result<Option<Vec<&'static str>>> {
        let key = self.key("attention.sliding_window_pattern");
        let slide: Vec<bool> = match self.size("attention.sliding_window_pattern") {
            Ok(None) => return Ok(None),
            Ok(Some(turn)) => {
                // More of them are refused when all sizes are.
                let layers = self.size("block_count")?.unwrap_or(0).min(MOST_LAYERS);
                (1..=layers).map(|layer| turn == 0 || !layer.is_multiple_of(turn)).collect()
            }
            Err(_) => self.gguf.flags(&key)?.unwrap_or_default(),
        };
        let kind = |slides| if slides { "sliding_attention" } else { "full_attention" };
        Ok(Some(slide.into_iter().map(kind).collect()))
    }

    /// What Hugging Face's configurations cannot say, or say of a family as a whole.
    fn change(&self, config: &mut Config) -> Result<()> {
        let biased = |part: &str| self.gguf.dims(&format!("blk.0.{part}.bias")).is_some();
        config.biases.qkv |= biased("attn_q") || biased("attn_qkv");
        config.biases.o |= biased("attn_output");
        config.biases.mlp |= biased("ffn_up");
        if let Some(scale) = self.number("attention.scale")? {
            config.attention_scale = scale;
        } else if self.architecture.scaled_by_width == Some(config.layers) {
            config.attention_scale = ((config.hidden_size / config.heads.max(1)) as f64).sqrt().recip();
        }
        self.rope(config)
    }

    /// The rotary embedding of layers without a window; gemma3's other one is never scaled.
    fn rope(&self, config: &mut Config) -> Result<()> {
        if let Some(size) = self.size("rope.dimension_count")? {
            if self.architecture.interleaved && size != config.head_dim {
                let message = format!("{size} numbers of a head turn, and only all {} can", config.head_dim);
                return Err(self.wrong("rope.dimension_count", message));
            }
            config.ropes.iter_mut().for_each(|rope| rope.size = size);
        }
        let scaling = self.scaling()?;
        if let Scaling::Factors { .. } = scaling
            && let Some(longest) = self.size("rope.scaling.original_context_length")?
            && self.gguf.dims(LONG).is_some()
        {
            config.max_length = config.max_length.min(longest);
        }
        config.ropes[0].scaling = scaling;
        Ok(())
    }

    fn scaling(&self) -> Result<Scaling> {
        let key = self.key("rope.scaling.type");
        let linear = self.number("rope.scaling.factor")?.or(self.number("rope.scale_linear")?);
        let magnitude = self.number(MAGNITUDE)?.unwrap_or(1.0);
        match (self.gguf.text(&key)?, self.factors()?, linear) {
            (None | Some("none" | "linear"), None, _) if magnitude != 1.0 => Err(self.wrong(
                MAGNITUDE,
                format!("{magnitude} without factors for each frequency is not supported"),
            )),
            (Some("none"), None, _) => Ok(Scaling::Default),
            (None | Some("linear"), None, linear) => {
                Ok(linear.map_or(Scaling::Default, |factor| Scaling::Linear { factor }))
            }
            (None | Some("none" | "longrope"), Some(factors), None) => {
                Ok(Scaling::Factors { factors, magnitude })
            }
            (kind, factors, _) => {
                let with = if factors.is_some() { "with" } else { "without" };
                let message = format!("`{}` {with} factors for each frequency", kind.unwrap_or("linear"));
                Err(self.gguf.wrong(&key, format!("{message} is not supported (hint: none and linear are)")))
            }
        }
    }

    /// A factor of each pair's wavelength.
    fn factors(&self) -> Result<Option<Vec<f64>>> {
        let tensor = match (self.gguf.tensor(LLAMA3)?, self.gguf.tensor(SHORT)?) {
            (None, None) if self.gguf.dims(LONG).is_some() => return Err(self.gguf.wrong(SHORT, "missing")),
            (None, short) => short,
            (llama3, _) => llama3,
        };
        let Some(tensor) = tensor else { return Ok(None) };
        let factors: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
        Ok(Some(factors.into_iter().map(f64::from).collect()))
    }
}

/// What cos and sin are multiplied by.
const MAGNITUDE: &str = "rope.scaling.attn_factor";
/// What Llama 3's scaling comes to.
const LLAMA3: &str = "rope_freqs.weight";
/// phi3's factors for contexts up to those of the pre-training, and those for longer ones. Files with both are read up to the
/// former's length: beyond it, all tokens would turn in another way.
const SHORT: &str = "rope_factors_short.weight";
const LONG: &str = "rope_factors_long.weight";

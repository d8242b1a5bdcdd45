//! A GGUF file of the llama architecture: quantised tensors are expanded to f32 once, on loading.
//!
//! GGUF's llama layout interleaves the two rotary halves of each head, so rows of q and k are put back into Hugging
//! Face's order. Types that candle cannot expand are refused.

use super::Loaded;
use crate::{Error, Result, model::config::Config, text::Encoder};
use candle_core::{
    Device, Tensor,
    quantized::gguf_file::{Content, Value},
};
use std::{collections::BTreeMap, fs::File, io::BufReader, path::Path};

/// Configuration, and what turns text into tokens.
pub fn text(path: &Path) -> Result<(Config, Encoder)> {
    let (_, content) = content(path)?;
    Ok((Metadata { path, content: &content }.config()?, Encoder::from_gguf(path, &content)?))
}

/// The file, and its table of contents.
fn content(path: &Path) -> Result<(BufReader<File>, Content)> {
    let mut reader = BufReader::new(File::open(path).map_err(Error::io(path))?);
    let content = Content::read(&mut reader).map_err(|e| Error::file(path, unreadable(&e.to_string())))?;
    Ok((reader, content))
}

pub fn read(path: &Path) -> Result<Loaded> {
    let (mut reader, content) = content(path)?;
    let config = Metadata { path, content: &content }.config()?;
    let encoder = Encoder::from_gguf(path, &content)?;
    let mut tensors = BTreeMap::new();
    for name in content.tensor_infos.keys() {
        let wrong = |e: candle_core::Error| Error::file(path, format!("{name}: {e}"));
        let tensor = content.tensor(&mut reader, name, &Device::Cpu).map_err(wrong)?;
        let tensor = tensor.dequantize(&Device::Cpu).map_err(wrong)?;
        let (name, tensor) = renamed(name, tensor, &config)?;
        tensors.insert(name, tensor);
    }
    Ok(Loaded { encoder, tensors, config })
}

/// What is wrong with a file whose table of contents candle cannot read: a type that it does not know, or the table
/// itself. Of the error only the first line is shown; the rest is a backtrace.
fn unreadable(error: &str) -> String {
    let first = error.lines().next().unwrap_or_default();
    match first.strip_prefix("unknown dtype for tensor ").and_then(|id| id.trim().parse().ok()) {
        Some(id) => {
            let hint = "hint: convert it to F16, Q8_0, Q4_1 or a K-quant";
            format!("a tensor has the type {}, which is not supported ({hint})", type_name(id))
        }
        None => format!("not a whole GGUF file: {first}"),
    }
}

/// ggml's name of a tensor type that candle has no code for.
fn type_name(id: u32) -> String {
    const NAMES: [(u32, &str); 18] = [
        (16, "IQ2_XXS"),
        (17, "IQ2_XS"),
        (18, "IQ3_XXS"),
        (19, "IQ1_S"),
        (20, "IQ4_NL"),
        (21, "IQ3_S"),
        (22, "IQ2_S"),
        (23, "IQ4_XS"),
        (24, "I8"),
        (25, "I16"),
        (26, "I32"),
        (27, "I64"),
        (28, "F64"),
        (29, "IQ1_M"),
        (34, "TQ1_0"),
        (35, "TQ2_0"),
        (39, "MXFP4"),
        (40, "NVFP4"),
    ];
    let known = NAMES.iter().find(|(known, _)| *known == id);
    known.map_or_else(|| format!("number {id}"), |(_, name)| (*name).to_owned())
}

struct Metadata<'a> {
    path: &'a Path,
    content: &'a Content,
}

impl Metadata<'_> {
    fn config(&self) -> Result<Config> {
        match self.get("general.architecture") {
            Some(Value::String(name)) if name == "llama" => {}
            other => return Err(self.wrong("general.architecture", &format!("{other:?} is not supported"))),
        }
        self.unscaled_rope()?;
        let heads = self.size("llama.attention.head_count")?;
        let hidden_size = self.size("llama.embedding_length")?;
        let head_dim = match self.get("llama.rope.dimension_count") {
            Some(_) => self.size("llama.rope.dimension_count")?,
            None => hidden_size / heads.max(1),
        };
        let (layers, keys) = (self.size("llama.block_count")?, self.size("llama.attention.head_count_kv")?);
        let theta = self.number("llama.rope.freq_base")?;
        let config = Config {
            vocab_size: self.rows("token_embd.weight")?,
            hidden_size,
            intermediate_size: self.size("llama.feed_forward_length")?,
            norm_eps: self.number("llama.attention.layer_norm_rms_epsilon")?,
            max_length: self.size("llama.context_length")?,
            pad_token_id: match self.get("tokenizer.ggml.padding_token_id") {
                Some(_) => u32::try_from(self.size("tokenizer.ggml.padding_token_id")?).ok(),
                None => None,
            },
            ..Config::llama(layers, [heads, keys], head_dim, theta)
        };
        config.check().map_err(|e| Error::file(self.path, e))?;
        Ok(config)
    }

    /// Refuses what would turn the rotary angles in another way.
    fn unscaled_rope(&self) -> Result<()> {
        if self.content.tensor_infos.contains_key("rope_freqs.weight") {
            return Err(self.wrong("rope_freqs.weight", "scaled rotary frequencies are not supported"));
        }
        match self.get("llama.rope.scaling.type") {
            None => Ok(()),
            Some(Value::String(kind)) if kind == "none" => Ok(()),
            Some(kind) => Err(self.wrong("llama.rope.scaling.type", &format!("{kind:?} is not supported"))),
        }
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.content.metadata.get(key)
    }

    fn wrong(&self, key: &str, message: &str) -> Error {
        Error::file(self.path, format!("{key}: {message}"))
    }

    fn size(&self, key: &str) -> Result<usize> {
        let value = self.get(key).ok_or_else(|| self.wrong(key, "missing"))?;
        let number = value.to_u64().or_else(|_| value.to_u32().map(u64::from));
        number.map(|n| n as usize).map_err(|_| self.wrong(key, "expected a whole number"))
    }

    fn number(&self, key: &str) -> Result<f64> {
        let value = self.get(key).ok_or_else(|| self.wrong(key, "missing"))?;
        value.to_f32().map(f64::from).map_err(|_| self.wrong(key, "expected a number"))
    }

    fn rows(&self, tensor: &str) -> Result<usize> {
        let info = self.content.tensor_infos.get(tensor);
        info.and_then(|info| info.shape.dims().first().copied()).ok_or_else(|| self.wrong(tensor, "missing"))
    }
}

/// The tensor under Hugging Face's name, in Hugging Face's order of rows.
fn renamed(name: &str, tensor: Tensor, config: &Config) -> Result<(String, Tensor)> {
    let whole = match name {
        "token_embd.weight" => Some("model.embed_tokens.weight"),
        "output_norm.weight" => Some("model.norm.weight"),
        "output.weight" => Some("lm_head.weight"),
        _ => None,
    };
    if let Some(whole) = whole {
        return Ok((whole.to_owned(), tensor));
    }
    let parts: Vec<&str> = name.split('.').collect();
    let [_, layer, part, "weight"] = parts[..] else {
        return Ok((name.to_owned(), tensor));
    };
    let (module, heads) = match part {
        "attn_norm" => ("input_layernorm", None),
        "attn_q" => ("self_attn.q_proj", Some(config.heads)),
        "attn_k" => ("self_attn.k_proj", Some(config.kv_heads)),
        "attn_v" => ("self_attn.v_proj", None),
        "attn_output" => ("self_attn.o_proj", None),
        "ffn_norm" => ("post_attention_layernorm", None),
        "ffn_gate" => ("mlp.gate_proj", None),
        "ffn_up" => ("mlp.up_proj", None),
        "ffn_down" => ("mlp.down_proj", None),
        _ => return Ok((name.to_owned(), tensor)),
    };
    let tensor = match heads {
        Some(heads) => halves_apart(tensor, heads)?,
        None => tensor,
    };
    Ok((format!("model.layers.{layer}.{module}.weight"), tensor))
}

/// Rows (pair 0 first, pair 0 second, pair 1 first, …) of each head -> (all first, all second).
fn halves_apart(tensor: Tensor, heads: usize) -> Result<Tensor> {
    let (rows, columns) = match tensor.dims2() {
        Ok((rows, columns)) if rows % (2 * heads) == 0 => (rows, columns),
        // Misshaped: reported with the others.
        _ => return Ok(tensor),
    };
    // (H, D / 2, 2, C) -> (H, 2, D / 2, C)
    let split = tensor.reshape((heads, rows / heads / 2, 2, columns))?;
    Ok(split.transpose(1, 2)?.contiguous()?.reshape((rows, columns))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: &[u8]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        std::fs::write(&path, bytes).unwrap();
        let message = read(&path).err().unwrap().to_string();
        assert!(message.contains("model.gguf: ") && !message.contains('\n'), "{message}");
        message
    }

    /// A file with this metadata and no tensor.
    fn with(metadata: &[(&str, &str)]) -> Vec<u8> {
        let values: Vec<(&str, Value)> =
            metadata.iter().map(|(key, value)| (*key, Value::String((*value).into()))).collect();
        let values: Vec<(&str, &Value)> = values.iter().map(|(key, value)| (*key, value)).collect();
        let mut file = std::io::Cursor::new(Vec::new());
        candle_core::quantized::gguf_file::write(&mut file, &values, &[]).unwrap();
        file.into_inner()
    }

    #[test]
    fn a_type_that_is_not_supported_is_named() {
        // Version 3, one tensor, no metadata; the tensor "w" has one dimension of 32, type 20, offset 0.
        let mut file = b"GGUF".to_vec();
        file.extend(3u32.to_le_bytes());
        file.extend([1u64, 0, 1].into_iter().flat_map(u64::to_le_bytes));
        file.push(b'w');
        file.extend(1u32.to_le_bytes());
        file.extend(32u64.to_le_bytes());
        file.extend(20u32.to_le_bytes());
        file.extend(0u64.to_le_bytes());
        assert!(message(&file).contains("a tensor has the type IQ4_NL, which is not supported"));
    }

    #[test]
    fn what_is_not_a_whole_llama_file_is_refused() {
        let llama = ("general.architecture", "llama");
        assert!(message(b"GGUF").contains("not a whole GGUF file"));
        assert!(message(&with(&[llama])[..40]).contains("not a whole GGUF file"));
        assert!(message(&with(&[("general.architecture", "mamba")])).contains("general.architecture: "));
        assert!(message(&with(&[llama])).contains("llama.attention.head_count: missing"));
        let scaled = with(&[llama, ("llama.rope.scaling.type", "yarn")]);
        assert!(message(&scaled).contains("llama.rope.scaling.type: String(\"yarn\") is not supported"));
    }
}

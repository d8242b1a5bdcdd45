//! Tensors of a GGUF file under Hugging Face's names, and in its order.

use super::Architecture;
use crate::{
    Result,
    gguf::Gguf,
    model::{
        checkpoint::{HEAD, Named},
        config::{Config, names::Names},
        site::Projection,
    },
};
use candle_core::Tensor;

/// Tensors that became a part of the configuration.
const CONFIGURATION: [&str; 3] =
    ["rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"];
/// A layer of its own before the head's, where there are both.
const HIDDEN: &str = "cls.weight";
const OUTPUT: &str = "cls.output.weight";

/// Where the tensors of an architecture belong.
pub struct Layout<'a> {
    architecture: &'static Architecture,
    config: &'a Config,
}

/// What is done to a tensor.
enum Change {
    None,
    /// The halves of this many heads are put apart.
    Apart(usize),
    /// The norms' offset is taken off.
    Offset,
}

impl<'a> Layout<'a> {
    pub fn new(architecture: &'static Architecture, config: &'a Config) -> Self {
        Self { architecture, config }
    }

    /// All tensors of a file, as a Hugging Face checkpoint holds them.
    pub fn tensors(&self, gguf: &Gguf) -> Result<Named> {
        if gguf.dims(HIDDEN).is_some() && gguf.dims(OUTPUT).is_some() {
            return Err(gguf.wrong(HIDDEN, format!("a layer before {OUTPUT} is not supported")));
        }
        let mut tensors = Named::new();
        for name in gguf.tensors().filter(|name| !CONFIGURATION.contains(name)) {
            let tensor = gguf.required(name, gguf.tensor(name)?)?;
            for (name, tensor) in self.split(name, tensor)? {
                let (name, change) = self.place(&name);
                let wrong = |e: candle_core::Error| gguf.wrong(&name, e);
                tensors.insert(name.clone(), self.changed(tensor, change).map_err(wrong)?);
            }
        }
        Ok(tensors)
    }

    /// Queries, keys and values that a file has below each other and the family has apart.
    fn split(&self, name: &str, tensor: Tensor) -> Result<Vec<(String, Tensor)>> {
        let (queries, keys) = self.config.head_rows();
        let fused = name.contains(".attn_qkv.") && self.module("attn_qkv").is_none();
        if !fused || tensor.dim(0)? != queries + 2 * keys {
            return Ok(vec![(name.to_owned(), tensor)]);
        }
        let parts = [("attn_q", 0, queries), ("attn_k", queries, keys), ("attn_v", queries + keys, keys)];
        let part = |(part, start, rows)| {
            Ok((name.replace("attn_qkv", part), tensor.narrow(0, start, rows)?.contiguous()?))
        };
        parts.into_iter().map(part).collect()
    }

    /// Hugging Face's name of a tensor, and what makes it Hugging Face's; other names stay.
    fn place(&self, name: &str) -> (String, Change) {
        let names = self.config.names;
        let whole = match name {
            "token_embd.weight" => Some((names.embedding.to_owned(), Change::None)),
            "output_norm.weight" => Some((format!("{}.weight", names.norm), Change::Offset)),
            "output.weight" => Some(("lm_head.weight".to_owned(), Change::None)),
            OUTPUT | HIDDEN => Some((HEAD[0].to_owned(), Change::None)),
            "cls.output.bias" | "cls.bias" => Some((HEAD[1].to_owned(), Change::None)),
            _ => None,
        };
        let of_layer = || {
            let [_, layer, part, kind] = name.split('.').collect::<Vec<_>>().try_into().ok()?;
            let (module, change) = match self.module(part) {
                Some(module) => (module, self.rows(part)),
                None => (norm(names, part)?, Change::Offset),
            };
            Some((format!("{}.{layer}.{module}.{kind}", names.layers), change))
        };
        whole.or_else(of_layer).unwrap_or_else(|| (name.to_owned(), Change::None))
    }

    /// The linear layer that a part of a layer is.
    fn module(&self, part: &str) -> Option<&'static str> {
        let mut projections = self.config.names.linears.iter().copied().flatten();
        projections
            .find(|projection| linear(**projection) == Some(part))
            .map(|projection| projection.module())
    }

    fn rows(&self, part: &str) -> Change {
        match part {
            "attn_q" if self.architecture.interleaved => Change::Apart(self.config.heads),
            "attn_k" if self.architecture.interleaved => Change::Apart(self.config.kv_heads),
            _ => Change::None,
        }
    }

    fn changed(&self, tensor: Tensor, change: Change) -> candle_core::Result<Tensor> {
        match change {
            Change::None => Ok(tensor),
            Change::Apart(heads) => halves_apart(tensor, heads),
            Change::Offset if self.architecture.norm_offset == 0.0 => Ok(tensor),
            Change::Offset => tensor - self.architecture.norm_offset,
        }
    }
}

/// What GGUF calls a linear layer.
fn linear(projection: Projection) -> Option<&'static str> {
    match projection {
        Projection::Q => Some("attn_q"),
        Projection::K => Some("attn_k"),
        Projection::V => Some("attn_v"),
        Projection::Qkv => Some("attn_qkv"),
        Projection::O => Some("attn_output"),
        Projection::Gate => Some("ffn_gate"),
        Projection::Up | Projection::GateUp => Some("ffn_up"),
        Projection::Down => Some("ffn_down"),
        _ => None,
    }
}

/// The norm that GGUF calls `part`: it names them by the place where they act.
fn norm(names: &Names, part: &str) -> Option<&'static str> {
    let [queries, keys] = names.queries_and_keys;
    match part {
        "attn_norm" => names.norms.attention_in,
        "post_attention_norm" => names.norms.attention_out,
        "ffn_norm" => names.norms.mlp_in,
        "post_ffw_norm" => names.norms.mlp_out,
        "attn_q_norm" => Some(queries),
        "attn_k_norm" => Some(keys),
        _ => None,
    }
}

/// Rows (pair 0 first, pair 0 second, pair 1 first, …) of each head -> (all first, all second).
fn halves_apart(tensor: Tensor, heads: usize) -> candle_core::Result<Tensor> {
    let (dims, rows) = (tensor.dims().to_vec(), tensor.dim(0)?);
    if !rows.is_multiple_of(2 * heads) {
        // Misshaped: reported with the others.
        return Ok(tensor);
    }
    // (H, D / 2, 2, C) -> (H, 2, D / 2, C)
    let split = tensor.reshape((heads, rows / heads / 2, 2, ()))?;
    split.transpose(1, 2)?.contiguous()?.reshape(dims)
}

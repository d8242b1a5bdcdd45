//! Tensors of a GGUF file under Hugging Face's names, and in its order.

use super::Architecture;
use crate::{
    Result,
    gguf::Gguf,
    model::{
        checkpoint::{HEAD, tensors::all_finite},
        config::{Config, names::Names},
        site::Projection,
    },
};
use candle_core::Tensor;
use std::{collections::BTreeMap, ops::Range, sync::Arc};

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
#[derive(Debug, Clone, Copy)]
enum Change {
    None,
    /// The halves of this many heads are put apart.
    Apart(usize),
    /// This is taken off.
    Offset(f64),
}

/// A tensor of a checkpoint that is expanded when it is asked for.
#[derive(Debug, Clone)]
pub struct Packed {
    gguf: Arc<Gguf>,
    /// In the file.
    name: String,
    /// Which of its rows, where they are not all.
    rows: Option<Range<usize>>,
    change: Change,
    pub shape: Vec<usize>,
}

impl Packed {
    /// In f32, free of NaN and infinities.
    pub fn read(&self) -> Result<Tensor> {
        let whole = self.gguf.required(&self.name, self.gguf.tensor(&self.name)?)?;
        if !all_finite(&whole)? {
            return Err(self.gguf.wrong(&self.name, "holds a number that is not finite"));
        }
        self.changed(whole).map_err(|e| self.gguf.wrong(&self.name, e))
    }

    fn changed(&self, whole: Tensor) -> candle_core::Result<Tensor> {
        let tensor = match &self.rows {
            Some(rows) => whole.narrow(0, rows.start, rows.len())?.contiguous()?,
            None => whole,
        };
        match self.change {
            Change::None => Ok(tensor),
            Change::Apart(heads) => halves_apart(tensor, heads),
            Change::Offset(offset) => tensor - offset,
        }
    }
}

impl<'a> Layout<'a> {
    pub fn new(architecture: &'static Architecture, config: &'a Config) -> Self {
        Self { architecture, config }
    }

    /// All tensors of a file, as a Hugging Face checkpoint holds them.
    pub fn tensors(&self, gguf: &Arc<Gguf>) -> Result<BTreeMap<String, Packed>> {
        if gguf.dims(HIDDEN).is_some() && gguf.dims(OUTPUT).is_some() {
            return Err(gguf.wrong(HIDDEN, format!("a layer before {OUTPUT} is not supported")));
        }
        let mut tensors = BTreeMap::new();
        for name in gguf.tensors().filter(|name| !CONFIGURATION.contains(name)) {
            let dims = gguf.dims(name).unwrap_or_default();
            for (part, rows) in self.split(name, dims) {
                let (placed, change) = self.place(&part);
                let mut shape = dims.to_vec();
                if let (Some(rows), Some(first)) = (&rows, shape.first_mut()) {
                    *first = rows.len();
                }
                let packed = Packed { gguf: Arc::clone(gguf), name: name.to_owned(), rows, change, shape };
                tensors.insert(placed, packed);
            }
        }
        Ok(tensors)
    }

    /// Queries, keys and values that a file has below each other and the family has apart, and the rows of each.
    fn split(&self, name: &str, dims: &[usize]) -> Vec<(String, Option<Range<usize>>)> {
        let (queries, keys) = self.config.head_rows();
        let all = queries + 2 * keys;
        let fused = name.contains(".attn_qkv.") && self.module("attn_qkv").is_none();
        if !fused || dims.first() != Some(&all) {
            return vec![(name.to_owned(), None)];
        }
        let parts =
            [("attn_q", 0..queries), ("attn_k", queries..queries + keys), ("attn_v", queries + keys..all)];
        parts.map(|(part, rows)| (name.replace("attn_qkv", part), Some(rows))).into()
    }

    /// Hugging Face's name of a tensor, and what makes it Hugging Face's; other names stay.
    fn place(&self, name: &str) -> (String, Change) {
        let names = self.config.names;
        let whole = match name {
            "token_embd.weight" => Some((names.embedding.to_owned(), Change::None)),
            "output_norm.weight" => Some((format!("{}.weight", names.norm), self.offset())),
            "output.weight" => Some(("lm_head.weight".to_owned(), Change::None)),
            OUTPUT | HIDDEN => Some((HEAD[0].to_owned(), Change::None)),
            "cls.output.bias" | "cls.bias" => Some((HEAD[1].to_owned(), Change::None)),
            _ => None,
        };
        let of_layer = || {
            let [_, layer, part, kind] = name.split('.').collect::<Vec<_>>().try_into().ok()?;
            let (module, change) = match self.module(part) {
                Some(module) => (module, self.rows(part)),
                None => (norm(names, part)?, self.offset()),
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

    /// What makes a norm's weight Hugging Face's.
    fn offset(&self) -> Change {
        match self.architecture.norm_offset {
            0.0 => Change::None,
            offset => Change::Offset(offset),
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

//! What the parts of a decoder are called in a checkpoint, by the layout that a family uses.

use crate::model::site::Projection::{self, *};

/// Names of tensors and modules, and which layers are one matrix.
#[derive(Debug, PartialEq, Eq)]
pub struct Names {
    pub embedding: &'static str,
    /// The last norm.
    pub norm: &'static str,
    /// Before the number of a layer.
    pub layers: &'static str,
    /// Linear layers that read the same input: of the attention's input, its output, the MLP's input, its output.
    pub linears: [&'static [Projection]; 4],
    /// Norms of a layer, by the place where they act.
    pub norms: Norms<Option<&'static str>>,
    /// Norms of queries and keys, where a model has them.
    pub queries_and_keys: [&'static str; 2],
}

impl Names {
    /// The module of the token embedding.
    pub fn embedding_module(&self) -> &'static str {
        self.embedding.trim_end_matches(".weight")
    }
}

/// What a mixture of experts is called within a layer.
#[derive(Debug, PartialEq, Eq)]
pub struct ExpertNames {
    pub router: &'static str,
    /// Before the number of an expert.
    pub experts: &'static str,
    pub gate_up: [&'static str; 2],
    pub down: &'static str,
}

impl ExpertNames {
    /// The weight of one of an expert's linear layers.
    pub fn weight(&self, of_layer: &str, expert: usize, linear: &str) -> String {
        format!("{of_layer}.{}.{expert}.{linear}.weight", self.experts)
    }
}

/// Something for each place in a layer where a norm may act.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Norms<T> {
    /// Before the attention, and on what it adds to the residual.
    pub attention_in: T,
    pub attention_out: T,
    /// Before the MLP, and on what it adds.
    pub mlp_in: T,
    pub mlp_out: T,
}

impl<T> Norms<T> {
    /// What `f` makes of each.
    pub fn try_map<U, E>(self, mut f: impl FnMut(T) -> Result<U, E>) -> Result<Norms<U>, E> {
        Ok(Norms {
            attention_in: f(self.attention_in)?,
            attention_out: f(self.attention_out)?,
            mlp_in: f(self.mlp_in)?,
            mlp_out: f(self.mlp_out)?,
        })
    }
}

/// q, k and v; o; gate and up; down.
const APART: [&[Projection]; 4] = [&[Q, K, V], &[O], &[Gate, Up], &[Down]];

/// Llama, Mistral, Qwen2 and Qwen3: a norm before the attention and one before the MLP.
pub const LLAMA: Names = Names {
    embedding: "model.embed_tokens.weight",
    norm: "model.norm",
    layers: "model.layers",
    linears: APART,
    norms: Norms {
        attention_in: Some("input_layernorm"),
        attention_out: None,
        mlp_in: Some("post_attention_layernorm"),
        mlp_out: None,
    },
    queries_and_keys: ["self_attn.q_norm", "self_attn.k_norm"],
};

/// Phi-3: as llama, with q, k and v in one matrix, and gate and up in one.
pub const PHI3: Names = Names { linears: [&[Qkv], &[O], &[GateUp], &[Down]], ..LLAMA };

/// Families with experts: as llama, with updates of the attention alone.
pub const MIXTURE: Names = Names { linears: [&[Q, K, V], &[O], &[], &[]], ..LLAMA };

pub const QWEN3_EXPERTS: ExpertNames = ExpertNames {
    router: "mlp.gate",
    experts: "mlp.experts",
    gate_up: ["gate_proj", "up_proj"],
    down: "down_proj",
};

pub const MIXTRAL_EXPERTS: ExpertNames = ExpertNames {
    router: "block_sparse_moe.gate",
    experts: "block_sparse_moe.experts",
    gate_up: ["w1", "w3"],
    down: "w2",
};

/// Gemma 2 and 3: norms before and behind both.
pub const GEMMA: Names = Names {
    norms: Norms {
        attention_in: Some("input_layernorm"),
        attention_out: Some("post_attention_layernorm"),
        mlp_in: Some("pre_feedforward_layernorm"),
        mlp_out: Some("post_feedforward_layernorm"),
    },
    ..LLAMA
};

/// OLMo 2: norms behind both, and none before.
pub const OLMO2: Names = Names {
    norms: Norms {
        attention_in: None,
        attention_out: Some("post_attention_layernorm"),
        mlp_in: None,
        mlp_out: Some("post_feedforward_layernorm"),
    },
    ..LLAMA
};

/// GPT-NeoX: queries, keys and values of a head beside each other in one matrix; no gate.
pub const GPT_NEOX: Names = Names {
    embedding: "gpt_neox.embed_in.weight",
    norm: "gpt_neox.final_layer_norm",
    layers: "gpt_neox.layers",
    linears: [&[QueryKeyValue], &[Dense], &[HTo4H], &[FourHToH]],
    ..LLAMA
};

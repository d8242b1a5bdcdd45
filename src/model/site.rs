//! Names of the linear layers that an adapter may change.

use super::config::{
    Config,
    names::{GPT_NEOX, LLAMA},
};
use std::fmt;

/// One linear layer of a decoder block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Projection {
    Q,
    K,
    V,
    O,
    Gate,
    Up,
    Down,
    /// Q, K and V below each other.
    Qkv,
    /// Gate and up below each other.
    GateUp,
    /// GPT-NeoX's queries, keys and values, head by head, and its other layers.
    QueryKeyValue,
    Dense,
    HTo4H,
    FourHToH,
}

impl Projection {
    pub const ALL: [Self; 13] = [
        Self::Q,
        Self::K,
        Self::V,
        Self::O,
        Self::Gate,
        Self::Up,
        Self::Down,
        Self::Qkv,
        Self::GateUp,
        Self::QueryKeyValue,
        Self::Dense,
        Self::HTo4H,
        Self::FourHToH,
    ];

    /// The module's name within the layer, as in a checkpoint.
    pub fn module(self) -> &'static str {
        match self {
            Self::Q => "self_attn.q_proj",
            Self::K => "self_attn.k_proj",
            Self::V => "self_attn.v_proj",
            Self::O => "self_attn.o_proj",
            Self::Gate => "mlp.gate_proj",
            Self::Up => "mlp.up_proj",
            Self::Down => "mlp.down_proj",
            Self::Qkv => "self_attn.qkv_proj",
            Self::GateUp => "mlp.gate_up_proj",
            Self::QueryKeyValue => "attention.query_key_value",
            Self::Dense => "attention.dense",
            Self::HTo4H => "mlp.dense_h_to_4h",
            Self::FourHToH => "mlp.dense_4h_to_h",
        }
    }

    /// The last part of the module's name, as in `target_modules`.
    pub fn name(self) -> &'static str {
        self.module().rsplit('.').next().unwrap_or_default()
    }

    /// (d_out, d_in) of its weights.
    pub fn shape(self, config: &Config) -> (usize, usize) {
        let (hidden, wide) = (config.hidden_size, config.intermediate_size);
        let (queries, keys) = config.head_rows();
        match self {
            Self::Q => (queries, hidden),
            Self::K | Self::V => (keys, hidden),
            Self::Qkv | Self::QueryKeyValue => (queries + 2 * keys, hidden),
            Self::O | Self::Dense => (hidden, queries),
            Self::Gate | Self::Up | Self::HTo4H => (wide, hidden),
            Self::GateUp => (2 * wide, hidden),
            Self::Down | Self::FourHToH => (hidden, wide),
        }
    }

    /// Where a decoder's layers are that have it.
    fn layers(self) -> &'static str {
        match self {
            Self::QueryKeyValue | Self::Dense | Self::HTo4H | Self::FourHToH => GPT_NEOX.layers,
            _ => LLAMA.layers,
        }
    }
}

/// Block name of the reward head: its PEFT tensor less `.weight`.
pub const HEAD: &str = "base_model.model.score";

/// One of the two matrices of a low-rank update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Factor {
    A,
    B,
}

/// A place where an adapter may act: one projection of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Site {
    pub layer: usize,
    pub projection: Projection,
}

impl Site {
    /// Every linear layer of a decoder.
    pub fn all(config: &Config) -> impl Iterator<Item = Self> {
        let projections: Vec<Projection> = config.names.linears.concat();
        (0..config.layers).flat_map(move |layer| {
            projections.clone().into_iter().map(move |projection| Self { layer, projection })
        })
    }

    /// Block name of one of its factors: the PEFT tensor less `.weight`.
    pub fn block(&self, factor: Factor) -> String {
        let factor = match factor {
            Factor::A => "lora_A",
            Factor::B => "lora_B",
        };
        format!("base_model.model.{self}.{factor}")
    }
}

impl fmt::Display for Site {
    /// The module's name in the checkpoint: `model.layers.0.self_attn.q_proj`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { layer, projection } = self;
        write!(f, "{}.{layer}.{}", projection.layers(), projection.module())
    }
}

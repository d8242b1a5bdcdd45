//! Names of the linear layers that an adapter may change.

use super::config::Config;
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
}

impl Projection {
    pub const ALL: [Self; 7] = [Self::Q, Self::K, Self::V, Self::O, Self::Gate, Self::Up, Self::Down];

    /// Layers that read the same input, and are therefore computed as one.
    pub const TOGETHER: [&'static [Self]; 4] =
        [&[Self::Q, Self::K, Self::V], &[Self::O], &[Self::Gate, Self::Up], &[Self::Down]];

    /// The last part of the module's name in a checkpoint, as in `target_modules`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q => "q_proj",
            Self::K => "k_proj",
            Self::V => "v_proj",
            Self::O => "o_proj",
            Self::Gate => "gate_proj",
            Self::Up => "up_proj",
            Self::Down => "down_proj",
        }
    }

    /// (d_out, d_in) of its weights.
    pub fn shape(self, config: &Config) -> (usize, usize) {
        let (hidden, wide) = (config.hidden_size, config.intermediate_size);
        let (queries, keys) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        match self {
            Self::Q => (queries, hidden),
            Self::K | Self::V => (keys, hidden),
            Self::O => (hidden, queries),
            Self::Gate | Self::Up => (wide, hidden),
            Self::Down => (hidden, wide),
        }
    }

    /// The sub-module of the decoder layer that holds it.
    fn parent(self) -> &'static str {
        match self {
            Self::Q | Self::K | Self::V | Self::O => "self_attn",
            Self::Gate | Self::Up | Self::Down => "mlp",
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
        write!(f, "model.layers.{layer}.{}.{}", projection.parent(), projection.name())
    }
}

//! The Laplace posterior over the trainable matrices, block by block (Yang et al., ICLR 2024).
//!
//! A *block* is one trainable matrix, d_out x d_in, and J_b its gradient for one reward, of the same shape. Its posterior
//! precision is U S U^T + lambda I in a Kronecker eigenbasis, so that the covariance of two rewards is a sum over blocks:
//!
//! ```text
//! q = U_o^T J U_i      cov_b(a, b) = sum_ij qa_ij qb_ij / (S_ij + lambda) + residual of the truncated side
//! ```
//!
//! [`block`] computes that sum, [`mod@sketch`] does without the independence of blocks that it assumes, and [`walk`] takes the
//! gradients of either as a backward shows them. [`store`] reads and writes the file, [`fit`] accumulates S over preference
//! pairs and [`evidence`] chooses lambda. Nothing here knows the model: blocks have names and shapes, gradients arrive as tensors.

pub mod block;
mod check;
pub mod config;
pub mod evidence;
pub mod fit;
mod frame;
mod novelty;
pub mod oracle;
pub mod parts;
pub mod prior;
pub mod sketch;
pub mod store;
pub mod walk;

use candle_core::Device;
use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::{evaluate::verdicts::Verdict, score::rule::Calibration};

pub use block::Block;
pub use check::Target;
pub use config::FitConfig;
pub(crate) use frame::long_last;
pub use novelty::Novelty;
pub use parts::Parts;
pub use prior::Prior;
pub use sketch::Sketch;
pub use walk::{Vectors, Walk, Wanted};

/// Everything that `posterior.safetensors` holds.
#[derive(Debug, Clone)]
pub struct Posterior {
    pub form: Form,
    /// How it was fitted; `None` in files that other programs wrote without saying so.
    pub config: Option<FitConfig>,
}

/// What is taken to be correlated with what.
#[derive(Debug, Clone)]
pub enum Form {
    /// Separate blocks, by name: the PEFT tensor's name less `.weight`.
    Blocks(BTreeMap<String, Block>),
    /// All blocks together, in a random projection.
    Sketch(Sketch),
}

impl Posterior {
    /// Separate blocks.
    pub fn of_blocks(blocks: BTreeMap<String, Block>, config: Option<FitConfig>) -> Self {
        Self { form: Form::Blocks(blocks), config }
    }

    /// The separate blocks of a posterior that has some.
    pub fn blocks(&self) -> Option<&BTreeMap<String, Block>> {
        match &self.form {
            Form::Blocks(blocks) => Some(blocks),
            Form::Sketch(_) => None,
        }
    }

    /// The same on the device where gradients are.
    pub fn to_device(self, device: &Device) -> crate::Result<Self> {
        let form = match self.form {
            Form::Sketch(sketch) => Form::Sketch(sketch.to_device(device)?),
            Form::Blocks(blocks) => {
                let moved = blocks.into_iter().map(|(name, block)| Ok((name, block.to_device(device)?)));
                Form::Blocks(moved.collect::<crate::Result<_>>()?)
            }
        };
        Ok(Self { form, ..self })
    }

    /// What tells how unusual an answer is, where pairs were held out of the fit.
    pub fn novelty(&self) -> Option<Novelty> {
        Novelty::new(self.config.as_ref()?.quantiles.as_ref()?)
    }

    /// The held-out verdicts that the fit stored.
    pub fn verdicts(&self) -> Vec<Verdict> {
        let held_out = self.config.as_ref().and_then(|config| config.held_out.as_ref());
        held_out.map(|held_out| held_out.verdicts.clone()).unwrap_or_default()
    }

    /// What the fit stored for penalties.
    pub fn calibration(&self) -> Calibration {
        self.config.as_ref().map(FitConfig::calibration).unwrap_or_default()
    }
}

/// What a block is within the adapter; blocks of one kind share a prior precision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum BlockKind {
    /// The down projection of a low-rank update, r x d_in.
    A,
    /// The up projection of a low-rank update, d_out x r.
    B,
    /// The reward head, 1 x d.
    #[serde(rename = "head")]
    Head,
}

impl BlockKind {
    pub const ALL: [Self; 3] = [Self::A, Self::B, Self::Head];

    /// Reads the kind off the last part of a block's dotted name; `None` for any other name.
    pub fn of(name: &str) -> Option<Self> {
        match name.rsplit('.').next()? {
            "lora_A" => Some(Self::A),
            "lora_B" => Some(Self::B),
            "score" => Some(Self::Head),
            _ => None,
        }
    }
}

impl fmt::Display for BlockKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "A",
            Self::B => "B",
            Self::Head => "head",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kind_is_the_last_part_of_the_name() {
        let cases = [
            ("base_model.model.model.layers.0.self_attn.q_proj.lora_A", Some(BlockKind::A)),
            ("base_model.model.model.layers.0.self_attn.q_proj.lora_B", Some(BlockKind::B)),
            ("base_model.model.score", Some(BlockKind::Head)),
            ("base_model.model.score.lora_A", Some(BlockKind::A)),
            ("base_model.model.my_score", None),
            ("base_model.model.lora_A.weight", None),
            ("", None),
        ];
        for (name, kind) in cases {
            assert_eq!(BlockKind::of(name), kind, "{name}");
        }
    }

    #[test]
    fn kind_is_written_as_it_is_displayed() {
        for kind in BlockKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.to_string());
        }
    }
}

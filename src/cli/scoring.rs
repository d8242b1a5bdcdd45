//! How scores are computed: `--compute` and `--deterministic`.

use crate::{
    Error, Result,
    score::{Sharing, Want},
};
use clap::ValueEnum;

/// The type that the frozen weights are multiplied in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Compute {
    /// Single precision.
    #[default]
    F32,
    /// Weights and activations in eight bits: means only, faster and less exact.
    Int8,
}

/// Flags of every command that scores.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ScoringArgs {
    /// Type that the frozen weights are multiplied in
    #[arg(long, value_enum, default_value = "f32", env = "REWARDEN_COMPUTE")]
    pub compute: Compute,
    /// Computes every sequence alone, so that its score does not depend on the batch to the last bit
    #[arg(long, env = "REWARDEN_DETERMINISTIC")]
    pub deterministic: bool,
}

impl ScoringArgs {
    pub fn sharing(&self) -> Sharing {
        if self.deterministic { Sharing::Alone } else { Sharing::Shared }
    }

    /// What there can be of what is wanted: eight bits give no variances.
    pub fn able(&self, want: Want) -> Want {
        match self.compute {
            Compute::F32 => want,
            Compute::Int8 => Want::Mean,
        }
    }

    /// Refuses to go without what is wanted.
    pub fn check(&self, want: Want) -> Result<()> {
        match self.able(want) == want {
            true => Ok(()),
            false => {
                Err(Error::Usage("`--compute int8` gives means only (hint: add `--no-variance`)".into()))
            }
        }
    }
}

//! How scores are computed: `--compute`, `--activation-memory` and `--deterministic`.

use super::{device::free_memory, model::BaseArgs};
use crate::{
    Error, Result,
    model::ACTIVATION_BYTES,
    score::{Sharing, Want},
};
use candle_core::{DType, Device};
use clap::{ValueEnum, builder::RangedU64ValueParser};

/// The type that the frozen weights are multiplied in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Compute {
    /// Single precision.
    #[default]
    F32,
    /// Half precision with the exponents of single precision; norms, attention, head and gradients stay in single precision.
    Bf16,
    /// The same with more digits and a smaller range.
    F16,
    /// Weights and activations in eight bits: means only, faster and less exact.
    Int8,
}

/// Flags of every command that scores.
#[derive(Debug, Clone, clap::Args)]
pub struct ScoringArgs {
    /// Type that the frozen weights are multiplied in
    #[arg(long, value_enum, default_value = "f32", env = "REWARDEN_COMPUTE")]
    pub compute: Compute,
    /// MiB of activations that are kept for a variance; those of a longer sequence are computed a second time [default: 448; on a
    /// CUDA device half of what the model leaves free]
    #[arg(long, value_name = "MIB", value_parser = RangedU64ValueParser::<usize>::new().range(1..=1 << 20))]
    #[arg(env = "REWARDEN_ACTIVATION_MEMORY")]
    pub activation_memory: Option<usize>,
    /// Computes every sequence alone, so that its score does not depend on the batch to the last bit
    #[arg(long, env = "REWARDEN_DETERMINISTIC")]
    pub deterministic: bool,
}

/// Where and in which type a model computes.
#[derive(Debug, Clone)]
pub struct Backend {
    pub device: Device,
    pub dtype: DType,
}

impl ScoringArgs {
    /// Bytes of activations that a model on `device` keeps.
    pub fn activation_bytes(&self, device: &Device) -> usize {
        let given = self.activation_memory.map(|mib| mib << 20);
        given.or_else(|| Some(free_memory(device)? / 2)).unwrap_or(ACTIVATION_BYTES)
    }

    /// Opens the device of `base`, which must be able to compute what is asked.
    pub fn backend(&self, base: &BaseArgs) -> Result<Backend> {
        let device = base.device()?;
        let dtype = match self.compute {
            Compute::Int8 if !device.is_cpu() => {
                return Err(Error::Usage(
                    "`--compute int8` is for the CPU (hint: add `--device cpu`)".into(),
                ));
            }
            Compute::F32 | Compute::Int8 => DType::F32,
            Compute::Bf16 => DType::BF16,
            Compute::F16 => DType::F16,
        };
        Ok(Backend { device, dtype })
    }

    pub fn sharing(&self) -> Sharing {
        if self.deterministic { Sharing::Alone } else { Sharing::Shared }
    }

    /// What there can be of what is wanted: eight bits give no variances.
    pub fn able(&self, want: Want) -> Want {
        match self.compute {
            Compute::F32 | Compute::Bf16 | Compute::F16 => want,
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

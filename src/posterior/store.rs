//! The file `posterior.safetensors`. Version 1 holds separate blocks:
//!
//! ```text
//! <block>.input_basis   (d_in, k_in)      <block>.curvature        (k_out, k_in)
//! <block>.output_basis  (d_out, k_out)    <block>.prior_precision  (1)
//! <block>.tail          optional: (k_out) or (k_in), where the other side is truncated
//! ```
//!
//! Version 2 holds a sketch of all blocks together ([`crate::posterior::sketch`]):
//!
//! ```text
//! curvature        (m (m + 1) / 2)   H, the rows of its lower triangle one after the other
//! prior_precision  (slots)           lambda of each slot
//! ```
//!
//! and `layout` in its metadata: JSON with the seed and, for each slot, its kind, number of features and blocks with their
//! shapes. f32 or f64; the metadata say `format` = `laplace-lora`, `version` and, in files that `fit` writes, `config`.
//! Reading reports everything that is wrong at once; writing is deterministic and replaces the file in one step.

mod read;
mod write;

use std::{fmt, path::Path};

use super::{Posterior, Target};
use crate::{Error, Result};
use read::Contents;

/// Name of the file in the adapter's folder.
pub const FILE: &str = "posterior.safetensors";

const FORMAT: &str = "laplace-lora";
const VERSION: &str = "1";
const SKETCH_VERSION: &str = "2";

/// Tensors of version 2, and the entry of its metadata that says which features are which blocks'.
const CURVATURE: &str = "curvature";
const PRIOR_PRECISION: &str = "prior_precision";
const LAYOUT: &str = "layout";

/// Largest file that is read, in bytes.
const LARGEST: u64 = 4 << 30;

/// One of the tensors that a block is stored as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Field {
    InputBasis,
    OutputBasis,
    Curvature,
    PriorPrecision,
    Tail,
}

impl Field {
    const REQUIRED: [Self; 4] = [Self::InputBasis, Self::OutputBasis, Self::Curvature, Self::PriorPrecision];

    fn name(self) -> &'static str {
        match self {
            Self::InputBasis => "input_basis",
            Self::OutputBasis => "output_basis",
            Self::Curvature => "curvature",
            Self::PriorPrecision => "prior_precision",
            Self::Tail => "tail",
        }
    }

    fn of(name: &str) -> Option<Self> {
        Self::REQUIRED.into_iter().chain([Self::Tail]).find(|field| field.name() == name)
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Posterior {
    /// Reads a posterior on its own; [`Posterior::load_for`] also holds it against an adapter.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let Contents { posterior, problems, .. } = read::contents(path)?;
        refuse(path, &problems)?;
        Ok(posterior)
    }

    /// Reads the posterior of an adapter, with warnings; everything that is wrong with either is one error.
    pub fn load_for(path: impl AsRef<Path>, target: Target) -> Result<(Self, Vec<String>)> {
        let path = path.as_ref();
        let Contents { posterior, mut problems, claimed } = read::contents(path)?;
        problems.extend(target.problems(&claimed, posterior.config.as_ref()));
        refuse(path, &problems)?;
        let warnings = target.warnings(posterior.config.as_ref());
        Ok((posterior, warnings))
    }

    /// Writes the file in f32, by way of a temporary one beside it; equal posteriors give equal bytes.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        write::replace(path.as_ref(), self)
    }
}

fn refuse(path: &Path, problems: &[String]) -> Result<()> {
    match problems {
        [] => Ok(()),
        [problem] => Err(Error::file(path, problem)),
        _ => Err(Error::file(path, format!("{} problems:\n  {}", problems.len(), problems.join("\n  ")))),
    }
}

#[cfg(test)]
mod tests;

//! A GGUF file: its values make a configuration; its tensors get Hugging Face's names and order, and are expanded to f32 when they
//! are asked for.

use super::Loaded;
use crate::{Result, gguf::Gguf, model::config::Config, text::Encoder};
use std::{path::Path, sync::Arc};

mod architecture;
mod config;
mod layout;
#[cfg(test)]
mod tests;

use architecture::Architecture;
use layout::Layout;
pub(super) use layout::Packed;

/// Configuration, and what turns text into tokens.
pub fn text(path: &Path) -> Result<(Config, Encoder)> {
    let gguf = Gguf::open(path)?;
    Ok((config::read(&gguf, Architecture::of(&gguf)?)?, Encoder::from_gguf(&gguf)?))
}

pub fn read(path: &Path) -> Result<Loaded> {
    let gguf = Arc::new(Gguf::open(path)?);
    let architecture = Architecture::of(&gguf)?;
    let config = config::read(&gguf, architecture)?;
    let encoder = Encoder::from_gguf(&gguf)?;
    let weights = Layout::new(architecture, &config).tensors(&gguf)?.into();
    Ok(Loaded { encoder, weights, config })
}

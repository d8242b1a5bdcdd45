//! A Hugging Face checkpoint folder: `config.json`, `model.safetensors` or shards with their index, tokenizer files.

use super::{Loaded, Weights, mapped};
use crate::{Error, Result, files, model::config::Config, text::Encoder};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Component, Path},
};

/// The configuration's file.
pub const CONFIG: &str = "config.json";
pub(crate) const WHOLE: &str = "model.safetensors";
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// Bytes of a configuration or an index; the largest in use have a few.
pub(crate) const MAX_JSON: u64 = 64 << 20;

/// Configuration, and what turns text into tokens.
pub fn text(folder: &Path) -> Result<(Config, Encoder)> {
    let path = folder.join(CONFIG);
    let config = Config::from_json(&path, &files::read(&path, MAX_JSON)?)?;
    let encoder = Encoder::from_folder(folder, config.pad_token_id)?;
    Ok((config, encoder))
}

pub(super) fn read(folder: &Path) -> Result<Loaded> {
    let (config, encoder) = text(folder)?;
    Ok(Loaded { encoder, weights: weights(folder)?, config })
}

/// All tensors, of a file or of all shards.
pub fn weights(folder: &Path) -> Result<Weights> {
    let index = folder.join(INDEX);
    if !index.exists() {
        return Ok(mapped::open(&folder.join(WHOLE))?.into());
    }
    let mut all = BTreeMap::new();
    for shard in shards(&index)? {
        all.extend(mapped::open(&folder.join(shard))?);
    }
    Ok(all.into())
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The files that an index names; each must lie in the folder itself.
pub(crate) fn shards(path: &Path) -> Result<BTreeSet<String>> {
    let json = files::read(path, MAX_JSON)?;
    let index: Index = serde_json::from_slice(&json).map_err(|e| Error::file(path, e))?;
    let shards: BTreeSet<String> = index.weight_map.into_values().collect();
    let plain = |name: &str| {
        let mut parts = Path::new(name).components();
        matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None))
    };
    match shards.iter().find(|name| !plain(name)) {
        Some(name) => Err(Error::file(path, format!("weight_map: `{name}` is not a file name"))),
        None => Ok(shards),
    }
}

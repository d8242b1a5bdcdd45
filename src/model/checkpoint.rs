//! A base model as users bring it: weights, configuration and text handling, from a Hugging Face folder or a GGUF file.
//!
//! Weights go by Hugging Face's names, and are read from their files when they are asked for. Everything that is missing,
//! misshaped or (in safetensors) not finite is reported at once, on opening; what belongs nowhere is a warning, save what every base brings
//! and a reward model does not use (its `lm_head`, old buffers).

use super::{
    config::Config,
    cross_encoder::CrossEncoder,
    head::{Head, Outputs},
};
use crate::{
    Error, Result, digest, hub,
    text::{Encoder, Reader},
};
use candle_core::Tensor;
use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

pub(super) mod folder;
mod gguf;
mod mapped;
pub(crate) mod tensors;
mod weights;

pub(crate) use folder::{INDEX, MAX_JSON, WHOLE, shards};
pub use weights::Weights;

/// The head's names in a checkpoint.
pub(super) const HEAD: [&str; 2] = ["score.weight", "score.bias"];

/// A base model, checked.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// Last part of the path, less `.gguf`; of a folder of the hub's cache, that of the repository.
    pub name: String,
    pub config: Config,
    pub encoder: Arc<Encoder>,
    /// Those of [`Config::tensors`] and, where there is one, the head.
    pub weights: Weights,
    embedding: Arc<OnceLock<Tensor>>,
    pub(super) path: PathBuf,
    weights_sha256: Arc<OnceLock<String>>,
    /// What the checkpoint holds without being used.
    pub warnings: Vec<String>,
    /// The checkpoint's folder, where it is one.
    pub folder: Option<PathBuf>,
    /// How the outputs of a head become a reward.
    pub outputs: Outputs,
}

impl Checkpoint {
    /// Template and tokenizer alone.
    pub fn encoder(path: &Path) -> Result<Encoder> {
        if CrossEncoder::is_one(path) {
            return CrossEncoder::encoder(path);
        }
        let (config, encoder) = if is_gguf(path) { gguf::text(path)? } else { folder::text(path)? };
        Ok(encoder.with_vocabulary(config.vocab_size))
    }

    /// Opens a checkpoint folder, or a file that ends in `.gguf`.
    pub fn open(path: &Path) -> Result<Self> {
        let loaded = if is_gguf(path) { gguf::read(path)? } else { folder::read(path)? };
        let Loaded { config, encoder, weights } = loaded;
        let (weights, warnings) = checked(path, &config, &weights)?;
        let encoder = Arc::new(encoder.with_vocabulary(config.vocab_size));
        let folder = path.is_dir().then(|| path.to_owned());
        let outputs = Outputs::default();
        let (name, path) = (name_of(path), path.to_owned());
        let (embedding, weights_sha256) = Default::default();
        Ok(Self {
            name,
            config,
            encoder,
            weights,
            embedding,
            path,
            weights_sha256,
            warnings,
            folder,
            outputs,
        })
    }

    /// What turns text into its tokens, and how many it takes.
    pub fn reader(&self) -> Reader {
        Reader { encoder: Arc::clone(&self.encoder), max_length: self.config.max_length }
    }

    /// The token embedding, (V, C), once for all models on this base.
    pub fn embedding(&self) -> Result<Option<Tensor>> {
        if let Some(embedding) = self.embedding.get() {
            return Ok(Some(embedding.clone()));
        }
        let embedding = self.weights.get(self.config.names.embedding)?;
        Ok(embedding.map(|embedding| self.embedding.get_or_init(|| embedding).clone()))
    }

    /// Digest of the files that hold the weights, once for all adapters on this base.
    pub fn weights_sha256(&self) -> Result<&str> {
        if let Some(digest) = self.weights_sha256.get() {
            return Ok(digest);
        }
        let digest = digest::of_files(&self.weight_files()?)?;
        Ok(self.weights_sha256.get_or_init(|| digest))
    }

    /// The files that hold the weights, and nothing that may lie beside them.
    fn weight_files(&self) -> Result<Vec<PathBuf>> {
        let Some(folder) = &self.folder else { return Ok(vec![self.path.clone()]) };
        let index = folder.join(INDEX);
        match index.exists() {
            true => Ok(shards(&index)?.iter().map(|shard| folder.join(shard)).collect()),
            false => Ok(vec![folder.join(WHOLE)]),
        }
    }

    /// The reward head, where the base has one.
    pub fn head(&self) -> Result<Option<Head>> {
        self.weights.head(HEAD)
    }
}

fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "gguf")
}

fn name_of(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    if let Some(repository) = hub::repository(&path) {
        return repository.rsplit('/').next().unwrap_or(&repository).to_owned();
    }
    let name = path.file_name().map_or_else(|| "base".into(), |name| name.to_string_lossy().into_owned());
    name.strip_suffix(".gguf").map_or(name.clone(), str::to_owned)
}

/// What a reader of one of the two layouts returns, unchecked.
struct Loaded {
    config: Config,
    encoder: Encoder,
    weights: Weights,
}

/// Keeps what the model needs, and says what else there is.
fn checked(path: &Path, config: &Config, found: &Weights) -> Result<(Weights, Vec<String>)> {
    let mut wanted = config.tensors();
    // A head may have several outputs.
    if let Some(outputs) = found.shape(HEAD[0]).and_then(|head| head.first().copied()) {
        wanted.push((HEAD[0].to_owned(), vec![outputs, config.hidden_size]));
        let biased = found.shape(HEAD[1]).is_some();
        wanted.extend(biased.then(|| (HEAD[1].to_owned(), vec![outputs])));
    }
    let mut problems = Vec::new();
    for (name, shape) in &wanted {
        match found.shape(name) {
            None => problems.push(format!("{name} is missing")),
            Some(other) if other != shape => {
                problems.push(format!("{name} has shape {other:?}, expected {shape:?}"));
            }
            Some(_) if !found.is_finite(name)? => {
                problems.push(format!("{name} holds a number that is not finite"));
            }
            Some(_) => {}
        }
    }
    if !problems.is_empty() {
        return Err(Error::file(path, problems.join("; ")));
    }
    let kept = found.some(wanted.iter().map(|(name, _)| name.as_str()));
    let unused = found.names().filter(|name| kept.shape(name).is_none() && !brought_by_every_base(name));
    let warnings = unused.map(|name| format!("{}: {name} is not used", path.display())).collect();
    Ok((kept, warnings))
}

fn brought_by_every_base(name: &str) -> bool {
    name == "lm_head.weight" || name.ends_with(".rotary_emb.inv_freq")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_keeps_the_dots_of_its_name() {
        for (path, want) in [
            ("models/Llama-3.1-8B", "Llama-3.1-8B"),
            ("models/Llama-3.1-8B/", "Llama-3.1-8B"),
            ("SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Instruct.Q4_1"),
            ("/", "base"),
            (
                "/c/models--org--Llama-3.1-8B/snapshots/0123456789abcdef0123456789abcdef01234567",
                "Llama-3.1-8B",
            ),
        ] {
            assert_eq!(name_of(Path::new(path)), want);
        }
    }
}

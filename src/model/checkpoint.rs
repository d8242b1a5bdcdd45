//! A base model as users bring it: weights, configuration and text handling, from a Hugging Face folder or a GGUF file.
//!
//! Weights are held under Hugging Face's names, those in half precision as they are stored. Everything that is missing,
//! misshaped or not finite is reported at once; what belongs nowhere is a warning, save what every base brings
//! and a reward model does not use (its `lm_head`, old buffers).

use super::{
    config::Config,
    cross_encoder::CrossEncoder,
    head::{Head, Outputs},
};
use crate::{
    Error, Result, hub,
    text::{Encoder, Reader},
};
use candle_core::{DType, Tensor};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

pub(super) mod folder;
mod gguf;
pub(crate) mod tensors;

pub(crate) use folder::{INDEX, WHOLE, shards};

/// The head's names in a checkpoint.
pub(super) const HEAD: [&str; 2] = ["score.weight", "score.bias"];

/// A base model, checked.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// Last part of the path, less `.gguf`; of a folder of the hub's cache, that of the repository.
    pub name: String,
    pub config: Config,
    pub encoder: Arc<Encoder>,
    /// Tensors of [`Config::tensors`] and, where there is one, the head: half precision as it is stored, the rest in f32.
    pub tensors: BTreeMap<String, Tensor>,
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
        let Loaded { config, encoder, tensors } = loaded;
        let (tensors, warnings) = checked(path, &config, tensors)?;
        let encoder = Arc::new(encoder.with_vocabulary(config.vocab_size));
        let folder = path.is_dir().then(|| path.to_owned());
        let outputs = Outputs::default();
        Ok(Self { name: name_of(path), config, encoder, tensors, warnings, folder, outputs })
    }

    /// What turns text into its tokens, and how many it takes.
    pub fn reader(&self) -> Reader {
        Reader { encoder: Arc::clone(&self.encoder), max_length: self.config.max_length }
    }

    /// The reward head, where the base has one.
    pub fn head(&self) -> Option<Head> {
        let [weight, bias] = HEAD.map(|name| self.tensors.get(name)?.to_dtype(DType::F32).ok());
        Some(Head { weight: weight?, bias })
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
    tensors: BTreeMap<String, Tensor>,
}

/// Tensors by their names.
pub(super) type Named = BTreeMap<String, Tensor>;

/// Keeps what the model needs, in f32 or half precision, and says what else there is.
fn checked(path: &Path, config: &Config, mut found: Named) -> Result<(Named, Vec<String>)> {
    let mut wanted = config.tensors();
    // A head may have several outputs.
    if let Some(outputs) = found.get(HEAD[0]).and_then(|head| head.dims().first().copied()) {
        wanted.push((HEAD[0].to_owned(), vec![outputs, config.hidden_size]));
        let biased = found.contains_key(HEAD[1]);
        wanted.extend(biased.then(|| (HEAD[1].to_owned(), vec![outputs])));
    }
    let (mut kept, mut problems) = (BTreeMap::new(), Vec::new());
    for (name, shape) in wanted {
        match found.remove(&name) {
            None => problems.push(format!("{name} is missing")),
            Some(tensor) if tensor.dims() != shape => {
                problems.push(format!("{name} has shape {:?}, expected {shape:?}", tensor.dims()));
            }
            Some(tensor) => {
                let tensor = match tensor.dtype() {
                    DType::BF16 | DType::F16 => tensor,
                    _ => tensor.to_dtype(DType::F32)?,
                };
                if !tensors::all_finite(&tensor)? {
                    problems.push(format!("{name} holds a number that is not finite"));
                }
                kept.insert(name, tensor);
            }
        }
    }
    if !problems.is_empty() {
        return Err(Error::file(path, problems.join("; ")));
    }
    let unused = found.keys().filter(|name| !brought_by_every_base(name));
    Ok((kept, unused.map(|name| format!("{}: {name} is not used", path.display())).collect()))
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

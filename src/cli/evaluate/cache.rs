//! What a posterior says of a pool, kept on disk: an evaluation that was interrupted goes on, and another one of the same pools
//! reads it.

use crate::{
    Error, Result,
    digest::hex,
    evaluate::over_optimisation::Joint,
    model::checkpoint::tensors,
    score::{Embedding, Want},
    text::TokenSeq,
};
use candle_core::{DType, Device, Tensor};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
};

const MEANS: &str = "means";
const HEADS: &str = "head_variances";
const COVARIANCE: &str = "covariance";

/// A folder of pools, each under the digest of all that its numbers depend on.
#[derive(Debug)]
pub struct Cache {
    folder: Option<PathBuf>,
}

/// The posterior of the rewards of one pool, all of whose numbers must be finite.
pub fn joint(embeddings: &[Embedding]) -> Result<Joint> {
    embeddings.iter().try_for_each(|e| e.estimate().finite(Want::MeanAndVariance).map(drop))?;
    let of = |number: fn(&Embedding) -> f64| embeddings.iter().map(number).collect();
    let size = embeddings.first().map_or(0, |embedding| embedding.vector.len());
    let vectors = embeddings.iter().flat_map(|embedding| &embedding.vector).copied();
    let vectors = Tensor::from_iter(vectors, &Device::Cpu)?;
    let vectors = vectors.reshape((embeddings.len(), size))?.to_dtype(DType::F64)?;
    Ok(Joint {
        means: of(|embedding| embedding.mean),
        head_variances: of(|embedding| embedding.head_variance),
        covariance: vectors.matmul(&vectors.t()?)?.flatten_all()?.to_vec1()?,
    })
}

impl Cache {
    /// In a folder, which is made at the first pool; `None` keeps nothing.
    pub fn new(folder: Option<PathBuf>) -> Self {
        Self { folder }
    }

    /// The file of a pool, `model` being a digest of the model and its posterior.
    fn path(&self, model: &str, sequences: &[TokenSeq]) -> Option<PathBuf> {
        let mut digest = Sha256::new().chain_update(model);
        for sequence in sequences {
            digest.update((sequence.pooled as u64).to_le_bytes());
            sequence.ids.iter().for_each(|id| digest.update(id.to_le_bytes()));
        }
        let name = hex(digest.finalize());
        Some(self.folder.as_ref()?.join(format!("{name}.safetensors")))
    }

    /// Reads a pool, or computes and keeps it.
    pub fn joint(
        &self,
        model: &str,
        sequences: &[TokenSeq],
        compute: impl FnOnce() -> Result<Joint>,
    ) -> Result<Joint> {
        let path = self.path(model, sequences);
        if let Some(path) = path.as_ref().filter(|path| path.exists()) {
            let (mut tensors, _) = tensors::read(path, tensors::OWN)?;
            let mut take = |name: &str, count: usize| -> Result<Vec<f64>> {
                let tensor = tensors.remove(name).filter(|tensor| tensor.elem_count() == count);
                let wrong = || Error::file(path, format!("{name}: not there, or not {count} numbers"));
                Ok(tensor.ok_or_else(wrong)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
            };
            let count = sequences.len();
            return Ok(Joint {
                means: take(MEANS, count)?,
                head_variances: take(HEADS, count)?,
                covariance: take(COVARIANCE, count * count)?,
            });
        }
        let joint = compute()?;
        if let Some(path) = path {
            let tensor = |values: &[f64]| Tensor::new(values, &Device::Cpu);
            let all = BTreeMap::from([
                (MEANS.to_owned(), tensor(&joint.means)?),
                (HEADS.to_owned(), tensor(&joint.head_variances)?),
                (COVARIANCE.to_owned(), tensor(&joint.covariance)?.to_dtype(DType::F32)?),
            ]);
            path.parent().map_or(Ok(()), std::fs::create_dir_all).map_err(Error::io(&path))?;
            tensors::write(&path, &all, HashMap::new())?;
        }
        Ok(joint)
    }
}

//! The tensors of a base under Hugging Face's names, read from its files when they are asked for.

use super::{gguf::Packed, mapped::Mapped};
use crate::{Error, Result, model::head::Head};
use candle_core::{DType, Tensor};
use std::collections::{BTreeMap, HashMap};

/// Tensors by name, none of them in memory.
#[derive(Debug, Clone, Default)]
pub struct Weights(BTreeMap<String, Weight>);

#[derive(Debug, Clone)]
enum Weight {
    /// In a `.safetensors` file.
    Mapped(Mapped),
    /// In a GGUF file.
    Packed(Packed),
}

impl From<BTreeMap<String, Mapped>> for Weights {
    fn from(tensors: BTreeMap<String, Mapped>) -> Self {
        Self(tensors.into_iter().map(|(name, tensor)| (name, Weight::Mapped(tensor))).collect())
    }
}

impl From<BTreeMap<String, Packed>> for Weights {
    fn from(tensors: BTreeMap<String, Packed>) -> Self {
        Self(tensors.into_iter().map(|(name, tensor)| (name, Weight::Packed(tensor))).collect())
    }
}

impl Weights {
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.0.keys()
    }

    /// Those of some names, where they are there.
    pub fn some<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Self {
        let kept = names.into_iter().filter_map(|name| self.0.get_key_value(name));
        Self(kept.map(|(name, weight)| (name.clone(), weight.clone())).collect())
    }

    /// Numbers in all of them.
    pub fn elements(&self) -> usize {
        self.0.values().map(|weight| weight.shape().iter().product::<usize>()).sum()
    }

    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.0.get(name).map(Weight::shape)
    }

    /// Whether a tensor is free of NaN and infinities, where that can be told from its bytes; [`Weights::get`] tells of the others.
    pub fn is_finite(&self, name: &str) -> Result<bool> {
        match self.0.get(name) {
            Some(Weight::Mapped(tensor)) => tensor.is_finite(),
            _ => Ok(true),
        }
    }

    /// The head by the names of its two tensors, in f32, where it is there.
    pub fn head(&self, names: [&str; 2]) -> Result<Option<Head>> {
        let get = |name| Ok::<_, Error>(self.get(name)?.map(|t| t.to_dtype(DType::F32)).transpose()?);
        let [weight, bias] = names;
        let bias = get(bias)?;
        Ok(get(weight)?.map(|weight| Head { weight, bias }))
    }

    /// A tensor: half precision as it is stored, the rest in f32.
    pub fn get(&self, name: &str) -> Result<Option<Tensor>> {
        self.0.get(name).map(Weight::read).transpose()
    }

    /// All of them.
    pub fn read(&self) -> Result<HashMap<String, Tensor>> {
        self.0.iter().map(|(name, weight)| Ok((name.clone(), weight.read()?))).collect()
    }
}

impl Weight {
    fn shape(&self) -> &[usize] {
        match self {
            Self::Mapped(tensor) => &tensor.shape,
            Self::Packed(tensor) => &tensor.shape,
        }
    }

    fn read(&self) -> Result<Tensor> {
        let tensor = match self {
            Self::Mapped(tensor) => tensor.read()?,
            Self::Packed(tensor) => tensor.read()?,
        };
        Ok(match tensor.dtype() {
            DType::BF16 | DType::F16 => tensor,
            _ => tensor.to_dtype(DType::F32)?,
        })
    }
}

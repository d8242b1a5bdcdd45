//! The tensors of a base by name, under Hugging Face's names.

use super::{Named, mapped::Mapped, tensors::all_finite};
use crate::{Error, Result, model::head::Head};
use candle_core::{DType, Tensor};
use std::collections::{BTreeMap, HashMap, btree_map::Entry};

/// Tensors that are read when they are asked for, or that had to be made at once.
#[derive(Debug, Clone, Default)]
pub struct Weights(BTreeMap<String, Weight>);

#[derive(Debug, Clone)]
enum Weight {
    /// In a `.safetensors` file.
    Mapped(Mapped),
    /// Expanded from a GGUF file.
    Held(Tensor),
}

impl From<BTreeMap<String, Mapped>> for Weights {
    fn from(tensors: BTreeMap<String, Mapped>) -> Self {
        Self(tensors.into_iter().map(|(name, tensor)| (name, Weight::Mapped(tensor))).collect())
    }
}

impl From<Named> for Weights {
    fn from(tensors: Named) -> Self {
        Self(tensors.into_iter().map(|(name, tensor)| (name, Weight::Held(tensor))).collect())
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

    /// Whether a tensor is free of NaN and infinities.
    pub fn is_finite(&self, name: &str) -> Result<bool> {
        self.0.get(name).map_or(Ok(true), |weight| match weight {
            Weight::Mapped(tensor) => Ok(tensor.is_finite()),
            Weight::Held(tensor) => all_finite(tensor),
        })
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

    /// The same as [`Weights::get`], and the tensor is here no more.
    pub fn take(&mut self, name: &str) -> Result<Option<Tensor>> {
        match self.0.entry(name.to_owned()) {
            Entry::Occupied(entry) => entry.remove().read().map(Some),
            Entry::Vacant(_) => Ok(None),
        }
    }
}

impl Weight {
    fn shape(&self) -> &[usize] {
        match self {
            Self::Mapped(tensor) => &tensor.shape,
            Self::Held(tensor) => tensor.dims(),
        }
    }

    fn read(&self) -> Result<Tensor> {
        let tensor = match self {
            Self::Mapped(tensor) => tensor.read()?,
            Self::Held(tensor) => tensor.clone(),
        };
        Ok(match tensor.dtype() {
            DType::BF16 | DType::F16 => tensor,
            _ => tensor.to_dtype(DType::F32)?,
        })
    }
}

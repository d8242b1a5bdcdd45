//! Reading `.safetensors` files: f32, f64, f16 and bf16, with errors that name file and tensor.

use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use safetensors::{Dtype, SafeTensors};
use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    path::Path,
};

/// The tensors of a file by name, and its `__metadata__`.
pub type Contents = (BTreeMap<String, Tensor>, HashMap<String, String>);

/// Reads every tensor of `path`, in the type it is stored in.
pub fn read(path: &Path) -> Result<Contents> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    let wrong = |e: &dyn std::fmt::Display| Error::file(path, format!("not a whole safetensors file: {e}"));
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| wrong(&e))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| wrong(&e))?;
    let tensors = file.iter().map(|(name, view)| {
        let dtype = stored_as(view.dtype())
            .ok_or_else(|| Error::file(path, format!("{name}: type {:?} is not supported", view.dtype())))?;
        let tensor = Tensor::from_raw_buffer(view.data(), dtype, view.shape(), &Device::Cpu)?;
        Ok((name.to_owned(), tensor))
    });
    Ok((tensors.collect::<Result<_>>()?, header.metadata().clone().unwrap_or_default()))
}

fn stored_as(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F64 => Some(DType::F64),
        Dtype::F32 => Some(DType::F32),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::BF16),
        // Buffers of old checkpoints; nothing that is used has this type.
        Dtype::I64 => Some(DType::I64),
        Dtype::U8 | Dtype::BOOL => Some(DType::U8),
        _ => None,
    }
}

/// Writes tensors, f64 as such and all others as f32; first beside `path` and then in its place, so that no reader sees half
/// a file.
pub fn write(
    path: &Path,
    tensors: &BTreeMap<String, Tensor>,
    metadata: HashMap<String, String>,
) -> Result<()> {
    let stored: Vec<(&String, Stored)> =
        tensors.iter().map(|(name, tensor)| Ok((name, Stored::new(tensor)?))).collect::<Result<_>>()?;
    let bytes = safetensors::serialize(stored, Some(metadata)).map_err(|e| Error::file(path, e))?;
    replace(path, &bytes)
}

/// A tensor's bytes as they go to the file.
struct Stored {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Stored {
    fn new(tensor: &Tensor) -> Result<Self> {
        let flat = tensor.flatten_all()?;
        let (dtype, bytes) = match tensor.dtype() {
            DType::F64 => (Dtype::F64, flat.to_vec1::<f64>()?.iter().flat_map(|x| x.to_le_bytes()).collect()),
            _ => {
                let values: Vec<f32> = flat.to_dtype(DType::F32)?.to_vec1()?;
                (Dtype::F32, values.iter().flat_map(|x| x.to_le_bytes()).collect())
            }
        };
        Ok(Self { dtype, shape: tensor.dims().to_vec(), bytes })
    }
}

impl safetensors::View for Stored {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// Writes a file whole or not at all.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    std::fs::write(&partial, bytes).map_err(Error::io(&partial))?;
    std::fs::rename(&partial, path).map_err(Error::io(path))
}

/// Whether a tensor is free of NaN and infinities.
pub fn all_finite(tensor: &Tensor) -> Result<bool> {
    let values: Vec<f32> = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    Ok(values.iter().all(|x| x.is_finite()))
}

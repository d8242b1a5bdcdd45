//! A `.safetensors` file mapped into memory, of which each tensor is read when it is asked for.
//!
//! What is mapped takes no memory of its own: a base in half precision that is computed in f32 is never there twice, and what
//! nobody asks for is never read. The price is that a file that somebody cuts while it is being read ends the process, as it
//! does any program that maps files. So only the weights of a base are mapped, which are large, which the operator names, and
//! which the hub's clients put in place whole; what comes and goes on a running service (adapters, posteriors) is read.

use super::tensors::{finite, stored_as};
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;
use safetensors::SafeTensors;
use std::{collections::BTreeMap, fs::File, ops::Range, path::Path, sync::Arc};

/// A tensor in a mapped file.
#[derive(Debug, Clone)]
pub struct Mapped {
    file: Arc<Mmap>,
    bytes: Range<usize>,
    dtype: DType,
    pub shape: Vec<usize>,
}

/// The tensors of a file by name, none of them read.
pub fn open(path: &Path) -> Result<BTreeMap<String, Mapped>> {
    let file = File::open(path).map_err(Error::io(path))?;
    // Sound as long as nobody writes to the file while it is mapped, which no program can rule out for another; ours only ever
    // puts whole files in the place of others (`tensors::replace`), and the old file stays what it was.
    let map = Arc::new(unsafe { Mmap::map(&file) }.map_err(Error::io(path))?);
    // The header says where each tensor lies, without a gap, each as long as its shape and type have it.
    let (header_bytes, header) = SafeTensors::read_metadata(&map)
        .map_err(|e| Error::file(path, format!("not a whole safetensors file: {e}")))?;
    let start = size_of::<u64>() + header_bytes;
    let tensor = |(name, info): (String, &safetensors::tensor::TensorInfo)| {
        let dtype = stored_as(info.dtype)
            .ok_or_else(|| Error::file(path, format!("{name}: type {:?} is not supported", info.dtype)))?;
        let bytes = start + info.data_offsets.0..start + info.data_offsets.1;
        Ok((name, Mapped { file: Arc::clone(&map), bytes, dtype, shape: info.shape.clone() }))
    };
    header.tensors().into_iter().map(tensor).collect()
}

impl Mapped {
    /// A copy, in the type that is stored.
    pub fn read(&self) -> Result<Tensor> {
        Ok(Tensor::from_raw_buffer(self.bytes(), self.dtype, &self.shape, &Device::Cpu)?)
    }

    /// Whether it is free of NaN and infinities, told from the bytes where they are.
    pub fn is_finite(&self) -> bool {
        finite(self.bytes(), self.dtype)
    }

    fn bytes(&self) -> &[u8] {
        &self.file[self.bytes.clone()]
    }
}

//! A `.safetensors` file mapped into memory, of which each tensor is read when it is asked for.
//!
//! What is mapped takes no memory of its own: a service keeps its base at hand for adapters that come later, a base in half
//! precision is computed in f32 without being there twice, and what nobody asks for is never read. The price is that a file that
//! is cut in the moment in which it is read ends the process, as it does any program that maps files. So only the weights of
//! a base are mapped, which are large, which the operator names, and which the hub's clients put in place whole; what comes and
//! goes on a running service (adapters, posteriors) is read. A file that has changed at any other time is refused.

use super::tensors::{finite, stored_as};
use crate::{Error, Result, files, stamp::Stamp};
use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;
use safetensors::{SafeTensors, tensor::TensorInfo};
use std::{
    collections::BTreeMap,
    fs::File,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

/// A tensor in a mapped file.
#[derive(Debug, Clone)]
pub struct Mapped {
    source: Arc<Source>,
    bytes: Range<usize>,
    dtype: DType,
    pub shape: Vec<usize>,
}

#[derive(Debug)]
struct Source {
    path: PathBuf,
    file: File,
    map: Mmap,
    stamp: Stamp,
}

/// The tensors of a file by name, none of them read.
pub fn open(path: &Path) -> Result<BTreeMap<String, Mapped>> {
    let source = Arc::new(Source::open(path)?);
    // The header says where each tensor lies, without a gap, each as long as its shape and type have it.
    let (header_bytes, header) = SafeTensors::read_metadata(&source.map)
        .map_err(|e| Error::file(path, format!("not a whole safetensors file: {e}")))?;
    let start = size_of::<u64>() + header_bytes;
    let tensor = |(name, info): (String, &TensorInfo)| {
        let dtype = stored_as(info.dtype)
            .ok_or_else(|| Error::file(path, format!("{name}: type {:?} is not supported", info.dtype)))?;
        let bytes = start + info.data_offsets.0..start + info.data_offsets.1;
        Ok((name, Mapped { source: Arc::clone(&source), bytes, dtype, shape: info.shape.clone() }))
    };
    header.tensors().into_iter().map(tensor).collect()
}

impl Source {
    fn open(path: &Path) -> Result<Self> {
        let file = files::open(path)?;
        let stamp = Stamp::of(&file, path)?;
        // Sound as long as nobody writes to the file while its bytes are read, which no program can rule out for another; this one
        // only ever puts whole files in the place of others (`tensors::replace`), and the old file stays what it was.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io(path))?;
        Ok(Self { path: path.to_owned(), file, map, stamp })
    }

    /// The mapped bytes, of a file that is as it was.
    fn bytes(&self) -> Result<&[u8]> {
        self.stamp.check(&self.file, &self.path)?;
        Ok(&self.map)
    }
}

impl Mapped {
    /// A copy, in the type that is stored.
    pub fn read(&self) -> Result<Tensor> {
        Ok(Tensor::from_raw_buffer(self.bytes()?, self.dtype, &self.shape, &Device::Cpu)?)
    }

    /// Whether it is free of NaN and infinities, told from the bytes where they are.
    pub fn is_finite(&self) -> Result<bool> {
        Ok(finite(self.bytes()?, self.dtype))
    }

    fn bytes(&self) -> Result<&[u8]> {
        Ok(&self.source.bytes()?[self.bytes.clone()])
    }
}

#[cfg(test)]
mod tests {
    use super::super::tensors;
    use super::*;
    use std::{collections::HashMap, fs};

    #[test]
    fn a_file_that_has_changed_is_refused_and_one_that_was_replaced_is_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let write = |number: f32| {
            let tensor = Tensor::new(&[number, 2.0], &Device::Cpu).unwrap();
            tensors::write(&path, &BTreeMap::from([("x".to_owned(), tensor)]), HashMap::new()).unwrap();
        };
        let read =
            |mapped: &BTreeMap<String, Mapped>| mapped["x"].read().map(|x| x.to_vec1::<f32>().unwrap());
        write(1.0);
        let first = open(&path).unwrap();
        write(f32::NAN);
        let second = open(&path).unwrap();
        assert_eq!(read(&first).unwrap(), [1.0, 2.0]);
        assert!(first["x"].is_finite().unwrap() && !second["x"].is_finite().unwrap());
        File::options().write(true).open(&path).unwrap().set_len(9).unwrap();
        assert_eq!(
            read(&second).unwrap_err().to_string(),
            format!("{}: has changed since it was opened", path.display())
        );
        assert!(open(&path).unwrap_err().to_string().contains("not a whole safetensors file"));
        fs::write(&path, "").unwrap();
        assert!(open(&path).is_err());
    }
}

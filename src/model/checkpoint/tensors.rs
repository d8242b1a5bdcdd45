//! Reading `.safetensors` files (f32, f64, f16 and bf16, with errors that name file and tensor), and writing files whole or
//! not at all.

use crate::{Error, Result, files};
use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use safetensors::{
    Dtype,
    tensor::{Metadata, TensorInfo},
};
use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io::{BufWriter, Read, Write},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering},
};

/// The tensors of a file by name, and its `__metadata__`.
pub type Contents = (BTreeMap<String, Tensor>, HashMap<String, String>);

/// As many bytes as there are, of files that this program has written.
pub const OWN: u64 = u64::MAX;

/// Longest header that is read, as in the safetensors library.
const LONGEST_HEADER: u64 = 100_000_000;

/// Reads every tensor of `path`, in the type it is stored in; `most` bytes in all.
///
/// Tensor by tensor, so that no more than the file's tensors and one buffer are in memory. What is too large for that is mapped
/// (`mapped.rs`), which has its price.
pub fn read(path: &Path, most: u64) -> Result<Contents> {
    let mut file = files::open(path)?;
    let wrong = |e: &dyn std::fmt::Display| Error::file(path, format!("not a whole safetensors file: {e}"));
    let length = file.metadata().map_err(Error::io(path))?.len();
    if length > most {
        return Err(files::too_large(path, most));
    }
    let mut size = [0; 8];
    file.read_exact(&mut size).map_err(|e| wrong(&e))?;
    let size = u64::from_le_bytes(size);
    if size > LONGEST_HEADER.min(length) {
        return Err(wrong(&format_args!("a header of {size} bytes")));
    }
    let mut header = vec![0; size as usize];
    file.read_exact(&mut header).map_err(|e| wrong(&e))?;
    // It says where each tensor lies: one after the other, without a gap, each as long as its shape and type have it.
    let header: Metadata = serde_json::from_slice(&header).map_err(|e| wrong(&e))?;
    let end = (8 + size).saturating_add(header.data_len() as u64);
    if end != length {
        return Err(wrong(&format_args!("{length} bytes, its header has {end}")));
    }
    let mut tensors = BTreeMap::new();
    for name in header.offset_keys() {
        let Some(TensorInfo { dtype, shape, data_offsets }) = header.info(&name) else { continue };
        let dtype = stored_as(*dtype)
            .ok_or_else(|| Error::file(path, format!("{name}: type {dtype:?} is not supported")))?;
        let mut bytes = vec![0; data_offsets.1 - data_offsets.0];
        file.read_exact(&mut bytes).map_err(|e| wrong(&e))?;
        tensors.insert(name, Tensor::from_raw_buffer(&bytes, dtype, shape, &Device::Cpu)?);
    }
    Ok((tensors, header.metadata().clone().unwrap_or_default()))
}

pub(super) fn stored_as(dtype: Dtype) -> Option<DType> {
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

/// Writes tensors, f64 as such and all others as f32, whole or not at all.
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
    replace_with(path, |file| file.write_all(bytes).map_err(Error::io(path)))
}

/// Puts what `write` writes in the place of `path`: first beside it and on the disk, then by its name, so that a reader, and
/// a machine that lost its power, sees the old file or the new one.
pub fn replace_with(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> Result<()>) -> Result<()> {
    sweep(path);
    let temporary = temporary(path)?;
    let written = to_disk(&temporary, path, write)
        .and_then(|()| fs::rename(&temporary, path).map_err(Error::io(path)))
        .and_then(|()| sync_folder(path));
    if written.is_err() {
        // The first error is the one to report: the temporary file may not even exist.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// A name beside `path` that no other writer has.
fn temporary(path: &Path) -> Result<PathBuf> {
    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().ok_or_else(|| Error::file(path, "not a file name"))?;
    let (process, count) = (process::id(), WRITTEN.fetch_add(1, Ordering::Relaxed));
    Ok(path.with_file_name(format!(".{}.{process}-{count}.tmp", name.to_string_lossy())))
}

/// Errors name `path`, which is what the user knows.
fn to_disk(
    temporary: &Path,
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<()>,
) -> Result<()> {
    let mut file = BufWriter::new(File::create(temporary).map_err(Error::io(path))?);
    write(&mut file)?;
    let file = file.into_inner().map_err(|e| Error::io(path)(e.into_error()))?;
    file.sync_all().map_err(Error::io(path))
}

/// A new name is on the disk once its folder is.
fn sync_folder(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::io(folder))
}

/// Whether numbers are free of NaN and infinities, also in f32, told from the bytes that they are stored as.
pub(super) fn finite(bytes: &[u8], dtype: DType) -> bool {
    match dtype {
        DType::F64 => bytes.as_chunks().0.iter().all(|x| (f64::from_le_bytes(*x) as f32).is_finite()),
        DType::F32 => bytes.as_chunks().0.iter().all(|x| f32::from_le_bytes(*x).is_finite()),
        DType::F16 => bytes.as_chunks().0.iter().all(|x| f16::from_le_bytes(*x).is_finite()),
        DType::BF16 => bytes.as_chunks().0.iter().all(|x| bf16::from_le_bytes(*x).is_finite()),
        _ => true,
    }
}

/// Whether a tensor is free of NaN and infinities.
pub fn all_finite(tensor: &Tensor) -> Result<bool> {
    let values: Vec<f32> = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    Ok(values.iter().all(|x| x.is_finite()))
}

/// Removes what writers of the same file have left behind that were killed.
fn sweep(path: &Path) {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return;
    };
    let running = Path::new("/proc");
    if !running.join("self").exists() {
        return;
    }
    let left_behind = |file: &str| {
        let writer = file.strip_prefix(&format!(".{name}."))?.strip_suffix(".tmp")?.split_once('-')?.0;
        writer.parse::<u32>().ok().filter(|writer| !running.join(writer.to_string()).exists())
    };
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_str().and_then(left_behind).is_some() {
            // Somebody else may have removed it already.
            drop(fs::remove_file(entry.path()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_killed_left_behind_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        // No process has this number: the kernel's largest is 2^22.
        let own = format!(".x.json.{}-7.tmp", process::id());
        let names = [".x.json.4194305-0.tmp", &own, ".y.json.4194305-0.tmp"];
        names.iter().for_each(|name| fs::write(folder.path().join(name), "half").unwrap());
        replace(&path, b"whole").unwrap();
        let is_there = names.map(|name| folder.path().join(name).exists());
        assert_eq!(is_there, [false, true, true], "of another running writer, and of another file");
    }

    #[test]
    fn a_file_that_claims_too_much_is_refused_before_memory_is_spent() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let header = r#"{"x":{"dtype":"F32","shape":[268435456,1024],"data_offsets":[0,1099511627776]}}"#;
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        fs::write(&path, &bytes).unwrap();
        let message = |most| read(&path, most).unwrap_err().to_string();
        assert!(message(OWN).contains("not a whole safetensors file"));
        File::options().write(true).open(&path).unwrap().set_len(bytes.len() as u64 + (1 << 40)).unwrap();
        assert!(message(1 << 30).contains("larger than the limit of 1073741824 bytes"));
    }

    #[test]
    fn a_file_is_replaced_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        replace(&path, b"old").unwrap();
        let failed = replace_with(&path, |file| {
            file.write_all(b"half").unwrap();
            Err(Error::file("x", "no more"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "x: no more");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        replace(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(replace(&folder.path().join("nowhere/x"), b"").unwrap_err().to_string().contains("nowhere"));
    }
}

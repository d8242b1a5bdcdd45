//! A GGUF file's table of contents: values by key, tensors by name. What is missing or of another kind is an error that
//! names file and key.

use crate::{Error, Result, files, stamp::Stamp};
use candle_core::{
    Device, Tensor,
    quantized::{
        GgmlDType,
        gguf_file::{Content, Value},
    },
};
use parking_lot::Mutex;
use std::{
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
};

/// ggml's names of the tensor types that candle has no code for.
const UNREAD: [(u32, &str); 18] = [
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
];
const OTHER_TYPES: &str = "hint: convert it to F16, Q8_0, Q4_1 or a K-quant";

/// The table of contents of one file.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    content: Content,
    /// Where there is one.
    file: Option<Source>,
}

/// The file, open, so that another in its place does not matter; and what it was then.
#[derive(Debug)]
struct Source {
    file: Mutex<File>,
    stamp: Stamp,
}

impl Gguf {
    pub fn open(path: &Path) -> Result<Self> {
        let file = files::open(path)?;
        let stamp = Stamp::of(&file, path)?;
        let content = files::guarded(path, || {
            Content::read(&mut BufReader::new(&file))
                .map_err(|e| Error::file(path, unreadable(&first_line(&e))))
        })?;
        let gguf = Self { file: Some(Source { file: file.into(), stamp }), ..Self::new(path, content) };
        gguf.check(stamp.length)?;
        Ok(gguf)
    }

    /// Whether every tensor lies in the file, and has a type that candle expands.
    fn check(&self, length: u64) -> Result<()> {
        for (name, info) in &self.content.tensor_infos {
            let dtype = info.ggml_dtype;
            if matches!(dtype, GgmlDType::Q8_1 | GgmlDType::Q8K) {
                return Err(self.wrong(name, format!("type {dtype:?} is not supported ({OTHER_TYPES})")));
            }
            let numbers = info.shape.dims().iter().try_fold(1usize, |n, size| n.checked_mul(*size));
            let bytes = numbers.and_then(|n| (n / dtype.block_size()).checked_mul(dtype.type_size()));
            let parts = [Some(self.content.tensor_data_offset), Some(info.offset), bytes.map(|n| n as u64)];
            let end = parts.into_iter().try_fold(0u64, |end, part| end.checked_add(part?));
            if end.is_none_or(|end| end > length) {
                return Err(self.wrong(name, "not a whole GGUF file: it ends before the tensor does"));
            }
        }
        Ok(())
    }

    pub fn new(path: &Path, content: Content) -> Self {
        Self { path: path.to_owned(), content, file: None }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// An error about a key's value, or a tensor.
    pub fn wrong(&self, key: &str, message: impl std::fmt::Display) -> Error {
        Error::file(&self.path, format!("{key}: {message}"))
    }

    pub fn has(&self, key: &str) -> bool {
        self.content.metadata.contains_key(key)
    }

    fn read<T>(&self, key: &str, want: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<T>> {
        let value = self.content.metadata.get(key);
        value.map(|value| read(value).ok_or_else(|| self.wrong(key, format!("expected {want}")))).transpose()
    }

    /// What a key must have.
    pub fn required<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.wrong(key, "missing"))
    }

    /// A whole number of any width.
    pub fn size(&self, key: &str) -> Result<Option<usize>> {
        self.read(key, "a whole number", |value| usize::try_from(integer(value)?).ok())
    }

    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        self.read(key, "a number", number)
    }

    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.read(key, "a boolean", |value| value.to_bool().ok())
    }

    pub fn text(&self, key: &str) -> Result<Option<&str>> {
        let value = self.content.metadata.get(key);
        value.map(|value| text(value).ok_or_else(|| self.wrong(key, "expected a string"))).transpose()
    }

    pub fn token_id(&self, key: &str) -> Result<Option<u32>> {
        self.read(key, "a token id", |value| u32::try_from(integer(value)?).ok())
    }

    pub fn texts(&self, key: &str) -> Result<Option<Vec<&str>>> {
        self.array(key, "strings", text)
    }

    pub fn integers(&self, key: &str) -> Result<Option<Vec<i64>>> {
        self.array(key, "whole numbers", integer)
    }

    pub fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>> {
        self.array(key, "numbers", number)
    }

    pub fn flags(&self, key: &str) -> Result<Option<Vec<bool>>> {
        self.array(key, "booleans", |value| value.to_bool().ok())
    }

    fn array<'a, T>(
        &'a self,
        key: &str,
        of: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>> {
        let wrong = || self.wrong(key, format!("expected an array of {of}"));
        match self.content.metadata.get(key) {
            None => Ok(None),
            Some(Value::Array(values)) => {
                values.iter().map(&read).collect::<Option<_>>().map(Some).ok_or_else(wrong)
            }
            Some(_) => Err(wrong()),
        }
    }

    /// Names of all tensors.
    pub fn tensors(&self) -> impl Iterator<Item = &str> {
        self.content.tensor_infos.keys().map(String::as_str)
    }

    /// A tensor's dimensions, without reading it.
    pub fn dims(&self, tensor: &str) -> Option<&[usize]> {
        self.content.tensor_infos.get(tensor).map(|info| info.shape.dims())
    }

    /// Reads and expands a tensor, if there is one; the file must be what it was.
    pub fn tensor(&self, name: &str) -> Result<Option<Tensor>> {
        let found = (self.content.tensor_infos.get(name), &self.file);
        let (Some(info), Some(Source { file, stamp })) = found else { return Ok(None) };
        let mut file = file.lock();
        stamp.check(&file, &self.path)?;
        files::guarded(&self.path, || {
            let quantised = info.read(&mut *file, self.content.tensor_data_offset, &Device::Cpu);
            let tensor = quantised.and_then(|tensor| tensor.dequantize(&Device::Cpu));
            tensor.map(Some).map_err(|e| self.wrong(name, first_line(&e)))
        })
    }
}

/// An error of candle's less its backtrace.
fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// What is wrong with a file whose table of contents candle cannot read: a type that it does not know, or the table itself.
fn unreadable(error: &str) -> String {
    match error.strip_prefix("unknown dtype for tensor ").and_then(|id| id.trim().parse().ok()) {
        Some(id) => {
            format!("a tensor has the type {}, which is not supported ({OTHER_TYPES})", type_name(id))
        }
        None => format!("not a whole GGUF file: {error}"),
    }
}

fn type_name(id: u32) -> String {
    let known = UNREAD.iter().find(|(known, _)| *known == id);
    known.map_or_else(|| format!("number {id}"), |(_, name)| (*name).to_owned())
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::String(text) => Some(text),
        _ => None,
    }
}

fn number(value: &Value) -> Option<f64> {
    match *value {
        Value::F32(x) => Some(x.into()),
        Value::F64(x) => Some(x),
        _ => None,
    }
}

/// An integer of any width that fits.
fn integer(value: &Value) -> Option<i64> {
    match *value {
        Value::U8(n) => Some(n.into()),
        Value::I8(n) => Some(n.into()),
        Value::U16(n) => Some(n.into()),
        Value::I16(n) => Some(n.into()),
        Value::U32(n) => Some(n.into()),
        Value::I32(n) => Some(n.into()),
        Value::U64(n) => i64::try_from(n).ok(),
        Value::I64(n) => Some(n),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: &[u8]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        std::fs::write(&path, bytes).unwrap();
        let message = Gguf::open(&path).err().unwrap().to_string();
        assert!(message.contains("model.gguf: ") && !message.contains('\n'), "{message}");
        message
    }

    /// candle divides by it.
    #[test]
    fn an_alignment_of_nothing_is_refused() {
        let key = b"general.alignment";
        let parts: [&[u8]; 8] = [
            b"GGUF",
            &3_u32.to_le_bytes(),
            &0_u64.to_le_bytes(),
            &1_u64.to_le_bytes(),
            &(key.len() as u64).to_le_bytes(),
            key,
            &4_u32.to_le_bytes(),
            &0_u32.to_le_bytes(),
        ];
        assert!(message(&parts.concat()).contains("not a file of its kind"));
    }

    /// Version 3, no metadata, one tensor "w" at offset 0, and none of its numbers.
    fn with_tensor(dims: &[u64], dtype: u32) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(3u32.to_le_bytes());
        file.extend([1u64, 0, 1].into_iter().flat_map(u64::to_le_bytes));
        file.push(b'w');
        file.extend((dims.len() as u32).to_le_bytes());
        file.extend(dims.iter().flat_map(|size| size.to_le_bytes()));
        file.extend(dtype.to_le_bytes());
        file.extend(0u64.to_le_bytes());
        file
    }

    #[test]
    fn a_tensor_that_the_file_cannot_hold_is_named() {
        let f32 = 0;
        for dims in [&[32][..], &[1 << 40, 1 << 40], &[u64::MAX / 4]] {
            assert!(message(&with_tensor(dims, f32)).contains("w: not a whole GGUF file"));
        }
    }

    #[test]
    fn a_type_that_is_not_supported_is_named() {
        let file = with_tensor(&[32], 20);
        assert!(message(&file).contains("a tensor has the type IQ4_NL, which is not supported"));
        assert!(message(&file[..40]).contains("not a whole GGUF file"));
        assert!(message(b"GGUF").contains("not a whole GGUF file"));
    }
}

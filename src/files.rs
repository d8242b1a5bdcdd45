//! Files that come from elsewhere: regular ones only, and no more bytes than are allowed.
//!
//! A pipe or a device in a model's folder would keep its reader waiting for ever, and a sparse file may claim a terabyte.

use std::{
    fs::{File, metadata},
    io::Read,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use crate::{Error, Result};

/// Opens a regular file.
pub fn open(path: &Path) -> Result<File> {
    // Before it is opened: that alone waits where it is a pipe.
    match metadata(path).map_err(Error::io(path))?.is_file() {
        true => File::open(path).map_err(Error::io(path)),
        false => Err(Error::file(path, "not a regular file")),
    }
}

/// Reads a regular file of `most` bytes at most.
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(Error::io(path))?;
    match bytes.len() as u64 <= most {
        true => Ok(bytes),
        false => Err(too_large(path, most)),
    }
}

/// Reads what is in a file by a library that may panic on hostile bytes; that is an error about the file.
pub fn guarded<T>(path: &Path, read: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err(Error::file(path, "not a file of its kind: reading it failed")))
}

/// Says that a file has more bytes than allowed.
pub fn too_large(path: &Path, most: u64) -> Error {
    Error::file(path, format!("larger than the limit of {most} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_or_too_large_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "four").unwrap();
        assert_eq!(read(&path, 4).unwrap(), b"four");
        let message = |path: &Path, most| read(path, most).unwrap_err().to_string();
        assert!(message(&path, 3).ends_with("file: larger than the limit of 3 bytes"));
        assert!(message(folder.path(), 3).ends_with(": not a regular file"));
        assert!(message(Path::new("/dev/zero"), 3).ends_with(": not a regular file"));
        assert!(message(Path::new("/no/file"), 3).starts_with("/no/file: "));
    }

    #[test]
    fn a_panic_is_an_error_about_the_file() {
        let message =
            guarded::<()>(Path::new("x.gguf"), || panic!("division by zero")).unwrap_err().to_string();
        assert_eq!(message, "x.gguf: not a file of its kind: reading it failed");
        assert_eq!(guarded(Path::new("x"), || Ok(1)).unwrap(), 1);
    }

    /// Opening a pipe to which nobody writes would wait for ever.
    #[test]
    fn a_pipe_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        assert!(read(&path, 3).unwrap_err().to_string().ends_with("pipe: not a regular file"));
    }
}

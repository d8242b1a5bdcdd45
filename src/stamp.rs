//! Whether a file that is read again is the one that was opened.

use crate::{Error, Result};
use std::{fs::File, path::Path, time::SystemTime};

/// What a file was when it was opened: its length, and the time of its last change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub length: u64,
    changed: SystemTime,
}

impl Stamp {
    /// Of the open file at `path`.
    pub fn of(file: &File, path: &Path) -> Result<Self> {
        let metadata = file.metadata().map_err(Error::io(path))?;
        Ok(Self { length: metadata.len(), changed: metadata.modified().map_err(Error::io(path))? })
    }

    /// An error that names `path`, where the file is not what it was.
    pub fn check(self, file: &File, path: &Path) -> Result<()> {
        match Self::of(file, path)? == self {
            true => Ok(()),
            false => Err(Error::file(path, "has changed since it was opened")),
        }
    }
}

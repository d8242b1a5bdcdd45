//! Where a checkpoint or an adapter is: a path, or a name on the hub that becomes one.

use super::progress::{Progress, Unit};
use crate::{
    Error, Result,
    hub::{self, Event, Kind, Name, Settings},
};
use indicatif::HumanBytes;
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

/// Endings of single files, which are never names on the hub.
const FILES: [&str; 2] = ["gguf", "safetensors"];

/// A path, or a name on the hub. Its clones look it up once between them, so that a branch that moves is one commit to all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    given: PathBuf,
    found: Arc<OnceLock<PathBuf>>,
}

impl From<OsString> for Place {
    fn from(given: OsString) -> Self {
        PathBuf::from(given).into()
    }
}

impl From<PathBuf> for Place {
    fn from(given: PathBuf) -> Self {
        Self { given, found: Arc::default() }
    }
}

impl Place {
    /// As it was given.
    pub fn given(&self) -> &Path {
        &self.given
    }

    /// The path: as it was given, where there is something, or the folder with what a repository has of this kind.
    ///
    /// # Errors
    ///
    /// It is neither a path nor a name on the hub, or the hub or the cache does not have it.
    pub fn path(&self, kind: Kind) -> Result<PathBuf> {
        if let Some(path) = self.found.get() {
            return Ok(path.clone());
        }
        let path = locate(&self.given, kind)?;
        Ok(self.found.get_or_init(|| path).clone())
    }
}

/// What a model from here is called: the last part of the path, or of the repository's name.
pub fn name(given: &Path) -> Option<String> {
    match on_hub(given) {
        Some(name) => Some(name.short().to_owned()),
        None => given.file_name().map(|name| name.to_string_lossy().into_owned()),
    }
}

fn locate(given: &Path, kind: Kind) -> Result<PathBuf> {
    match on_hub(given) {
        Some(name) => {
            let settings = Settings::from_env()?;
            if settings.offline { hub::cached(&name, kind, &settings) } else { fetch(&name, kind, &settings) }
        }
        None if is_there(given) => Ok(given.to_owned()),
        None => Err(Error::file(given, "not there, and no name on the hub either (`org/name[@revision]`)")),
    }
}

/// A name on the hub, unless a path has it.
fn on_hub(given: &Path) -> Option<Name> {
    let file = given.extension().is_some_and(|extension| FILES.iter().any(|file| extension == *file));
    if file || is_there(given) { None } else { given.to_str()?.parse().ok() }
}

/// What cannot be looked at is taken to be there: to open it will say why.
fn is_there(path: &Path) -> bool {
    path.try_exists().unwrap_or(true)
}

fn fetch(name: &Name, kind: Kind, settings: &Settings) -> Result<PathBuf> {
    let mut bar: Option<Progress> = None;
    let folder = hub::fetch(name, kind, settings, |event| match event {
        Event::Missing { files, bytes } => {
            let files = if files == 1 { "1 file".into() } else { format!("{files} files") };
            tracing::info!("{name}: fetching {files}, {}", HumanBytes(bytes));
            let of_index = bar.replace(Progress::new(Unit::Bytes, 0, bytes as usize));
            of_index.iter().for_each(Progress::finish);
        }
        Event::Bytes(bytes) => bar.iter_mut().for_each(|bar| bar.set(bytes as usize, String::new())),
        Event::Answer => {}
    })?;
    bar.iter().for_each(Progress::finish);
    tracing::info!("{name}: {}", folder.display());
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_there_is_no_name() {
        // The package's own folder is the working directory of its tests.
        for path in
            ["src/hub", "models/default", "nowhere", "a/b/c", "./a", "/a/b", "a/b.gguf", "a/b.safetensors"]
        {
            assert_eq!(on_hub(Path::new(path)), None, "{path}");
        }
        assert_eq!(on_hub(Path::new("src/nowhere")), "src/nowhere".parse().ok());
    }

    #[test]
    fn what_is_neither_is_said_to_be_neither() {
        let error = Place::from(PathBuf::from("nowhere")).path(Kind::Checkpoint).unwrap_err().to_string();
        assert_eq!(error, "nowhere: not there, and no name on the hub either (`org/name[@revision]`)");
        assert_eq!(Place::from(PathBuf::from("src")).path(Kind::Checkpoint).unwrap(), PathBuf::from("src"));
    }

    #[test]
    fn a_model_of_the_hub_has_its_repositorys_name() {
        for (given, want) in
            [("org/judge@v1", "judge"), ("org/judge", "judge"), ("/a/b", "b"), ("src/hub", "hub")]
        {
            assert_eq!(name(Path::new(given)).as_deref(), Some(want));
        }
    }
}

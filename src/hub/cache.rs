//! The cache of the hub's clients: `models--org--name/` with `blobs/`, `snapshots/COMMIT/` and `refs/REVISION`.

use super::{Kind, Name, Settings, files::shards, is_commit};
use crate::{Result, model::checkpoint::INDEX};
use hf_hub::{Cache, Repo, RepoType};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

/// The repository of a name at one of its revisions.
pub(super) fn repo(name: &Name, revision: &str) -> Repo {
    Repo::with_revision(name.repository.clone(), RepoType::Model, revision.to_owned())
}

/// The folder of a commit's files.
pub(super) fn snapshot(settings: &Settings, name: &Name, commit: &str) -> PathBuf {
    Cache::new(settings.cache.clone()).repo(repo(name, commit)).pointer_path(commit)
}

/// The folder of what was fetched before, without a look at the hub.
///
/// # Errors
///
/// The revision is not in the cache, or a file of it is not.
pub fn cached(name: &Name, kind: Kind, settings: &Settings) -> Result<PathBuf> {
    let folder = commit(name, settings).map(|commit| snapshot(settings, name, &commit));
    let names = folder.as_deref().map(names).unwrap_or_default();
    let whole = kind.files(&names).and_then(|files| match (&folder, files.last()) {
        (Some(folder), Some(last)) if last == INDEX => shards(&folder.join(last), &names).map(drop),
        _ => Ok(()),
    });
    match (folder, whole) {
        (Some(folder), Ok(())) => Ok(folder),
        (_, whole) => {
            let message = whole.err().unwrap_or_else(|| "the revision is not there".into());
            let place = settings.cache.display();
            let why = "which alone is looked at with `HF_HUB_OFFLINE`";
            Err(name.error(format!("neither a path here nor whole in the cache ({place}), {why}: {message}")))
        }
    }
}

/// The repository's own name, of a folder that is a commit's.
pub fn repository(folder: &Path) -> Option<String> {
    folder.file_name()?.to_str().filter(|name| is_commit(name))?;
    let snapshots = folder.parent().filter(|parent| parent.ends_with("snapshots"))?;
    let name = snapshots.parent()?.file_name()?.to_str()?.strip_prefix("models--")?;
    Some(name.replace("--", "/"))
}

/// The commit that a revision was when it was last fetched.
fn commit(name: &Name, settings: &Settings) -> Option<String> {
    if is_commit(&name.revision) {
        return Some(name.revision.clone());
    }
    let refs = settings.cache.join(repo(name, &name.revision).folder_name()).join("refs");
    let text = std::fs::read_to_string(refs.join(&name.revision)).ok()?;
    Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
}

/// Names of a folder's files, those behind a link included.
fn names(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| entry.path().is_file()).filter_map(|e| e.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_has_the_name_of_its_repository() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let path = format!("/c/models--org--Llama-3.1-8B/snapshots/{commit}");
        assert_eq!(repository(Path::new(&path)).as_deref(), Some("org/Llama-3.1-8B"));
        for other in [format!("/c/org/snapshots/{commit}"), format!("/c/models--a--b/{commit}")] {
            assert_eq!(repository(Path::new(&other)), None);
        }
        assert_eq!(repository(Path::new("/c/models--a--b/snapshots/main")), None);
    }
}

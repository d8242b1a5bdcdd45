//! From the hub into its cache, by hf-hub's blocking client.
//!
//! The client has no limit of time, so it works in a thread of its own and tells what it does; who waits for it gives up when
//! nothing has been heard for a while.

use super::{Kind, Name, Settings, cache, files::shards, is_commit, is_file_name};
use crate::{Error, Result, model::checkpoint::INDEX};
use hf_hub::{
    Cache, CacheRepo,
    api::{
        Progress, RepoInfo,
        sync::{Api, ApiBuilder, ApiError, ApiRepo, Metadata},
    },
};
use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    slice,
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread,
};

/// Bytes of a file that holds no tensors.
const MAX_TEXT: usize = 256 << 20;

/// How far a fetch has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// What is not in the cache yet.
    Missing { files: usize, bytes: u64 },
    /// Bytes that have come of those.
    Bytes(u64),
    /// The hub has answered.
    Answer,
}

/// What the thread says to who waits for it.
enum Message {
    Event(Event),
    Done(Result<PathBuf>),
}

/// Brings what is read of a repository into the cache, and returns the folder with it; `told` hears how far it is.
///
/// # Errors
///
/// The hub cannot be reached, is silent for too long or refuses; a file is missing, or is a pickle; the cache cannot be written.
pub fn fetch(name: &Name, kind: Kind, settings: &Settings, mut told: impl FnMut(Event)) -> Result<PathBuf> {
    let (sender, receiver) = mpsc::channel();
    let (patience, seconds) = (settings.patience, settings.patience.as_secs());
    let fetch = Fetch { name: name.clone(), kind, settings: settings.clone(), told: sender.clone() };
    let work = move || sender.send(Message::Done(fetch.run()));
    thread::Builder::new().name("hub".into()).spawn(work).map_err(Error::io("thread"))?;
    loop {
        match receiver.recv_timeout(patience) {
            Ok(Message::Event(event)) => told(event),
            Ok(Message::Done(result)) => return result,
            Err(RecvTimeoutError::Timeout) => {
                let hint = "hint: `HF_HUB_DOWNLOAD_TIMEOUT` waits longer; what has come is kept";
                return Err(name.error(format!("the hub has said nothing for {seconds} s ({hint})")));
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(name.error("the hub's answer could not be understood"));
            }
        }
    }
}

/// One fetch, as the thread has it.
struct Fetch {
    name: Name,
    kind: Kind,
    settings: Settings,
    told: Sender<Message>,
}

impl Fetch {
    fn run(&self) -> Result<PathBuf> {
        let cache = Cache::new(self.settings.cache.clone());
        let mut builder = ApiBuilder::from_cache(cache.clone()).with_token(self.settings.token.clone());
        if let Some(endpoint) = &self.settings.endpoint {
            builder = builder.with_endpoint(endpoint.clone());
        }
        let api = builder.build().map_err(|e| self.failed("", &e))?;
        let named = cache::repo(&self.name, &self.name.revision);
        let RepoInfo { sha, siblings } = self.info(&api.repo(named.clone()))?;
        // Of the commit, not of the branch, which may move while its files are fetched.
        let pinned = cache::repo(&self.name, &sha);
        let source = Source {
            fetch: self,
            blobs: cache.repo(pinned.clone()),
            repo: api.repo(pinned),
            api,
            folder: cache::snapshot(&self.settings, &self.name, &sha),
            commit: sha,
        };
        source.bring_all(&siblings.into_iter().map(|sibling| sibling.rfilename).collect())?;
        // Only now: offline, the revision is what was fetched whole.
        cache.repo(named).create_ref(&source.commit).map_err(Error::io(&self.settings.cache))?;
        Ok(source.folder)
    }

    /// The commit and the names of its files.
    fn info(&self, repo: &ApiRepo) -> Result<RepoInfo> {
        let request = repo.info_request().config().http_status_as_error(false).build();
        let mut answer = request.call().map_err(|e| self.unreachable("", &e))?;
        if !answer.status().is_success() {
            let code = answer.headers().get("x-error-code").and_then(|code| code.to_str().ok());
            return Err(self.refused("", answer.status().as_u16(), code));
        }
        let info: RepoInfo = answer.body_mut().read_json().map_err(|e| self.unreachable("", &e))?;
        self.tell(Event::Answer);
        match is_commit(&info.sha) {
            true => Ok(info),
            false => Err(self.name.error("the hub's answer names no commit")),
        }
    }

    /// Who has given up waiting need not hear.
    fn tell(&self, event: Event) {
        let _ = self.told.send(Message::Event(event));
    }

    /// What the client failed at; `file` is where it was, or empty.
    fn failed(&self, file: &str, error: &ApiError) -> Error {
        match error {
            ApiError::RequestError(error) => match **error {
                ureq::Error::StatusCode(status) => self.refused(file, status, None),
                ref error => self.unreachable(file, error),
            },
            ApiError::LockAcquisition(path) => {
                let message = format!("another process is fetching it (its lock: {})", path.display());
                self.at(file, &message)
            }
            error => self.at(file, &error.to_string()),
        }
    }

    fn unreachable(&self, file: &str, error: &ureq::Error) -> Error {
        let hint = "hint: `HF_HUB_OFFLINE=1` looks at the cache alone";
        self.at(file, &format!("the hub cannot be reached: {error} ({hint})"))
    }

    fn refused(&self, file: &str, status: u16, code: Option<&str>) -> Error {
        let token = match self.settings.token {
            Some(_) => "hint: may the token of `HF_TOKEN` read it?",
            None => "hint: a private one needs `HF_TOKEN`",
        };
        let message = match (status, code) {
            (404, Some("RevisionNotFound")) => "no such revision".into(),
            (403, _) | (_, Some("GatedRepo")) => {
                format!(
                    "the hub refuses it: its page may ask for consent to terms ({token}; status {status})"
                )
            }
            (401 | 404, _) if file.is_empty() => {
                format!("neither a path here nor a repository that the hub shows ({token}; status {status})")
            }
            (401, _) => format!("the hub refuses it ({token}; status {status})"),
            _ => format!("the hub answers with status {status}"),
        };
        self.at(file, &message)
    }

    fn at(&self, file: &str, message: &str) -> Error {
        match file {
            "" => self.name.error(message),
            file => self.name.error(format!("{file}: {message}")),
        }
    }
}

/// One commit of the repository, on the hub and in the cache.
struct Source<'a> {
    fetch: &'a Fetch,
    commit: String,
    api: Api,
    repo: ApiRepo,
    blobs: CacheRepo,
    /// Where its files belong.
    folder: PathBuf,
}

impl Source<'_> {
    /// Brings what is read of the files that there are, the weights last.
    fn bring_all(&self, names: &BTreeSet<String>) -> Result<()> {
        let wrong = |message| self.fetch.name.error(message);
        let mut files = self.fetch.kind.files(names).map_err(wrong)?;
        if let Some(index) = files.pop_if(|last| last == INDEX) {
            self.bring(slice::from_ref(&index))?;
            files.extend(shards(&self.folder.join(index), names).map_err(wrong)?);
        }
        self.bring(&files)
    }

    /// Brings those files that are not in the cache.
    fn bring(&self, files: &[String]) -> Result<()> {
        let missing = files.iter().filter(|file| !self.folder.join(file).is_file());
        let missing: Vec<_> = missing.map(|file| Ok((file, self.metadata(file)?))).collect::<Result<_>>()?;
        let bytes = missing.iter().map(|(_, metadata)| metadata.size() as u64).sum();
        if !missing.is_empty() {
            self.fetch.tell(Event::Missing { files: missing.len(), bytes });
        }
        let mut before = 0;
        for (file, metadata) in missing {
            self.bring_one(file, &metadata, before)?;
            before += metadata.size() as u64;
            self.fetch.tell(Event::Bytes(before));
        }
        Ok(())
    }

    /// Size and digest of a file, which the client makes paths of.
    fn metadata(&self, file: &str) -> Result<Metadata> {
        let metadata = self.api.metadata(&self.repo.url(file)).map_err(|e| self.fetch.failed(file, &e))?;
        self.fetch.tell(Event::Answer);
        let wrong = |message: &str| Err(self.fetch.at(file, message));
        // A weak digest has a part before it.
        let is_path = metadata.etag().split('/').all(is_file_name);
        match () {
            () if metadata.commit_hash() != self.commit => wrong("the hub answers with another commit's"),
            () if !is_path => wrong("the hub's digest of it cannot be a file's name"),
            () if !file.ends_with(".safetensors") && metadata.size() > MAX_TEXT => {
                wrong(&format!("{} bytes, at most {MAX_TEXT} are read", metadata.size()))
            }
            () => Ok(metadata),
        }
    }

    fn bring_one(&self, file: &str, metadata: &Metadata, before: u64) -> Result<()> {
        let (blob, pointer) = (self.blobs.blob_path(metadata.etag()), self.folder.join(file));
        let size = metadata.size() as u64;
        let whole = || fs::metadata(&blob).is_ok_and(|there| there.len() == size);
        // A link to what is there no more.
        if pointer.is_symlink() {
            fs::remove_file(&pointer).map_err(Error::io(&pointer))?;
        }
        // Another commit's, with the same content.
        if whole() {
            fs::create_dir_all(&self.folder).map_err(Error::io(&self.folder))?;
            let target = Path::new("../../blobs").join(metadata.etag());
            return symlink(target, &pointer).map_err(Error::io(&pointer));
        }
        let meter = Meter { told: self.fetch.told.clone(), before, done: 0 };
        let fetched = self.repo.download_with_progress(file, meter);
        fetched.map_err(|e| self.fetch.failed(file, &e))?;
        match whole() {
            true => Ok(()),
            false => {
                fs::remove_file(&blob).map_err(Error::io(&blob))?;
                Err(self.fetch.at(file, &format!("not the {size} bytes that the hub has")))
            }
        }
    }
}

/// Tells of the bytes of one file, after those `before` it.
struct Meter {
    told: Sender<Message>,
    before: u64,
    done: u64,
}

impl Progress for Meter {
    fn init(&mut self, _size: usize, _file: &str) {
        self.done = 0;
    }

    fn update(&mut self, bytes: usize) {
        self.done += bytes as u64;
        // Who has given up waiting need not hear.
        let _ = self.told.send(Message::Event(Event::Bytes(self.before + self.done)));
    }

    fn finish(&mut self) {}
}

//! Adapters that come and go while the service runs.
//!
//! An administrator names a folder below one root; base and flags are those of the start. Adapter, head, posterior and template
//! are read, checked and warmed up as one, beside the models that go on scoring, and come into service at once as a new
//! [`Generation`] or not at all. Requests that were admitted before keep theirs. Changes come one after the other, so that a
//! condition on what is served now (`If-Match`, `If-None-Match: *`) still holds when the new model takes its place.

use std::{
    collections::BTreeMap,
    fmt,
    fs::read_dir,
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::http::{
    HeaderMap, HeaderValue,
    header::{IF_MATCH, IF_NONE_MATCH},
};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tracing::info;

use super::{App, answering, error::ApiError, off_runtime};
use crate::{
    Error, Result,
    engine::{generation::Generation, registry::Model},
};

/// Bytes of a model's name.
const MAX_NAME: usize = 128;
/// The log of what administrators do.
const AUDIT: &str = "rewarden::audit";

/// Models that have come while the service ran, and where they are below the root.
pub type Paths = BTreeMap<String, String>;

/// Makes a model of a name and a folder.
type Load = dyn Fn(&str, &Path) -> Result<Loaded> + Send + Sync;

/// A model that was read, and the bytes of memory that it takes.
pub struct Loaded {
    pub model: Model,
    pub bytes: u64,
}

/// Where adapters may come from, and what has come.
pub struct Adapters {
    root: PathBuf,
    most: Option<u64>,
    load: Arc<Load>,
    hot: Arc<Mutex<Vec<Hot>>>,
}

/// A model that has come while the service ran.
struct Hot {
    model: Arc<Generation>,
    path: String,
    bytes: u64,
    /// Whether it stays when room is needed.
    pinned: bool,
}

/// What is asked for.
#[derive(Debug)]
pub struct Wanted {
    /// The name to serve it under.
    pub name: String,
    /// Its folder, below the root.
    pub path: String,
    /// Whether it takes the place of a model that has this name.
    pub replace: bool,
    /// Whether it stays when room is needed.
    pub pinned: bool,
}

impl fmt::Debug for Adapters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Adapters").field("root", &self.root).field("most", &self.most).finish_non_exhaustive()
    }
}

impl Adapters {
    /// Lets adapters come from below `root`, as `load` reads them, which may take `most` bytes of memory between them.
    ///
    /// # Errors
    ///
    /// The root is not a folder.
    pub fn new(
        root: &Path,
        most: Option<u64>,
        load: impl Fn(&str, &Path) -> Result<Loaded> + Send + Sync + 'static,
    ) -> Result<Self> {
        let root = root.canonicalize().map_err(Error::io(root))?;
        if !root.is_dir() {
            return Err(Error::file(root, "not a folder"));
        }
        Ok(Self { root, most, load: Arc::new(load), hot: Arc::default() })
    }

    /// The folder at a path below the root; nothing in it may be anywhere else.
    fn folder(&self, path: &str) -> Result<PathBuf> {
        let wrong = || Error::field("lora_path", "must be a folder below the one of `--adapter-root`");
        let inside = |path: &Path| path.canonicalize().ok().filter(|path| path.starts_with(&self.root));
        let folder = inside(&self.root.join(path)).filter(|folder| folder.is_dir()).ok_or_else(wrong)?;
        for entry in read_dir(&folder).map_err(|_| wrong())? {
            inside(&entry.map_err(|_| wrong())?.path()).ok_or_else(wrong)?;
        }
        Ok(folder)
    }
}

impl Hot {
    fn is(&self, model: Option<&Arc<Generation>>) -> bool {
        model.is_some_and(|model| model.number() == self.model.number())
    }
}

/// What has come, held while one more comes or goes.
type Turn = OwnedMutexGuard<Vec<Hot>>;

impl App {
    /// Reads an adapter and puts it into service; those that nobody has asked for longest make room for it. Tells which
    /// have come so far.
    pub async fn load_adapter(&self, wanted: Wanted, headers: &HeaderMap) -> Result<Paths, ApiError> {
        let adapters = self.adapters()?;
        check_name(&wanted.name)?;
        let turn = Arc::clone(&adapters.hot).lock_owned().await;
        let current = self.current(&wanted.name, headers)?;
        if current.is_some() && !wanted.replace {
            let message = format!("`{}` is served already (hint: `load_inplace`)", wanted.name);
            return Err(Error::field("lora_name", message).into());
        }
        let (Loaded { model, bytes }, mut hot) = adapters.read(&wanted, turn).await?;
        let leaving = leaving(&hot, current.as_ref(), bytes, adapters.most)?;
        // What came with the start stays, and so does whatever takes the place of one that stays.
        let stays = |current| hot.iter().find(|hot| hot.is(Some(current))).is_none_or(|hot| hot.pinned);
        let pinned = wanted.pinned || current.as_ref().is_some_and(stays);
        for model in leaving {
            self.retire(&mut hot, &model, "evicted");
        }
        let model = self.engine().registry().put(model);
        hot.retain(|hot| !hot.is(current.as_ref()));
        answering::by(&model);
        let (name, fingerprint, path) = (&model.name, &model.fingerprint, wanted.path);
        info!(target: AUDIT, name, fingerprint, path, bytes, "loaded");
        hot.push(Hot { model, path, bytes, pinned });
        Ok(paths(&hot))
    }

    /// Takes a model out of service; requests that were admitted to it are answered. Tells which have come and are left.
    pub async fn unload_adapter(&self, name: &str, headers: &HeaderMap) -> Result<Paths, ApiError> {
        let mut hot = Arc::clone(&self.adapters()?.hot).lock_owned().await;
        let model = self.current(name, headers)?.ok_or_else(|| Error::UnknownModel(name.into()))?;
        let default = self.engine().registry().find(None)?;
        if model.number() == default.number() {
            let message = "is the default model, which stays (hint: load another one in its place)";
            return Err(Error::field("lora_name", message).into());
        }
        answering::by(&model);
        self.retire(&mut hot, &model, "unloaded");
        Ok(paths(&hot))
    }

    fn adapters(&self) -> Result<&Adapters, ApiError> {
        self.shared.adapters.as_ref().ok_or_else(ApiError::fixed)
    }

    /// The model under a name, if the request's condition on it holds.
    fn current(&self, name: &str, headers: &HeaderMap) -> Result<Option<Arc<Generation>>, ApiError> {
        let current = self.engine().registry().models().into_iter().find(|model| model.name == name);
        match holds(headers, current.as_ref().map(|model| model.fingerprint.as_str())) {
            true => Ok(current),
            false => Err(ApiError::precondition(name)),
        }
    }

    fn retire(&self, hot: &mut Vec<Hot>, model: &Arc<Generation>, how: &str) {
        hot.retain(|hot| !hot.is(Some(model)));
        self.engine().registry().remove(&model.name);
        self.metrics().forget(&model.name);
        let (name, fingerprint) = (&model.name, &model.fingerprint);
        info!(target: AUDIT, name, fingerprint, "{how}");
    }
}

impl Adapters {
    /// Reads a model off the runtime. The turn goes along: should the client leave, the next change still waits for the end.
    async fn read(&self, wanted: &Wanted, turn: Turn) -> Result<(Loaded, Turn)> {
        let (folder, load, name) = (self.folder(&wanted.path)?, Arc::clone(&self.load), wanted.name.clone());
        let read = move || {
            let mut loaded = load(&name, &folder)?;
            loaded.model.warm_up()?;
            Ok((loaded, turn))
        };
        off_runtime(read).await.map_err(|error| match error {
            Error::Internal(_) => error,
            error => Error::field("lora_path", error),
        })
    }
}

fn paths(hot: &[Hot]) -> Paths {
    hot.iter().map(|hot| (hot.model.name.clone(), hot.path.clone())).collect()
}

fn check_name(name: &str) -> Result<()> {
    let is_plain = |c: char| !c.is_control() && !c.is_whitespace();
    match !name.is_empty() && name.len() <= MAX_NAME && name.chars().all(is_plain) {
        true => Ok(()),
        false => Err(Error::field(
            "lora_name",
            format!("must have 1 to {MAX_NAME} bytes, no white space among them"),
        )),
    }
}

/// The models that go for one of so many bytes, which itself takes the place of `replaced`: those that were not asked for longest.
fn leaving(
    hot: &[Hot],
    replaced: Option<&Arc<Generation>>,
    bytes: u64,
    most: Option<u64>,
) -> Result<Vec<Arc<Generation>>, ApiError> {
    let Some(most) = most else { return Ok(Vec::new()) };
    let mut others: Vec<&Hot> = hot.iter().filter(|hot| !hot.is(replaced)).collect();
    let mut total = others.iter().map(|hot| hot.bytes).fold(bytes, u64::saturating_add);
    others.retain(|hot| !hot.pinned);
    others.sort_by_key(|hot| hot.model.used());
    let mut leaving = Vec::new();
    for hot in others {
        if total <= most {
            break;
        }
        total -= hot.bytes;
        leaving.push(Arc::clone(&hot.model));
    }
    if total <= most { Ok(leaving) } else { Err(ApiError::no_room(bytes, most)) }
}

/// Whether the condition of a request holds: `If-Match` with the fingerprint of what is served, or `*` for anything;
/// `If-None-Match: *` for nothing.
fn holds(headers: &HeaderMap, current: Option<&str>) -> bool {
    let listed = |value: &HeaderValue| {
        let tags = value.to_str().unwrap_or_default().split(',').map(|tag| tag.trim().trim_matches('"'));
        current.is_some_and(|current| tags.into_iter().any(|tag| tag == "*" || tag == current))
    };
    let mut wanted = headers.get_all(IF_MATCH).iter().peekable();
    let matches = wanted.peek().is_none() || wanted.any(listed);
    matches && !headers.get_all(IF_NONE_MATCH).iter().any(listed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_on_what_is_served() {
        let table = [
            (None, None, Some("a"), true),
            (None, None, None, true),
            (Some("\"a\""), None, Some("a"), true),
            (Some("a"), None, Some("a"), true),
            (Some("\"b\", \"a\""), None, Some("a"), true),
            (Some("\"b\""), None, Some("a"), false),
            (Some("\"a\""), None, None, false),
            (Some("*"), None, Some("a"), true),
            (Some("*"), None, None, false),
            (None, Some("*"), Some("a"), false),
            (None, Some("*"), None, true),
            (None, Some("\"a\""), Some("a"), false),
            (None, Some("\"b\""), Some("a"), true),
        ];
        for (matches, none, current, want) in table {
            let value = |name, text: Option<&'static str>| text.map(|t| (name, HeaderValue::from_static(t)));
            let headers =
                value(IF_MATCH, matches).into_iter().chain(value(IF_NONE_MATCH, none)).collect::<HeaderMap>();
            assert_eq!(holds(&headers, current), want, "{headers:?} {current:?}");
        }
    }

    #[test]
    fn names_are_short_and_plain() {
        for name in ["a", "judge-v2", "org/judge@v1", "ü"] {
            check_name(name).unwrap();
        }
        for name in ["", "a b", "a\n", &"a".repeat(MAX_NAME + 1)] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
    }
}

//! A stub of the hub on a free port: the routes, headers and redirects that its clients rely on, over folders.

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Path as Part, State},
    http::{HeaderMap, StatusCode, header::RANGE},
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::stream::{self, StreamExt};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::oneshot;

/// How the hub answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Plain,
    /// Only to who brings this token.
    Token(&'static str),
    /// Files are refused, though their names are shown.
    Gated,
    /// The bodies of large files end in their middle.
    BrokenOff,
    /// They are shorter than they were said to be.
    Short,
    Silence,
    /// The commit is a path out of the cache.
    Escape,
}

/// Files of a commit by their names.
type Files = BTreeMap<String, Bytes>;

struct Inner {
    address: String,
    answer: Answer,
    /// Commits by repository and revision.
    revisions: BTreeMap<(String, String), String>,
    commits: BTreeMap<String, Files>,
    /// Large files by their digests.
    blobs: BTreeMap<String, Bytes>,
    /// Path and range of each request.
    requests: Vec<String>,
}

type Shared = Arc<Mutex<Inner>>;

/// The stub, until it is dropped.
pub struct Hub {
    inner: Shared,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Hub {
    pub fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let inner = Arc::new(Mutex::new(Inner {
            address: format!("http://{}", listener.local_addr().unwrap()),
            answer: Answer::Plain,
            revisions: BTreeMap::new(),
            commits: BTreeMap::new(),
            blobs: BTreeMap::new(),
            requests: Vec::new(),
        }));
        let router = Router::new()
            .route("/api/models/{org}/{name}/revision/{revision}", get(info))
            .route("/{org}/{name}/resolve/{revision}/{file}", get(resolve))
            .route("/cdn/{digest}", get(large))
            .with_state(Arc::clone(&inner));
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    served = async { axum::serve(listener, router).await } => served.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        Self { inner, stop: Some(stop), thread: Some(thread) }
    }

    pub fn address(&self) -> String {
        self.inner.lock().unwrap().address.clone()
    }

    pub fn set(&self, answer: Answer) {
        self.inner.lock().unwrap().answer = answer;
    }

    /// Makes a folder's files a commit, whose name is returned, and what the revision is.
    pub fn add(&self, repository: &str, revision: &str, folder: &Path) -> String {
        let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
        let files: Files = entries
            .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap().into()))
            .collect();
        let mut inner = self.inner.lock().unwrap();
        let all = files
            .iter()
            .fold(Sha256::new(), |hash, (name, bytes)| hash.chain_update(name).chain_update(bytes));
        let commit = hex(all)[..40].to_owned();
        for revision in [revision, &commit] {
            inner.revisions.insert((repository.into(), revision.into()), commit.clone());
        }
        inner.commits.insert(commit.clone(), files);
        commit
    }

    /// The requests since the last time this was asked.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.inner.lock().unwrap().requests)
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Notes a request; an error is an answer that comes before any other.
async fn note(shared: &Shared, path: String, headers: &HeaderMap) -> Result<Answer, Response> {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let answer = {
        let mut inner = shared.lock().unwrap();
        inner.requests.push(format!("{path} {}", header(RANGE.as_str())).trim_end().to_owned());
        inner.answer
    };
    match answer {
        Answer::Silence => {
            tokio::time::sleep(Duration::from_secs(600)).await;
            Err(StatusCode::REQUEST_TIMEOUT.into_response())
        }
        Answer::Token(token) if header("authorization") != format!("Bearer {token}") => {
            Err(denied(StatusCode::UNAUTHORIZED, "RepoNotFound"))
        }
        answer => Ok(answer),
    }
}

fn denied(status: StatusCode, code: &str) -> Response {
    (status, [("x-error-code", code)]).into_response()
}

async fn info(
    State(shared): State<Shared>,
    Part((org, name, revision)): Part<(String, String, String)>,
    headers: HeaderMap,
) -> Response {
    let repository = format!("{org}/{name}");
    let path = format!("/api/models/{repository}/revision/{revision}");
    let answer = match note(&shared, path, &headers).await {
        Ok(answer) => answer,
        Err(response) => return response,
    };
    let inner = shared.lock().unwrap();
    let Some(commit) = inner.revisions.get(&(repository.clone(), revision)) else {
        let known = inner.revisions.keys().any(|(known, _)| *known == repository);
        return denied(StatusCode::NOT_FOUND, if known { "RevisionNotFound" } else { "RepoNotFound" });
    };
    let names = inner.commits[commit].keys().map(|name| serde_json::json!({ "rfilename": name }));
    let siblings: Vec<_> = names.collect();
    let commit = if answer == Answer::Escape { "../../../escaped" } else { commit };
    axum::Json(serde_json::json!({ "id": repository, "sha": commit, "siblings": siblings })).into_response()
}

/// A small file, or a redirect to a large one that tells its size and digest.
async fn resolve(
    State(shared): State<Shared>,
    Part((org, name, revision, file)): Part<(String, String, String, String)>,
    headers: HeaderMap,
) -> Response {
    let repository = format!("{org}/{name}");
    match note(&shared, format!("/{repository}/resolve/{revision}/{file}"), &headers).await {
        Ok(Answer::Gated) => return denied(StatusCode::FORBIDDEN, "GatedRepo"),
        Ok(_) => {}
        Err(response) => return response,
    }
    let mut inner = shared.lock().unwrap();
    let commit = inner.revisions.get(&(repository, revision)).cloned();
    let found = commit.and_then(|commit| Some((inner.commits[&commit].get(&file)?.clone(), commit)));
    let Some((bytes, commit)) = found else {
        return denied(StatusCode::NOT_FOUND, "EntryNotFound");
    };
    let digest = hex(Sha256::new_with_prefix(&bytes));
    let mut response = match file.ends_with(".safetensors") {
        true => {
            let location = format!("{}/cdn/{digest}", inner.address);
            let size = bytes.len().to_string();
            inner.blobs.insert(digest.clone(), bytes);
            let linked = [("x-linked-size", size), ("x-linked-etag", format!("\"{digest}\""))];
            (StatusCode::FOUND, linked, [("location", location)]).into_response()
        }
        false => part(&bytes, &headers),
    };
    response.headers_mut().insert("x-repo-commit", commit.parse().unwrap());
    response.headers_mut().insert("etag", format!("\"{digest}\"").parse().unwrap());
    response
}

async fn large(State(shared): State<Shared>, Part(digest): Part<String>, headers: HeaderMap) -> Response {
    let answer = match note(&shared, format!("/cdn/{digest}"), &headers).await {
        Ok(answer) => answer,
        Err(response) => return response,
    };
    let bytes = shared.lock().unwrap().blobs[&digest].clone();
    let mut response = part(&bytes, &headers);
    let first = headers.get(RANGE).is_none_or(|range| range == "bytes=0-");
    if answer == Answer::BrokenOff && first {
        // What is on its way is lost with the connection.
        let end = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            Err(std::io::Error::other("broken off"))
        };
        let half = stream::iter([Ok(bytes.slice(..bytes.len() / 2))]);
        response.headers_mut().insert("content-length", bytes.len().into());
        *response.body_mut() = Body::from_stream(half.chain(stream::once(end)));
    }
    if answer == Answer::Short && first {
        response.headers_mut().remove("content-length");
        *response.body_mut() = bytes.slice(..bytes.len() / 2).into();
    }
    response
}

/// The range that is asked for, `bytes=A-[B]`.
fn part(bytes: &Bytes, headers: &HeaderMap) -> Response {
    let range =
        headers.get(RANGE).and_then(|range| range.to_str().ok()?.strip_prefix("bytes=")?.split_once('-'));
    let (first, last) = range.unwrap_or(("0", ""));
    let first: usize = first.parse().unwrap();
    let last = last.parse().unwrap_or(bytes.len() - 1);
    let body = bytes.slice(first..=last);
    let content = [("content-range", format!("bytes {first}-{last}/{}", bytes.len()))];
    (StatusCode::PARTIAL_CONTENT, content, body).into_response()
}

//! `Idempotency-Key`: a request that is sent again with its key is not computed again.
//!
//! An answer that was a success is kept for some time, and given to whoever sends the same body to the same path under the
//! same key with the same API key; another body under the key is refused. One that comes while the first is still being
//! answered waits for it, and takes its place if it fails or its client goes away. What is kept is bounded, and the oldest goes
//! first.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Extension,
    body::{Body, Bytes, to_bytes},
    extract::Request,
    http::{HeaderName, HeaderValue, header::CONTENT_TYPE},
    middleware::Next,
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};
use tokio::sync::Mutex as AsyncMutex;

use super::{App, answering::MODEL, error::ApiError};
use crate::{Error, engine::terms::Client};

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Says of an answer that it was kept.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// Bytes of a key.
const MAX_KEY: usize = 128;
/// How long an answer is kept.
const KEPT: Duration = Duration::from_secs(600);
/// How many are, and how many bytes of them.
const MOST: usize = 1024;
const MOST_BYTES: usize = 32 << 20;

type Hash = [u8; 32];

/// Answers by the keys of their requests.
#[derive(Debug, Default)]
pub struct Replays {
    store: Mutex<Store>,
}

#[derive(Debug, Default)]
struct Store {
    slots: HashMap<Hash, Slot>,
    /// The keys of `slots`, oldest first, each with its time.
    order: VecDeque<(Instant, Hash)>,
    bytes: usize,
}

/// A key's request, and its answer once there is one; locked while one is being made.
#[derive(Debug, Clone)]
struct Slot {
    body: Hash,
    answer: Arc<AsyncMutex<Option<Answer>>>,
    bytes: usize,
}

/// The body of a success.
#[derive(Debug, Clone)]
struct Answer {
    media: Option<HeaderValue>,
    model: Option<HeaderValue>,
    body: Bytes,
}

impl Replays {
    /// Finds the place of a key's answer, or makes one; a key that came with another body is refused.
    fn slot(&self, key: Hash, body: Hash, now: Instant) -> Result<Arc<AsyncMutex<Option<Answer>>>, Error> {
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        store.forget(now);
        match store.slots.get(&key) {
            Some(slot) if slot.body == body => Ok(Arc::clone(&slot.answer)),
            Some(_) => Err(Error::field(KEY.as_str(), "was used with another body")),
            None => {
                let answer = Arc::default();
                store.slots.insert(key, Slot { body, answer: Arc::clone(&answer), bytes: 0 });
                store.order.push_back((now, key));
                Ok(answer)
            }
        }
    }

    /// Counts the bytes of an answer that is kept now.
    fn weigh(&self, key: Hash, bytes: usize, now: Instant) {
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = store.slots.get_mut(&key) {
            slot.bytes = bytes;
            store.bytes += bytes;
        }
        store.forget(now);
    }
}

impl Store {
    /// Drops what is too old or too much.
    fn forget(&mut self, now: Instant) {
        while let Some((since, key)) = self.order.front() {
            let is_due = *since + KEPT <= now || self.slots.len() > MOST || self.bytes > MOST_BYTES;
            if !is_due {
                break;
            }
            self.bytes -= self.slots.remove(key).map_or(0, |slot| slot.bytes);
            self.order.pop_front();
        }
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body));
        let media = self.media.map(|media| (CONTENT_TYPE, media));
        let model = self.model.map(|model| (MODEL, model));
        let headers = media.into_iter().chain(model).chain([(REPLAYED, HeaderValue::from_static("true"))]);
        response.headers_mut().extend(headers);
        response
    }
}

/// Answers a request by its key, where it has one.
pub async fn replay(
    Extension(app): Extension<App>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let Some(key) = request.headers().get(&KEY) else { return Ok(next.run(request).await) };
    if key.is_empty() || key.len() > MAX_KEY {
        return Err(Error::field(KEY.as_str(), format!("must have 1 to {MAX_KEY} bytes")).into());
    }
    let client = request.extensions().get::<Client>().cloned().unwrap_or_default();
    let key = key_of(request.uri().path(), &client, key);
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, app.config().body_limit).await.map_err(|_| ApiError::body_too_large())?;
    let slot = app.replays().slot(key, Sha256::digest(&body).into(), Instant::now())?;
    let mut kept = slot.lock().await;
    if let Some(answer) = &*kept {
        return Ok(answer.clone().into_response());
    }
    let response = next.run(Request::from_parts(parts, Body::from(body))).await;
    if !response.status().is_success() {
        return Ok(response);
    }
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.map_err(ApiError::body)?;
    let header = |name: HeaderName| parts.headers.get(name).cloned();
    *kept = Some(Answer { media: header(CONTENT_TYPE), model: header(MODEL), body: body.clone() });
    app.replays().weigh(key, body.len(), Instant::now());
    Ok(Response::from_parts(parts, Body::from(body)))
}

/// Of path, client and key: nobody is given another's answer.
fn key_of(path: &str, Client(client): &Client, key: &HeaderValue) -> Hash {
    let client = client.as_deref().unwrap_or_default();
    let mut digest = Sha256::new();
    for part in [path.as_bytes(), client.as_bytes(), key.as_bytes()] {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(byte: u8) -> Hash {
        [byte; 32]
    }

    #[test]
    fn a_key_is_its_bodys_until_it_is_forgotten() {
        let (replays, now) = (Replays::default(), Instant::now());
        let first = replays.slot(hash(1), hash(2), now).unwrap();
        assert!(Arc::ptr_eq(&first, &replays.slot(hash(1), hash(2), now).unwrap()));
        assert!(replays.slot(hash(1), hash(3), now).is_err());
        let later = now + KEPT;
        assert!(!Arc::ptr_eq(&first, &replays.slot(hash(1), hash(3), later).unwrap()));
    }

    #[test]
    fn what_is_kept_is_bounded_in_number_and_bytes() {
        let (replays, now) = (Replays::default(), Instant::now());
        let key = |i: usize| -> Hash { Sha256::digest(i.to_le_bytes()).into() };
        for i in 0..2 * MOST {
            replays.slot(key(i), hash(0), now).unwrap();
        }
        let count = || replays.store.lock().unwrap().slots.len();
        assert!(count() <= MOST + 1, "{}", count());
        let last = key(2 * MOST - 1);
        replays.weigh(last, MOST_BYTES + 1, now);
        assert_eq!((count(), replays.store.lock().unwrap().bytes), (0, 0));
    }

    #[test]
    fn keys_of_other_paths_and_other_clients_are_others() {
        let key = HeaderValue::from_static("k");
        let (nobody, somebody) = (Client::default(), Client(Some("x".into())));
        let all = [key_of("/a", &nobody, &key), key_of("/b", &nobody, &key), key_of("/a", &somebody, &key)];
        assert!(all[0] != all[1] && all[0] != all[2]);
        assert_eq!(all[0], key_of("/a", &nobody, &key));
    }
}

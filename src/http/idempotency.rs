//! `Idempotency-Key`: a request that is sent again with its key is not computed again.
//!
//! An answer that was a success is kept for some time, and given to whoever sends the same body to the same path under the
//! same key with the same API key; another body under the key is refused. One that comes while the first is still being
//! answered waits for it, and takes its place if it fails or its client goes away. What is kept is bounded, and shared between
//! clients (`engine/shares.rs`): one that needs room loses its own oldest answers.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
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
use crate::{
    Error,
    engine::{queue::Load, shares::Shares, terms::Client},
};

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
#[derive(Debug)]
pub struct Replays {
    store: Mutex<Store>,
}

#[derive(Debug)]
struct Store {
    slots: HashMap<Hash, Slot>,
    /// The keys of `slots`, oldest first, each with its time.
    order: VecDeque<(Instant, Hash)>,
    /// What each client has here; bytes stand for tokens.
    shares: Shares,
}

/// A key's request, and its answer once there is one; locked while one is being made.
#[derive(Debug)]
struct Slot {
    client: Client,
    body: Hash,
    answer: Kept,
    counted: Load,
}

type Kept = Arc<AsyncMutex<Option<Answer>>>;

/// The body of a success.
#[derive(Debug, Clone)]
struct Answer {
    media: Option<HeaderValue>,
    model: Option<HeaderValue>,
    body: Bytes,
}

impl Default for Replays {
    fn default() -> Self {
        Self::new(Load { tokens: MOST_BYTES, items: MOST })
    }
}

impl Replays {
    fn new(bounds: Load) -> Self {
        let (slots, order, shares) = (HashMap::new(), VecDeque::new(), Shares::new(bounds));
        Self { store: Mutex::new(Store { slots, order, shares }) }
    }

    /// Finds the place of a key's answer, or makes one; a key that came with another body is refused. Without room among its own
    /// client's, the place is nobody else's, and the answer is not kept.
    fn slot(&self, key: Hash, client: &Client, body: Hash, now: Instant) -> Result<Place<'_>, Error> {
        let mut store = self.lock();
        store.forget(now);
        let answer = match store.slots.get(&key) {
            Some(slot) if slot.body == body => Arc::clone(&slot.answer),
            Some(_) => return Err(Error::field(KEY.as_str(), "was used with another body")),
            None => {
                let answer = Kept::default();
                if let Some(counted) = store.room(client, Load { tokens: 0, items: 1 }, &key) {
                    let slot = Slot { client: client.clone(), body, answer: Arc::clone(&answer), counted };
                    store.slots.insert(key, slot);
                    store.order.push_back((now, key));
                }
                answer
            }
        };
        Ok(Place { replays: self, key, answer })
    }

    /// The store is whole between any two of its methods.
    fn lock(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the answer of a request with a key is kept; what is left without one when this is dropped, is forgotten.
struct Place<'a> {
    replays: &'a Replays,
    key: Hash,
    answer: Kept,
}

impl Place<'_> {
    /// Counts the bytes of the answer that is kept now, once; without room for them it is not kept.
    fn weigh(&self, bytes: usize) {
        let mut store = self.replays.lock();
        let Some(slot) = store.slots.get(&self.key).filter(|slot| Arc::ptr_eq(&slot.answer, &self.answer))
        else {
            return;
        };
        let (client, before) = (slot.client.clone(), slot.counted);
        let wanted = Load { tokens: bytes.saturating_sub(before.tokens), items: 0 };
        match store.room(&client, wanted, &self.key) {
            Some(more) => {
                let slot = store.slots.get_mut(&self.key);
                slot.into_iter().for_each(|slot| slot.counted = before.plus(more));
            }
            None => store.drop_slot(&self.key),
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut store = self.replays.lock();
        // Whoever else waits for the answer, or makes it, holds it too.
        let alone = Arc::strong_count(&self.answer) == 2;
        let empty = self.answer.try_lock().is_ok_and(|answer| answer.is_none());
        let is_here = store.slots.get(&self.key).is_some_and(|slot| Arc::ptr_eq(&slot.answer, &self.answer));
        if alone && empty && is_here {
            store.drop_slot(&self.key);
        }
    }
}

impl Store {
    /// Takes room for a client; its own oldest go first, but the one that it is for, and nobody else's.
    fn room(&mut self, client: &Client, wanted: Load, of: &Hash) -> Option<Load> {
        loop {
            if let Ok(counted) = self.shares.take(client, wanted) {
                return Some(counted);
            }
            let own = |(_, key): &&(Instant, Hash)| {
                key != of && self.slots.get(key).is_some_and(|slot| slot.client == *client)
            };
            let (_, oldest) = *self.order.iter().find(own)?;
            self.drop_slot(&oldest);
        }
    }

    /// Drops what is too old.
    fn forget(&mut self, now: Instant) {
        while let Some((_, key)) = self.order.front().copied().filter(|(since, _)| *since + KEPT <= now) {
            self.drop_slot(&key);
        }
    }

    fn drop_slot(&mut self, key: &Hash) {
        if let Some(Slot { client, counted, .. }) = self.slots.remove(key) {
            self.shares.give_back(&client, counted);
        }
        self.order.retain(|(_, other)| other != key);
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
    let place = app.replays().slot(key, &client, Sha256::digest(&body).into(), Instant::now())?;
    let mut kept = place.answer.lock().await;
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
    place.weigh(body.len());
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

    fn client(name: &str) -> Client {
        Client(Some(name.into()))
    }

    fn key(number: usize) -> Hash {
        Sha256::digest(number.to_le_bytes()).into()
    }

    /// Makes an answer of no bytes to the request of a key, and says that it has more.
    fn answer(replays: &Replays, key: Hash, client: &Client, bytes: usize, now: Instant) {
        let place = replays.slot(key, client, hash(0), now).unwrap();
        *place.answer.try_lock().unwrap() = Some(Answer { media: None, model: None, body: Bytes::new() });
        place.weigh(bytes);
    }

    fn is_kept(replays: &Replays, key: Hash) -> bool {
        replays.lock().slots.contains_key(&key)
    }

    #[test]
    fn a_key_is_its_bodys_until_it_is_forgotten() {
        let (replays, now, one) = (Replays::default(), Instant::now(), client("one"));
        answer(&replays, hash(1), &one, 10, now);
        let place = replays.slot(hash(1), &one, hash(0), now).unwrap();
        assert!(place.answer.try_lock().unwrap().is_some());
        assert!(replays.slot(hash(1), &one, hash(3), now).is_err());
        assert!(replays.slot(hash(1), &one, hash(3), now + KEPT).is_ok());
    }

    #[test]
    fn what_fails_leaves_nothing_behind() {
        let (replays, now, one) = (Replays::default(), Instant::now(), client("one"));
        let first = replays.slot(hash(1), &one, hash(2), now).unwrap();
        let second = replays.slot(hash(1), &one, hash(2), now).unwrap();
        drop(first);
        assert!(is_kept(&replays, hash(1)), "another one makes the answer now");
        drop(second);
        assert!(!is_kept(&replays, hash(1)));
        assert_eq!(replays.lock().shares.taken(), Load::default());
    }

    #[test]
    fn a_client_pushes_out_its_own_answers_only() {
        let replays = Replays::new(Load { tokens: 1000, items: 100 });
        let (now, mine, theirs) = (Instant::now(), client("mine"), client("theirs"));
        answer(&replays, key(0), &mine, 50, now);
        (1..500).for_each(|number| answer(&replays, key(number), &theirs, 1, now));
        answer(&replays, key(500), &theirs, 900, now);
        // Refused requests, and answers of no bytes, too.
        (501..900).for_each(|number| drop(replays.slot(key(number), &theirs, hash(0), now)));
        (901..1400).for_each(|number| answer(&replays, key(number), &theirs, 0, now));
        assert!(is_kept(&replays, key(0)));
        let Load { tokens, items } = replays.lock().shares.taken();
        assert!(tokens <= 1000 && items <= 100, "{tokens} {items}");
        assert!(items > 50, "what there is room for is kept: {items}");
    }

    #[test]
    fn an_answer_is_weighed_once() {
        let (replays, now, one) = (Replays::default(), Instant::now(), client("one"));
        (0..3).for_each(|_| answer(&replays, hash(1), &one, 10, now));
        assert_eq!(replays.lock().shares.taken(), Load { tokens: 10, items: 1 });
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

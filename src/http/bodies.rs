//! The bodies of the requests under way: so many bytes of them, of which no client has all.
//!
//! A parsed request takes several times its body's bytes until it is answered, so this bounds the memory of all requests together.
//! A body of unknown length counts as the longest that is allowed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::{
    body::HttpBody,
    extract::{Request, State},
    middleware::Next,
    response::Response,
};

use super::{App, error::ApiError};
use crate::{
    Error,
    engine::{queue::Load, shares::Shares, terms::Client},
};

/// The bound, and each client's share of it.
#[derive(Debug, Clone)]
pub struct Bodies(Arc<Mutex<Shares>>);

/// A body's part; given back when dropped.
#[derive(Debug)]
pub struct Weight {
    bodies: Bodies,
    client: Client,
    load: Load,
}

impl Bodies {
    /// Bounds the bytes of all bodies together.
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Mutex::new(Shares::new(Load { tokens: bytes, items: usize::MAX }))))
    }

    fn take(&self, client: Client, bytes: usize) -> Result<Weight, Error> {
        let wanted = Load { tokens: bytes, items: 1 };
        let taken = self.lock().take(&client, wanted);
        let load = taken.map_err(|_| Error::Overloaded { retry: std::time::Duration::ZERO })?;
        Ok(Weight { bodies: self.clone(), client, load })
    }

    /// The shares are whole between any two changes, so a panic elsewhere does not spoil them.
    fn lock(&self) -> MutexGuard<'_, Shares> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.bodies.lock().give_back(&self.client, self.load);
    }
}

/// Lets a request in if there is room for its body. Handlers whose answer is a stream keep the weight until that has ended.
pub async fn weigh(State(app): State<App>, mut request: Request, next: Next) -> Result<Response, ApiError> {
    let limit = app.config().body_limit;
    let told =
        request.body().size_hint().exact().map_or(limit, |bytes| usize::try_from(bytes).unwrap_or(limit));
    if told == 0 {
        return Ok(next.run(request).await);
    }
    let client = request.extensions().get::<Client>().cloned().unwrap_or_default();
    let weight = Arc::new(app.bodies().take(client, told.min(limit))?);
    request.extensions_mut().insert(Arc::clone(&weight));
    let response = next.run(request).await;
    drop(weight);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_client_has_all_and_what_ends_is_given_back() {
        let (bodies, one, other) = (Bodies::new(1000), Client(Some("one".into())), Client::default());
        let first = bodies.take(one.clone(), 700).unwrap();
        assert!(matches!(bodies.take(one.clone(), 200), Err(Error::Overloaded { .. })));
        let second = bodies.take(other, 200).unwrap();
        drop((first, second));
        bodies.take(one, 800).unwrap();
    }
}

//! Who may do what: every path needs a role, and a caller shows a key that has it.
//!
//! The guard stands before all routes. A path that is not named here needs the role `score`, so that a new route is closed until it
//! is opened here. Without keys the service is open, but for what only an administrator may do. Keys are never logged; their names
//! are, in the request's span and in the audit log, which is the tracing target `rewarden::audit`.

use std::{borrow::Cow, sync::Arc};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{ACCEPT, AUTHORIZATION, WWW_AUTHENTICATE},
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use tracing::{Span, info};

use super::{App, error::ApiError, layers::CLIENT_GONE, terms::Highest};
use crate::engine::terms::{Client, Priority};

pub mod document;
pub mod keys;

use keys::{Key, Keys};

/// Probes, by our names and by those of other servers: they come from what runs the service, which has no key.
const OPEN: [&str; 7] =
    ["/livez", "/readyz", "/health", "/health_generate", "/ping", "/v2/health/live", "/v2/health/ready"];

/// What changes the service for everyone.
const ADMIN: [&str; 4] =
    ["/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/load_lora_adapter", "/unload_lora_adapter"];

/// Headers that may hold a key as it is.
const KEY_HEADERS: [&str; 2] = ["x-api-key", "api-key"];

/// Makes a browser ask for the key, as a password.
const BASIC: HeaderValue =
    HeaderValue::from_static("Basic realm=\"the key as the password\", charset=\"UTF-8\"");

/// What a key is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// To score, and to see models and documentation.
    Score,
    /// To read `/metrics`.
    Metrics,
    /// Everything.
    Admin,
}

impl Role {
    /// The role's name in files and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Score => "score",
            Self::Metrics => "metrics",
            Self::Admin => "admin",
        }
    }
}

/// Returns the role that a path needs: that of a route's pattern, or a path that no route has. None is needed of probes.
fn needed(path: &str) -> Option<Role> {
    match path {
        path if OPEN.contains(&path) => None,
        path if ADMIN.contains(&path) => Some(Role::Admin),
        "/metrics" => Some(Role::Metrics),
        _ => Some(Role::Score),
    }
}

/// Whether a path is open to everyone, as probes are.
pub fn is_open(path: &str) -> bool {
    needed(path).is_none()
}

/// Lets a request through if its key has the role that the path needs, and writes the audit log.
pub async fn guard(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let matched = request.extensions().get().map(MatchedPath::as_str);
    let path = matched.unwrap_or(request.uri().path());
    let (role, keys) = (needed(path), &app.config().keys);
    let caller = Caller::of(request.headers(), keys);
    Span::current().record("key", caller.name());
    let mut action = (role == Some(Role::Admin))
        .then(|| Action::new(caller.name(), format!("{} {path}", request.method())));
    let browser = opened_by_hand(request.headers());
    let client = Client(caller.name().map(Arc::from));
    let highest = caller.highest();
    let mut response = match permit(role, caller, keys) {
        Ok(()) => {
            request.extensions_mut().insert(client);
            request.extensions_mut().insert(highest);
            next.run(request).await
        }
        Err(error) => error.into_response(),
    };
    if browser && response.status() == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(WWW_AUTHENTICATE, BASIC);
    }
    if let Some(action) = &mut action {
        action.status = response.status().as_u16();
    }
    response
}

fn permit(role: Option<Role>, caller: Caller, keys: &Keys) -> Result<(), ApiError> {
    match (role, caller) {
        (None, _) => Ok(()),
        (Some(role), Caller::Known(key)) if key.has(role) => Ok(()),
        (Some(role), Caller::Known(_)) => Err(ApiError::no_role(role)),
        (Some(Role::Admin), _) if keys.is_empty() => Err(ApiError::no_role(Role::Admin)),
        (Some(_), _) if keys.is_empty() => Ok(()),
        (Some(_), Caller::Nobody) => Err(ApiError::no_key()),
        (Some(_), Caller::Stranger) => Err(ApiError::unknown_key()),
    }
}

/// Who sent a request.
#[derive(Debug, Clone, Copy)]
enum Caller<'a> {
    /// Someone without a key.
    Nobody,
    /// Someone with keys that are not ours.
    Stranger,
    Known(&'a Key),
}

impl<'a> Caller<'a> {
    fn of(headers: &HeaderMap, keys: &'a Keys) -> Self {
        let mut shown = shown(headers).peekable();
        if shown.peek().is_none() {
            return Self::Nobody;
        }
        shown.find_map(|secret| keys.find(&secret)).map_or(Self::Stranger, Self::Known)
    }

    /// The highest priority that its requests may have. Without keys all callers are one, whose own requests it orders.
    fn highest(self) -> Highest {
        Highest(match self {
            Self::Known(key) => key.highest(),
            Self::Nobody | Self::Stranger => Priority::High,
        })
    }

    fn name(self) -> Option<&'a str> {
        match self {
            Self::Known(key) => Some(key.name()),
            Self::Nobody | Self::Stranger => None,
        }
    }
}

/// All keys that a request shows; a proxy may have put its own `authorization` beside the key.
fn shown(headers: &HeaderMap) -> impl Iterator<Item = Cow<'_, [u8]>> {
    let authorization = headers.get_all(AUTHORIZATION).iter().map(HeaderValue::as_bytes);
    let authorization =
        authorization.filter_map(|value| bearer(value).map(Cow::Borrowed).or_else(|| basic(value)));
    let plain = KEY_HEADERS.iter().flat_map(|name| headers.get_all(*name)).map(HeaderValue::as_bytes);
    authorization.chain(plain.map(Cow::Borrowed)).filter(|secret| !secret.is_empty())
}

/// What stands behind the word `Bearer`.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    after(value, "Bearer ")
}

/// The password behind the word `Basic`, as a browser asks for it and sends it.
fn basic(value: &[u8]) -> Option<Cow<'_, [u8]>> {
    let decoded = STANDARD.decode(after(value, "Basic ")?).ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    Some(Cow::Owned(decoded[colon + 1..].to_vec()))
}

fn after<'a>(value: &'a [u8], scheme: &str) -> Option<&'a [u8]> {
    let (word, rest) = value.split_at_checked(scheme.len())?;
    word.eq_ignore_ascii_case(scheme.as_bytes()).then(|| rest.trim_ascii())
}

/// Whether someone looks at a page, and can be asked for a key.
fn opened_by_hand(headers: &HeaderMap) -> bool {
    let accepted = headers.get(ACCEPT).and_then(|value| value.to_str().ok());
    accepted.is_some_and(|accepted| accepted.contains("text/html"))
}

/// An administrator's action, or an attempt; what drops it, its end or the caller's leave, writes it to the audit log.
struct Action {
    who: String,
    what: String,
    status: u16,
}

impl Action {
    /// Without a name, `who` is `-`, which no key may be called.
    fn new(who: Option<&str>, what: String) -> Self {
        Self { who: who.unwrap_or("-").to_owned(), what, status: CLIENT_GONE }
    }
}

impl Drop for Action {
    fn drop(&mut self) {
        let Self { who, what, status } = self;
        info!(target: "rewarden::audit", who, what, status, "admin");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_closed_unless_it_is_named() {
        let table = [
            ("/livez", None),
            ("/v2/health/ready", None),
            ("/metrics", Some(Role::Metrics)),
            ("/v1/load_lora_adapter", Some(Role::Admin)),
            ("/v1/rewards", Some(Role::Score)),
            ("/docs/{*rest}", Some(Role::Score)),
            ("/livez/", Some(Role::Score)),
            ("/metrics/", Some(Role::Score)),
            ("", Some(Role::Score)),
        ];
        for (path, role) in table {
            assert_eq!(needed(path), role, "{path}");
        }
    }

    #[test]
    fn keys_are_found_in_every_header_that_clients_send() {
        type Headers = &'static [(&'static str, &'static str)];
        let table: [(Headers, &[&str]); 10] = [
            (&[], &[]),
            (&[("authorization", "Bearer one")], &["one"]),
            (&[("authorization", "bearer  one ")], &["one"]),
            (&[("authorization", "Basic b25l")], &[]),
            (&[("authorization", "Basic bWU6b25l")], &["one"]),
            (&[("authorization", "Basic ?")], &[]),
            (&[("authorization", "Bearer")], &[]),
            (&[("authorization", "Bearer "), ("x-api-key", "")], &[]),
            (&[("authorization", "Basic b25l"), ("api-key", "one")], &["one"]),
            (
                &[("api-key", "three"), ("x-api-key", "two"), ("authorization", "Bearer one")],
                &["one", "two", "three"],
            ),
        ];
        for (headers, want) in table {
            let pairs =
                headers.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
            let headers: HeaderMap = pairs.collect();
            let want: Vec<Cow<[u8]>> = want.iter().map(|secret| secret.as_bytes().into()).collect();
            assert_eq!(shown(&headers).collect::<Vec<_>>(), want, "{headers:?}");
        }
    }
}

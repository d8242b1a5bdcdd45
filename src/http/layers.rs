//! What surrounds every handler: a request id, its trace, one log line and its metrics.
//!
//! The route in logs and metrics is the pattern that matched, never the path that was sent.

use std::{sync::Arc, time::Instant};

use axum::{
    extract::{ConnectInfo, MatchedPath, Request, State},
    http::{HeaderName, HeaderValue, header::CONNECTION},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tracing::{Instrument, Span, debug, field::Empty, info, info_span};
use uuid::Uuid;

use super::{App, error::ApiError, listener::Turns};
use crate::{engine::Health, telemetry::trace};

/// The header with a request's id.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Bytes of a client's request id; a longer one is replaced.
const MAX_REQUEST_ID: usize = 128;
/// The code in logs and metrics of a request whose client went away before the answer.
pub const CLIENT_GONE: u16 = 499;

/// What a request cost, for its log line.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// Sequences scored.
    pub items: usize,
    /// Tokens of all of them.
    pub tokens: usize,
}

/// Tells the connection that a request is under way, so that its clock for headers stands still. Handlers whose answer is a stream
/// keep the turn until that has ended.
pub async fn turn(mut request: Request, next: Next) -> Response {
    let turns = request.extensions().get::<ConnectInfo<Turns>>().map(|ConnectInfo(turns)| turns.clone());
    let turn = turns.map(|turns| Arc::new(turns.begin()));
    if let Some(turn) = &turn {
        request.extensions_mut().insert(Arc::clone(turn));
    }
    next.run(request).await
}

/// Ends a connection with its answer once the service is about to stop, so that its client does not ask again where soon nobody listens.
pub async fn farewell(State(app): State<App>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if app.engine().health() == Health::Draining {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Gives the request an id, or takes the client's, and sends it back.
pub async fn request_id(mut request: Request, next: Next) -> Response {
    let given = request.headers().get(&REQUEST_ID);
    let usable = |id: &&HeaderValue| id.len() <= MAX_REQUEST_ID && id.to_str().is_ok_and(|id| !id.is_empty());
    let id = given.filter(usable).cloned().or_else(|| Uuid::new_v4().to_string().parse().ok());
    let id = id.unwrap_or(HeaderValue::from_static("none"));
    request.headers_mut().insert(REQUEST_ID, id.clone());
    let mut response = next.run(request).await;
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// Opens the request's span, and writes its log line and metrics when it ends.
pub async fn observe(State(app): State<App>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str).to_owned();
    let id = request.headers().get(&REQUEST_ID).and_then(|id| id.to_str().ok()).unwrap_or_default();
    // The guard puts the key's name in, and `trace` the rest.
    let span = info_span!(
        "request",
        id,
        trace_id = Empty,
        span_id = Empty,
        method = %request.method(),
        key = Empty,
        otel.kind = Empty,
    );
    trace::begin(&span, &request, &route);
    let mut observed =
        Observed { app, route, started: Instant::now(), code: CLIENT_GONE, cost: Cost::default() };
    async move {
        let response = next.run(request).await;
        observed.answered(&response);
        response
    }
    .instrument(span)
    .await
}

/// A request under way; what drops it, its end or the client's leave, reports it.
struct Observed {
    app: App,
    route: String,
    started: Instant,
    code: u16,
    cost: Cost,
}

impl Observed {
    fn answered(&mut self, response: &Response) {
        self.code = response.status().as_u16();
        self.cost = response.extensions().get().copied().unwrap_or_default();
        trace::end(&Span::current(), self.code);
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        let (route, seconds) = (self.route.as_str(), self.started.elapsed().as_secs_f64());
        let metrics = self.app.metrics();
        metrics.requests.with_label_values(&[route, &self.code.to_string()]).inc();
        metrics.request_seconds.with_label_values(&[route]).observe(seconds);
        let (status, Cost { items, tokens }) = (self.code, self.cost);
        // Probes and scrapes come every few seconds for ever.
        match route {
            "/livez" | "/readyz" | "/metrics" => debug!(route, status, seconds, "answered"),
            _ => info!(route, status, seconds, items, tokens, "answered"),
        }
    }
}

/// Answers a handler's panic with 500.
pub fn panicked(panic: Box<dyn std::any::Any + Send>) -> Response {
    let text = panic.downcast_ref::<&str>().copied();
    let cause = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(cause, "a handler panicked");
    ApiError::internal().into_response()
}

/// Answers a path that no route has.
pub async fn no_route() -> ApiError {
    ApiError::no_route()
}

/// Answers a method that the route does not take.
pub async fn no_method() -> ApiError {
    ApiError::method()
}

#[cfg(test)]
mod tests {
    use axum::{Router, body::Body, routing::get};
    use tower::ServiceExt;
    use tower_http::catch_panic::CatchPanicLayer;

    use super::*;

    #[tokio::test]
    async fn a_panic_is_answered_without_its_message() {
        let panics = || async {
            if true {
                panic!("secret")
            }
        };
        let router = Router::new().route("/", get(panics)).layer(CatchPanicLayer::custom(panicked));
        let response = router.oneshot(Request::new(Body::empty())).await.unwrap();
        assert_eq!(response.status(), 500);
        let body = axum::body::to_bytes(response.into_body(), 1000).await.unwrap();
        let error: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(error["error"]["code"], "internal");
        assert!(!error.to_string().contains("secret"));
    }
}

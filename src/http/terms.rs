//! On what terms a request is served, by its headers: how long its client waits, and how urgent it is.

use std::time::{Duration, Instant};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName},
    middleware::Next,
    response::{IntoResponse, Response},
};
use utoipa::openapi::{
    ObjectBuilder, OpenApi, Required, Type,
    path::{Parameter, ParameterBuilder, ParameterIn},
};

use super::{
    App,
    access::document::{operations, refused},
    error::ApiError,
    timing,
};
use crate::{
    Error, Result,
    engine::terms::{Client, Priority, Terms},
};

/// How many milliseconds the client waits for its answer.
const TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout-ms");
/// How urgent the request is.
const PRIORITY: HeaderName = HeaderName::from_static("x-rewarden-priority");

/// The highest priority that a caller's requests may have.
#[derive(Debug, Clone, Copy, Default)]
pub struct Highest(pub Priority);

/// Settles the terms, and answers 504 when the time is up; dropping the handler withdraws what it had queued. The answer says
/// what the time went into.
pub async fn settle(State(app): State<App>, mut request: Request, next: Next) -> Result<Response, ApiError> {
    let longest = app.config().timeout;
    let asked = timeout(request.headers())?.unwrap_or(longest);
    let client = request.extensions().get::<Client>().cloned().unwrap_or_default();
    let Highest(highest) = request.extensions().get().copied().unwrap_or_default();
    let priority = priority(request.headers())?;
    // The most urgent is the least.
    if priority < highest {
        return Err(ApiError::too_urgent(highest));
    }
    let terms = Terms::new(asked.min(longest), client, priority);
    let (deadline, times) = (terms.deadline, terms.times.clone());
    request.extensions_mut().insert(terms);
    let left = deadline.saturating_duration_since(Instant::now());
    let answered = tokio::time::timeout(left, next.run(request)).await;
    let mut response = answered.unwrap_or_else(|_| ApiError::from(Error::Deadline).into_response());
    timing::say(&mut response, times.spent());
    Ok(response)
}

fn timeout(headers: &HeaderMap) -> Result<Option<Duration>> {
    let Some(value) = headers.get(&TIMEOUT) else { return Ok(None) };
    let milliseconds = value.to_str().ok().and_then(|text| text.parse().ok()).filter(|ms| *ms > 0);
    let wrong = || Error::field(TIMEOUT.as_str(), "must be a whole number of milliseconds, at least 1");
    Ok(Some(Duration::from_millis(milliseconds.ok_or_else(wrong)?)))
}

fn priority(headers: &HeaderMap) -> Result<Priority> {
    let Some(value) = headers.get(&PRIORITY) else { return Ok(Priority::default()) };
    let named = value.to_str().ok().and_then(Priority::named);
    named.ok_or_else(|| Error::field(PRIORITY.as_str(), "must be `high`, `normal` or `low`"))
}

/// Writes down, of every operation whose time may run out, the headers and the refusal of a client that asks too much.
pub fn document(mut api: OpenApi) -> OpenApi {
    let timed = api.paths.paths.values_mut().flat_map(operations);
    for operation in timed.filter(|operation| operation.responses.responses.contains_key("504")) {
        let milliseconds = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1));
        let names = ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some(Priority::ALL.map(Priority::name)));
        let headers = [
            header(
                &TIMEOUT,
                "milliseconds that the client waits, at most the service's own limit",
                milliseconds,
            ),
            header(&PRIORITY, "`normal` by default", names),
        ];
        operation.parameters.get_or_insert_default().extend(headers.map(Into::into));
        refused(
            operation,
            "429",
            "the key has as much under way as it may; `Retry-After` says for how long".into(),
        );
    }
    api
}

fn header(name: &HeaderName, description: &str, schema: ObjectBuilder) -> Parameter {
    ParameterBuilder::new()
        .name(name.as_str())
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(description))
        .schema(Some(schema))
        .build()
}

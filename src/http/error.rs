//! Errors as clients see them: `{"error":{"message","type","param","code"}}`.
//!
//! The only table from [`Error`] to status and code stands here. What is the service's own fault is logged
//! and answered with 500 without its details; everything else says what was wrong and where.

use std::time::Duration;

use axum::{
    Json,
    http::{
        HeaderValue, StatusCode,
        header::{RETRY_AFTER, WWW_AUTHENTICATE},
    },
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::{IntoResponses, ToSchema};

use super::access::Role;
use crate::{Error, engine::terms::Priority};

/// The least time after which a client that was turned away may try again.
const RETRY: Duration = Duration::from_secs(1);
/// The longest time after which a client is told to come again: what is known of the load says little of later.
const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// How a key is shown.
const CHALLENGE: HeaderValue = HeaderValue::from_static(r#"Bearer realm="rewarden""#);

/// The body of every answer that is not a success.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorDetail {
    /// For people.
    pub message: String,
    /// The class of the error: `invalid_request_error`, `authentication_error`, `permission_error`, `rate_limit_error`,
    /// `overloaded_error`, `timeout_error` or `server_error`.
    pub r#type: &'static str,
    /// The field at fault as a path, such as `items[1].response`.
    pub param: Option<String>,
    /// A stable name for programs.
    pub code: &'static str,
}

/// How scoring may be refused, for the document; what a route adds is its own.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "documentation")]
pub enum Refusals {
    /// not JSON
    #[response(status = BAD_REQUEST)]
    NotJson(ErrorBody),
    /// unknown model
    #[response(status = NOT_FOUND)]
    UnknownModel(ErrorBody),
    /// body too large, or too many items
    #[response(status = PAYLOAD_TOO_LARGE)]
    TooLarge(ErrorBody),
    /// not `application/json`
    #[response(status = UNSUPPORTED_MEDIA_TYPE)]
    ContentType(ErrorBody),
    /// a field is invalid; `param` names it
    #[response(status = UNPROCESSABLE_ENTITY)]
    Invalid(ErrorBody),
    /// scoring failed
    #[response(status = INTERNAL_SERVER_ERROR)]
    Failed(ErrorBody),
    /// overloaded or not ready
    #[response(status = SERVICE_UNAVAILABLE, headers(("retry-after" = u32, description = "seconds to wait")))]
    Overloaded(ErrorBody),
    /// the request's time ran out
    #[response(status = GATEWAY_TIMEOUT)]
    Late(ErrorBody),
}

/// An error with its status.
#[derive(Debug, Clone)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    param: Option<String>,
    message: String,
    retry: Option<Duration>,
}

impl ApiError {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, param: None, message: message.into(), retry: None }
    }

    fn param(self, param: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..self }
    }

    /// It may be tried again after this time, in whole seconds and at least one.
    fn retry(self, after: Duration) -> Self {
        Self { retry: Some(after.clamp(RETRY, LONGEST_RETRY)), ..self }
    }

    /// The body is not JSON.
    pub fn json(error: &serde_json::Error) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_json", format!("body: {error}"))
    }

    /// The body could not be read to its end.
    pub fn body(message: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "unreadable_body", format!("body: {message}"))
    }

    /// The body is an array in an array in an array, or the like, too often.
    pub fn too_deep(limit: usize) -> Self {
        let message = format!("body: more than {limit} arrays and objects in each other");
        Self::new(StatusCode::BAD_REQUEST, "too_deep", message)
    }

    /// The body has more bytes than allowed.
    pub fn body_too_large() -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "body: larger than the server accepts")
    }

    /// The request has more items than allowed.
    pub fn too_many(field: &str, items: usize, limit: usize) -> Self {
        let message =
            format!("{field}: {items} given, more than the limit of {limit} (hint: send several requests)");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_many_items", message).param(field)
    }

    /// A list has nothing in it.
    pub fn empty(field: &str) -> Self {
        let message = format!("{field}: missing or empty");
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "empty", message).param(field)
    }

    /// The body fits none of the requests that a path takes.
    pub fn no_dialect(path: &str, fields: &str) -> Self {
        let message = format!("body: `{path}` takes {fields} (hint: see `/docs`)");
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "unknown_dialect", message).param("body")
    }

    /// The body is not declared to be JSON.
    pub fn content_type() -> Self {
        let message = "content-type: must be `application/json`";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message)
    }

    /// No key was shown where one is needed.
    pub fn no_key() -> Self {
        let message = "an API key is needed (hint: the header `authorization: Bearer KEY`)";
        Self::new(StatusCode::UNAUTHORIZED, "missing_api_key", message)
    }

    /// The key that was shown is none of ours.
    pub fn unknown_key() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "invalid_api_key", "the API key is not known")
    }

    /// The host that the request names is not this service's.
    pub fn foreign_host() -> Self {
        let message = "without API keys, the host must be an address or `localhost` (hint: `--allow-host NAME`, or keys)";
        Self::new(StatusCode::FORBIDDEN, "foreign_host", message)
    }

    /// The path needs a role that the caller does not have.
    pub fn no_role(role: Role) -> Self {
        let message = format!("an API key with the role `{}` is needed", role.name());
        Self::new(StatusCode::FORBIDDEN, "missing_role", message)
    }

    /// The request is more urgent than the caller's may be.
    pub fn too_urgent(highest: Priority) -> Self {
        let message =
            format!("the priority of this API key's requests is `{}` at the highest", highest.name());
        Self::new(StatusCode::FORBIDDEN, "priority_too_high", message)
    }

    /// Adapters neither come nor go.
    pub fn fixed() -> Self {
        let message = "adapters are those of the start (hint: `--adapter-root`)";
        Self::new(StatusCode::FORBIDDEN, "adapters_are_fixed", message)
    }

    /// What is served under a name is not what the request's condition says.
    pub fn precondition(name: &str) -> Self {
        let message = format!("`{name}` is not, or no longer, what the request's condition names");
        Self::new(StatusCode::PRECONDITION_FAILED, "precondition_failed", message)
    }

    /// A model does not fit beside those that stay.
    pub fn no_room(bytes: u64, most: u64) -> Self {
        let (bytes, most) = (bytes >> 20, most >> 20);
        let message =
            format!("the adapter takes {bytes} MiB, and does not fit into {most} MiB with those that stay");
        Self::new(StatusCode::INSUFFICIENT_STORAGE, "no_room", message)
    }

    /// No route has this path.
    pub fn no_route() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "no such route (hint: see `/docs`)")
    }

    /// The route does not take this method.
    pub fn method() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "the route does not take this method")
    }

    /// The service failed, for a reason that has been logged.
    pub fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "internal error")
    }

    /// As it stands in an answer.
    pub fn detail(&self) -> ErrorDetail {
        let Self { code, param, message, .. } = self.clone();
        ErrorDetail { message, r#type: self.kind(), param, code }
    }

    /// An answer with this error's headers.
    pub fn answer(&self, status: StatusCode, body: impl IntoResponse) -> Response {
        let mut response = (status, body).into_response();
        let challenge = (self.status == StatusCode::UNAUTHORIZED).then_some((WWW_AUTHENTICATE, CHALLENGE));
        let seconds = self.retry.map(|after| after.as_secs() + u64::from(after.subsec_nanos() > 0));
        let retry = seconds.map(|seconds| (RETRY_AFTER, HeaderValue::from(seconds)));
        response.headers_mut().extend(challenge.into_iter().chain(retry));
        response
    }

    /// The native status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// What went wrong, for people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The field at fault.
    pub fn field(&self) -> Option<&str> {
        self.param.as_deref()
    }

    /// A stable name for programs.
    pub fn code(&self) -> &'static str {
        self.code
    }

    fn kind(&self) -> &'static str {
        match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
            StatusCode::GATEWAY_TIMEOUT => "timeout_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        }
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::Field { field, .. } => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_field", message).param(field)
            }
            Error::TooLong { .. } => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "too_long", message),
            Error::At { place, source } => {
                let Self { status, code, .. } = Self::from(*source);
                let message = if status.is_server_error() { Self::internal().message } else { message };
                Self::new(status, code, message).param(place)
            }
            Error::UnknownModel(_) => {
                Self::new(StatusCode::NOT_FOUND, "model_not_found", message).param("model")
            }
            Error::Overloaded { retry } | Error::Hopeless { retry, .. } => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message).retry(retry)
            }
            Error::Limited { retry, .. } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", message).retry(retry)
            }
            Error::NotReady => Self::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", message).retry(RETRY),
            Error::Deadline => Self::new(StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded", message),
            Error::NotFinite(_) => {
                tracing::error!(cause = message, "a score is not a number");
                let message = "the model gave a score that is not a finite number";
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "not_finite", message)
            }
            Error::Internal(_) => Self::internal(),
            Error::Io { .. }
            | Error::File { .. }
            | Error::Line { .. }
            | Error::Hub { .. }
            | Error::Usage(_)
            | Error::Compute(_) => {
                tracing::error!(cause = message, "request failed");
                Self::internal()
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.answer(self.status, Json(ErrorBody { error: self.detail() }));
        // For whoever says it in another way.
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::item::Place;

    fn io() -> Error {
        Error::io("/secret")(std::io::ErrorKind::NotFound.into())
    }

    #[test]
    fn every_error_has_its_status_code_and_field() {
        let path = PathBuf::from("/secret");
        let compute = candle_core::Error::Msg("secret".into());
        let item = Place::Item(2);
        let table = [
            (Error::field("penalty.k", "wrong"), 422, "invalid_field", Some("penalty.k")),
            (Error::TooLong { tokens: 9, more: false, limit: 8 }, 422, "too_long", None),
            (
                item.blame(Error::TooLong { tokens: 9, more: false, limit: 8 }),
                422,
                "too_long",
                Some("items[2]"),
            ),
            (item.blame(Error::field("text", "wrong")), 422, "invalid_field", Some("items[2].text")),
            (item.blame(Error::field("truncation", "wrong")), 422, "invalid_field", Some("truncation")),
            (item.blame(io()), 500, "internal", Some("items[2]")),
            (Error::UnknownModel("x".into()), 404, "model_not_found", Some("model")),
            (Error::Overloaded { retry: RETRY }, 503, "overloaded", None),
            (Error::Hopeless { wait: RETRY, retry: RETRY }, 503, "overloaded", None),
            (Error::Limited { what: "requests", retry: RETRY }, 429, "rate_limited", None),
            (Error::NotReady, 503, "not_ready", None),
            (Error::Deadline, 504, "deadline_exceeded", None),
            (Error::NotFinite("secret".into()), 500, "not_finite", None),
            (Error::Internal("secret".into()), 500, "internal", None),
            (io(), 500, "internal", None),
            (Error::file(&path, "secret"), 500, "internal", None),
            (Error::Line { path, line: 1, message: "secret".into() }, 500, "internal", None),
            (Error::Usage("secret".into()), 500, "internal", None),
            (Error::Compute(compute), 500, "internal", None),
        ];
        for (error, status, code, param) in table {
            let shown = format!("{error:?}");
            let api = ApiError::from(error);
            let got = (api.status.as_u16(), api.code, api.param.as_deref());
            assert_eq!(got, (status, code, param), "{shown}");
            assert!(!api.message.contains("secret"), "{shown}: {}", api.message);
        }
    }

    #[test]
    fn only_what_passes_says_when_to_retry() {
        let hopeless = |milliseconds| {
            let (wait, retry) = (Duration::MAX, Duration::from_millis(milliseconds));
            Error::Hopeless { wait, retry }
        };
        for (error, want) in [
            (Error::Overloaded { retry: Duration::ZERO }, Some("1")),
            (hopeless(1000), Some("1")),
            (hopeless(1001), Some("2")),
            (Error::Limited { what: "requests", retry: Duration::from_secs(7) }, Some("7")),
            (Error::Overloaded { retry: Duration::MAX }, Some("60")),
            (Error::NotReady, Some("1")),
            (Error::Deadline, None),
        ] {
            let response = ApiError::from(error).into_response();
            assert_eq!(response.headers().get(RETRY_AFTER).map(|value| value.to_str().unwrap()), want);
        }
    }
}

//! For those who run the service: whether it lives, whether it is ready, and its metrics.

use axum::{Json, extract::State, http::header::CONTENT_TYPE, response::IntoResponse};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    App,
    error::{ApiError, ErrorBody},
};

/// A word on how the service is.
#[derive(Debug, Serialize, ToSchema)]
pub struct Status {
    /// `alive` or `ready`.
    pub status: &'static str,
}

/// Is the process alive?
#[utoipa::path(get, path = "/livez", tag = "operations", responses((status = OK, body = Status)))]
pub async fn livez() -> Json<Status> {
    Json(Status { status: "alive" })
}

/// Should requests be sent here?
///
/// Ready once every model has run forward and backward; no longer ready when the service is about to stop.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "operations",
    responses(
        (status = OK, body = Status),
        (status = SERVICE_UNAVAILABLE, body = ErrorBody, description = "starting or stopping",
            headers(("retry-after" = u32, description = "seconds to wait"))),
    )
)]
pub async fn readyz(State(app): State<App>) -> Result<Json<Status>, ApiError> {
    app.engine().ready()?;
    Ok(Json(Status { status: "ready" }))
}

/// Metrics for Prometheus
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "operations",
    responses(
        (status = OK, body = String, content_type = "text/plain"),
        (status = INTERNAL_SERVER_ERROR, body = ErrorBody),
    )
)]
pub async fn metrics(State(app): State<App>) -> Result<impl IntoResponse, ApiError> {
    let text = app.metrics().render().map_err(|cause| {
        tracing::error!(%cause, "metrics cannot be written");
        ApiError::internal()
    })?;
    Ok(([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text))
}

//! `/health`, `/ping` and their like: what `/readyz` says, under the names that other servers have for it.

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;

use super::vllm::now;
use crate::http::{
    App,
    error::{ApiError, ErrorBody},
};

/// The service is well.
#[derive(Debug, Serialize, ToSchema)]
pub struct Healthy {
    /// Seconds since 1970.
    unix: u64,
}

/// Should requests be sent here?
#[utoipa::path(
    get,
    path = "/health",
    tag = "dialects",
    responses((status = OK, body = Healthy), (status = SERVICE_UNAVAILABLE, body = ErrorBody))
)]
pub async fn health(State(app): State<App>) -> Result<Json<Healthy>, ApiError> {
    healthy(&app)
}

/// Should requests be sent here? Every model has run before it is said so.
#[utoipa::path(
    get,
    path = "/health_generate",
    tag = "dialects",
    responses((status = OK, body = Healthy), (status = SERVICE_UNAVAILABLE, body = ErrorBody))
)]
pub async fn health_generate(State(app): State<App>) -> Result<Json<Healthy>, ApiError> {
    healthy(&app)
}

/// Should requests be sent here?
#[utoipa::path(
    get,
    path = "/ping",
    tag = "dialects",
    responses((status = OK, body = Healthy), (status = SERVICE_UNAVAILABLE, body = ErrorBody))
)]
pub async fn ping(State(app): State<App>) -> Result<Json<Healthy>, ApiError> {
    healthy(&app)
}

/// Should requests be sent here?
#[utoipa::path(
    post,
    path = "/ping",
    tag = "dialects",
    responses((status = OK, body = Healthy), (status = SERVICE_UNAVAILABLE, body = ErrorBody))
)]
pub async fn post_ping(State(app): State<App>) -> Result<Json<Healthy>, ApiError> {
    healthy(&app)
}

fn healthy(app: &App) -> Result<Json<Healthy>, ApiError> {
    app.engine().ready()?;
    Ok(Json(Healthy { unix: now() }))
}

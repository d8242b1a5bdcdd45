//! What the server and its models are, and how.

use axum::{
    Json,
    extract::{Path, State},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{OUTPUTS, Output, VERSION, only_version};
use crate::{
    Result,
    http::{App, error::ApiError},
};

/// What the server is.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = KserveServerMetadata)]
pub struct ServerMetadata {
    name: &'static str,
    version: &'static str,
    extensions: [&'static str; 0],
}

/// What is the server?
#[utoipa::path(get, path = "/v2", tag = "dialects", responses((status = OK, body = ServerMetadata)))]
pub async fn server() -> Json<ServerMetadata> {
    Json(ServerMetadata { name: "rewarden", version: env!("CARGO_PKG_VERSION"), extensions: [] })
}

/// How the server is.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = KserveServerHealth)]
pub struct ServerHealth {
    live: bool,
    ready: bool,
}

/// Is the process alive?
#[utoipa::path(get, path = "/v2/health/live", tag = "dialects", responses((status = OK, body = ServerHealth)))]
pub async fn live(State(app): State<App>) -> Json<ServerHealth> {
    Json(ServerHealth { live: true, ready: app.engine().ready().is_ok() })
}

/// Should requests be sent here?
#[utoipa::path(
    get,
    path = "/v2/health/ready",
    tag = "dialects",
    responses((status = OK, body = ServerHealth), (status = "default", description = "`{\"error\"}`"))
)]
pub async fn ready(State(app): State<App>) -> Result<Json<ServerHealth>, ApiError> {
    app.engine().ready()?;
    Ok(Json(ServerHealth { live: true, ready: true }))
}

/// What a model takes and gives.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = KserveModelMetadata)]
pub struct ModelMetadata {
    name: String,
    versions: [&'static str; 1],
    platform: &'static str,
    inputs: Vec<Described>,
    outputs: Vec<Described>,
}

/// A tensor in words.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = KserveDescribed)]
pub struct Described {
    name: &'static str,
    datatype: &'static str,
    shape: [i64; 1],
}

/// What does a model take and give?
#[utoipa::path(
    get,
    path = "/v2/models/{model}",
    tag = "dialects",
    params(("model" = String, Path, description = "a name that `/v1/models` lists")),
    responses((status = OK, body = ModelMetadata), (status = "default", description = "`{\"error\"}`"))
)]
pub async fn model(
    State(app): State<App>,
    Path(model): Path<String>,
) -> Result<Json<ModelMetadata>, ApiError> {
    described(&app, &model)
}

/// The same of a version, of which there is one
#[utoipa::path(
    get,
    path = "/v2/models/{model}/versions/{version}",
    tag = "dialects",
    params(
        ("model" = String, Path, description = "a name that `/v1/models` lists"),
        ("version" = String, Path, description = "1"),
    ),
    responses((status = OK, body = ModelMetadata), (status = "default", description = "`{\"error\"}`"))
)]
pub async fn model_version(
    State(app): State<App>,
    Path((model, version)): Path<(String, String)>,
) -> Result<Json<ModelMetadata>, ApiError> {
    only_version(&version)?;
    described(&app, &model)
}

fn described(app: &App, model: &str) -> Result<Json<ModelMetadata>, ApiError> {
    let served = app.model(Some(model))?;
    let text = |name| Described { name, datatype: "BYTES", shape: [-1] };
    let output = |(name, output): &(&'static str, Output)| {
        let datatype = if *output == Output::Truncated { "BOOL" } else { "FP64" };
        Described { name, datatype, shape: [-1] }
    };
    Ok(Json(ModelMetadata {
        name: served.name.clone(),
        versions: [VERSION],
        platform: "candle_safetensors",
        inputs: vec![text("prompt"), text("response")],
        outputs: OUTPUTS.iter().map(output).collect(),
    }))
}

/// Whether a model is ready.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = KserveModelReady)]
pub struct ModelReady {
    name: String,
    ready: bool,
}

/// Is a model ready?
#[utoipa::path(
    get,
    path = "/v2/models/{model}/ready",
    tag = "dialects",
    params(("model" = String, Path, description = "a name that `/v1/models` lists")),
    responses((status = OK, body = ModelReady), (status = "default", description = "`{\"error\"}`"))
)]
pub async fn model_ready(
    State(app): State<App>,
    Path(model): Path<String>,
) -> Result<Json<ModelReady>, ApiError> {
    is_ready(&app, &model)
}

/// The same of a version, of which there is one
#[utoipa::path(
    get,
    path = "/v2/models/{model}/versions/{version}/ready",
    tag = "dialects",
    params(
        ("model" = String, Path, description = "a name that `/v1/models` lists"),
        ("version" = String, Path, description = "1"),
    ),
    responses((status = OK, body = ModelReady), (status = "default", description = "`{\"error\"}`"))
)]
pub async fn model_version_ready(
    State(app): State<App>,
    Path((model, version)): Path<(String, String)>,
) -> Result<Json<ModelReady>, ApiError> {
    only_version(&version)?;
    is_ready(&app, &model)
}

fn is_ready(app: &App, model: &str) -> Result<Json<ModelReady>, ApiError> {
    let served = app.model(Some(model))?;
    app.engine().ready()?;
    Ok(Json(ModelReady { name: served.name.clone(), ready: true }))
}

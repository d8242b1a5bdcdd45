//! Adapters that come and go, in vLLM's words and in SGLang's; for administrators.

use std::collections::BTreeMap;

use axum::{Json, extract::State, http::HeaderMap};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::http::{
    App,
    adapters::{Paths, Wanted},
    error::{ApiError, ErrorBody},
    json::LooseJson,
};

/// An adapter to load.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = LoadAdapterRequest)]
pub struct LoadRequest {
    /// The name to serve it under.
    lora_name: String,
    /// Its folder, below the one of `--adapter-root`.
    lora_path: String,
    /// Whether it may take the place of a model with this name.
    #[serde(default)]
    load_inplace: bool,
    /// Whether it stays when others need room.
    #[serde(default)]
    pinned: bool,
}

/// An adapter to take out of service.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = UnloadAdapterRequest)]
pub struct UnloadRequest {
    /// The name it is served under.
    lora_name: String,
}

/// Conditions on what is served under the name so far.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "documentation")]
pub struct Conditions {
    /// The fingerprint that the model must have, or `*` for whichever there is.
    #[param(rename = "if-match")]
    if_match: Option<String>,
    /// `*`: that there is none.
    #[param(rename = "if-none-match")]
    if_none_match: Option<String>,
}

/// What has come while the service ran.
#[derive(Debug, Serialize, ToSchema)]
pub struct LoadedAdapters {
    /// Always true.
    success: bool,
    /// Always empty.
    error_message: &'static str,
    /// Paths by names.
    loaded_adapters: BTreeMap<String, String>,
}

impl LoadedAdapters {
    fn new(loaded_adapters: Paths) -> Self {
        Self { success: true, error_message: "", loaded_adapters }
    }
}

impl From<LoadRequest> for Wanted {
    fn from(request: LoadRequest) -> Self {
        let LoadRequest { lora_name: name, lora_path: path, load_inplace: replace, pinned } = request;
        Self { name, path, replace, pinned }
    }
}

/// Load an adapter
///
/// Adapter, head, posterior and template come into service as one, or not at all; requests that are under way keep the
/// model that they were admitted to. Needs a key with the role `admin`, and `--adapter-root`.
#[utoipa::path(
    post,
    path = "/v1/load_lora_adapter",
    tag = "operations",
    request_body = LoadRequest,
    params(Conditions),
    responses(
        (status = OK, body = String, content_type = "text/plain"),
        (status = "default", body = ErrorBody, description = "what went wrong, as vLLM says it"),
    )
)]
pub async fn v1_load(
    State(app): State<App>,
    headers: HeaderMap,
    LooseJson(request): LooseJson<LoadRequest>,
) -> Result<String, ApiError> {
    let name = request.lora_name.clone();
    app.load_adapter(request.into(), &headers).await?;
    Ok(format!("Success: LoRA adapter '{name}' added successfully."))
}

/// Unload an adapter
///
/// Requests that are under way are answered. The default model stays.
#[utoipa::path(
    post,
    path = "/v1/unload_lora_adapter",
    tag = "operations",
    request_body = UnloadRequest,
    params(Conditions),
    responses(
        (status = OK, body = String, content_type = "text/plain"),
        (status = "default", body = ErrorBody, description = "what went wrong, as vLLM says it"),
    )
)]
pub async fn v1_unload(
    State(app): State<App>,
    headers: HeaderMap,
    LooseJson(UnloadRequest { lora_name: name }): LooseJson<UnloadRequest>,
) -> Result<String, ApiError> {
    app.unload_adapter(&name, &headers).await?;
    Ok(format!("Success: LoRA adapter '{name}' removed successfully."))
}

/// Load an adapter, in SGLang's words
#[utoipa::path(
    post,
    path = "/load_lora_adapter",
    tag = "dialects",
    request_body = LoadRequest,
    params(Conditions),
    responses((status = OK, body = LoadedAdapters), (status = "default", description = "`{\"error\"}`"))
)]
pub async fn load(
    State(app): State<App>,
    headers: HeaderMap,
    LooseJson(request): LooseJson<LoadRequest>,
) -> Result<Json<LoadedAdapters>, ApiError> {
    app.load_adapter(request.into(), &headers).await.map(LoadedAdapters::new).map(Json)
}

/// Unload an adapter, in SGLang's words
#[utoipa::path(
    post,
    path = "/unload_lora_adapter",
    tag = "dialects",
    request_body = UnloadRequest,
    params(Conditions),
    responses((status = OK, body = LoadedAdapters), (status = "default", description = "`{\"error\"}`"))
)]
pub async fn unload(
    State(app): State<App>,
    headers: HeaderMap,
    LooseJson(request): LooseJson<UnloadRequest>,
) -> Result<Json<LoadedAdapters>, ApiError> {
    app.unload_adapter(&request.lora_name, &headers).await.map(LoadedAdapters::new).map(Json)
}

//! `GET /v1/models`: what is served, the default first; and `/v1/models/{model}`: one of them.

use axum::{
    Json,
    extract::{Path, State},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{App, error::ApiError};
use crate::engine::generation::Generation;

/// The models, in the order of their precedence.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelList {
    /// Always `list`.
    #[schema(pattern = "^list$")]
    pub object: &'static str,
    /// The default first.
    pub data: Vec<ModelEntry>,
}

/// One model.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelEntry {
    /// The name to give as `model`.
    pub id: String,
    /// Always `model`.
    #[schema(pattern = "^model$")]
    pub object: &'static str,
    /// Seconds since 1970, when it came into service.
    pub created: u64,
    /// Always `rewarden`.
    pub owned_by: &'static str,
    /// Tokens that an item may have.
    pub max_model_len: usize,
    /// Whether the model gives variances.
    pub posterior: bool,
    /// The name again.
    pub root: String,
    /// The base, where the model is an adapter on one.
    #[schema(required)]
    pub parent: Option<String>,
    /// Always empty.
    #[schema(value_type = Vec<Object>)]
    pub permission: [(); 0],
    /// Tells it from every model that answers otherwise; what `x-rewarden-model` says of its answers.
    pub fingerprint: String,
}

/// One model, also as the first version of KServe's protocol has it.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelState {
    #[serde(flatten)]
    pub entry: ModelEntry,
    /// The name once more.
    pub name: String,
    /// Always true: 503 where it is not.
    pub ready: bool,
}

impl ModelEntry {
    fn of(served: &Generation) -> Self {
        Self {
            id: served.name.clone(),
            object: "model",
            created: served.created(),
            owned_by: "rewarden",
            max_model_len: served.max_length,
            posterior: served.has_posterior,
            root: served.name.clone(),
            parent: served.parent.clone(),
            permission: [],
            fingerprint: served.fingerprint.clone(),
        }
    }
}

/// List models
#[utoipa::path(get, path = "/v1/models", tag = "scoring", responses((status = OK, body = ModelList)))]
pub async fn models(State(app): State<App>) -> Json<ModelList> {
    let models = app.engine().registry().models();
    Json(ModelList { object: "list", data: models.iter().map(|served| ModelEntry::of(served)).collect() })
}

/// Is a model served, and ready?
#[utoipa::path(
    get,
    path = "/v1/models/{model}",
    tag = "scoring",
    params(("model" = String, Path, description = "a name that `/v1/models` lists")),
    responses((status = OK, body = ModelState), (status = "default", description = "`{\"error\"}`"))
)]
pub async fn model(State(app): State<App>, Path(model): Path<String>) -> Result<Json<ModelState>, ApiError> {
    let served = app.model(Some(&model))?;
    app.engine().ready()?;
    let entry = ModelEntry::of(&served);
    Ok(Json(ModelState { name: entry.id.clone(), entry, ready: true }))
}

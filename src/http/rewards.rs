//! `POST /v1/rewards`: items in, mean, variance and conservative score of each out.

use std::sync::Arc;

use axum::{Extension, Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    App,
    error::{ApiError, Refusals},
    json::StrictJson,
    layers::Cost,
    object::Object,
    penalty::Plan,
    reward::{Reward, TokenUsage},
};
use crate::{
    Error, Result,
    engine::{Job, terms::Terms},
    item::{Id, Item, Place, Placed},
    score::rule::PenaltyRule,
    text::Truncation,
};

/// Items to score, and how.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RewardsRequest {
    /// A name that `/v1/models` lists; the first of them by default.
    pub model: Option<String>,
    /// What is to be scored.
    #[serde(default)]
    #[schema(required, min_items = 1, value_type = Vec<Item>)]
    pub items: Vec<Object<Item<Id>>>,
    /// What uncertainty costs; by default the adapter's stored rule, else one standard deviation.
    #[schema(value_type = Option<PenaltyRule>)]
    pub penalty: Option<Object<PenaltyRule>>,
    /// Whether to compute variances; by default where the model has a posterior and the penalty is not `none`.
    pub variance: Option<bool>,
    /// What is cut from items that are too long; by default they are an error.
    pub truncation: Option<Truncation>,
}

/// The rewards, in the order of the items.
#[derive(Debug, Serialize, ToSchema)]
pub struct RewardsResponse {
    /// Always `list`.
    #[schema(pattern = "^list$")]
    pub object: &'static str,
    /// The model that scored.
    pub model: String,
    /// A reward for each item.
    pub data: Vec<Reward>,
    /// The penalty as it was applied.
    pub penalty: PenaltyRule,
    /// What it cost.
    pub usage: TokenUsage,
}

/// Score items
///
/// Each item is a prompt with a response, a conversation, templated text, or token ids.
#[utoipa::path(
    post,
    path = "/v1/rewards",
    tag = "scoring",
    request_body = RewardsRequest,
    responses(
        (status = OK, body = RewardsResponse),
        Refusals,
    )
)]
pub async fn rewards(
    State(app): State<App>,
    Extension(terms): Extension<Terms>,
    StrictJson(request): StrictJson<RewardsRequest>,
) -> Result<(Extension<Cost>, Json<RewardsResponse>), ApiError> {
    let model = app.model(request.model.as_deref())?;
    app.bounded("items", request.items.len())?;
    let Plan { penalty, rule, want } = Plan::new(request.penalty, request.variance, &model)?.alone()?;
    let (ids, inputs) = parsed(request.items)?;
    let job =
        Job { model: Arc::clone(&model), inputs, max_length: None, truncation: request.truncation, terms };
    let mut data = app.rate_all(&model, app.engine().score(job, want).await?, penalty)?;
    data.iter_mut().zip(ids).for_each(|(reward, id)| reward.id = id);
    app.observe(&model, &data);
    let usage = TokenUsage::of(&data);
    let cost = Cost { items: data.len(), tokens: usage.tokens };
    let model = model.name.clone();
    Ok((Extension(cost), Json(RewardsResponse { object: "list", model, data, penalty: rule, usage })))
}

/// Separates ids from inputs; what is wrong is named with its place.
fn parsed(items: Vec<Object<Item<Id>>>) -> Result<(Vec<Option<Id>>, Vec<Placed>)> {
    if items.is_empty() {
        return Err(Error::field("items", "missing or empty"));
    }
    items.into_iter().enumerate().map(|(index, Object(item))| placed(index, item)).collect()
}

/// An item's id and what it says.
pub fn placed(index: usize, mut item: Item<Id>) -> Result<(Option<Id>, Placed)> {
    let (id, place) = (item.id.take(), Place::Item(index));
    match item.parse() {
        Ok(input) => Ok((id, place.of(input))),
        Err(error) => Err(place.blame(error)),
    }
}

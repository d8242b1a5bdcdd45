//! `POST /v1/rewards`: items in, mean, variance and conservative score of each out.

use axum::{Extension, Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    App,
    error::{ApiError, ErrorBody},
    json::StrictJson,
    layers::{Cost, Deadline},
    object::Object,
};
use crate::{
    Error, Result,
    engine::{Job, Scored, registry::Served},
    item::{Id, Input, Item},
    score::{
        Rated, Want,
        penalty::{Kind, Penalty},
    },
    telemetry::metrics::Metrics,
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
    /// What uncertainty costs; one standard deviation by default.
    #[schema(value_type = Option<PenaltyRequest>)]
    pub penalty: Option<Object<PenaltyRequest>>,
    /// Whether to compute variances; by default where the model has a posterior and the penalty is not `none`.
    pub variance: Option<bool>,
    /// What is cut from items that are too long; by default they are an error.
    pub truncation: Option<Truncation>,
}

/// What is subtracted from the mean.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PenaltyRequest {
    /// What of it: the standard deviation, the variance, or nothing.
    pub kind: Kind,
    /// How much of it.
    #[serde(default = "default_k")]
    #[schema(minimum = 0.0, default = 1.0)]
    pub k: f64,
}

fn default_k() -> f64 {
    Penalty::DEFAULT_K
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
    /// What it cost.
    pub usage: TokenUsage,
}

/// One item's reward.
#[derive(Debug, Serialize, ToSchema)]
pub struct Reward {
    /// The item's place, counted from 0.
    pub index: usize,
    /// The item's own `id`.
    #[schema(required)]
    pub id: Option<Id>,
    /// Posterior mean of the reward.
    pub mean: f64,
    /// Posterior variance, where it was computed.
    #[schema(required, minimum = 0.0)]
    pub variance: Option<f64>,
    /// Square root of the variance.
    #[schema(required, minimum = 0.0)]
    pub std: Option<f64>,
    /// The mean less the penalty; the mean where there is no variance.
    pub score: f64,
    /// Percentile of the variance among those of the pairs that were held out of the fit: near 1, the model is less sure than of
    /// nearly all of them, and the item may be unlike what it was trained on. Above the last quantile that the posterior keeps,
    /// 0.99 as `fit` writes it, no more is told. Null without a variance, or where the fit held nothing out.
    #[schema(required, minimum = 0.0, maximum = 1.0)]
    pub novelty: Option<f64>,
    /// Tokens that were scored.
    pub tokens: usize,
    /// Whether tokens were cut to fit.
    pub truncated: bool,
}

/// What the request cost.
#[derive(Debug, Serialize, ToSchema)]
pub struct TokenUsage {
    /// Tokens of all items.
    pub tokens: usize,
}

/// A request whose fields have been checked against the model.
struct Plan {
    penalty: Penalty,
    want: Want,
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
        (status = BAD_REQUEST, body = ErrorBody, description = "not JSON"),
        (status = NOT_FOUND, body = ErrorBody, description = "unknown model"),
        (status = PAYLOAD_TOO_LARGE, body = ErrorBody, description = "body too large, or too many items"),
        (status = UNSUPPORTED_MEDIA_TYPE, body = ErrorBody, description = "not `application/json`"),
        (status = UNPROCESSABLE_ENTITY, body = ErrorBody, description = "a field is invalid; `param` names it"),
        (status = INTERNAL_SERVER_ERROR, body = ErrorBody, description = "scoring failed"),
        (status = SERVICE_UNAVAILABLE, body = ErrorBody, description = "overloaded or not ready",
            headers(("retry-after" = u32, description = "seconds to wait"))),
        (status = GATEWAY_TIMEOUT, body = ErrorBody, description = "the request's time ran out"),
    )
)]
pub async fn rewards(
    State(app): State<App>,
    Extension(Deadline(deadline)): Extension<Deadline>,
    StrictJson(request): StrictJson<RewardsRequest>,
) -> Result<(Extension<Cost>, Json<RewardsResponse>), ApiError> {
    let (model, served) = app.engine().registry().find(request.model.as_deref())?;
    if request.items.len() > app.config().max_items {
        return Err(ApiError::too_many_items(request.items.len(), app.config().max_items));
    }
    let Plan { penalty, want } = Plan::new(&request, served)?;
    let (ids, inputs) = parsed(request.items)?;
    let job = Job { model, inputs, truncation: request.truncation, want, deadline };
    let scored = app.engine().score(job).await?;
    let numbered = ids.into_iter().zip(scored).enumerate();
    let data = numbered.map(|(index, (id, scored))| Reward::new(index, id, scored, penalty));
    let data = data.collect::<Result<Vec<_>>>()?;
    let tokens = data.iter().map(|reward| reward.tokens).sum();
    observe(app.metrics(), &served.name, &data);
    let cost = Cost { items: data.len(), tokens };
    let (model, usage) = (served.name.clone(), TokenUsage { tokens });
    Ok((Extension(cost), Json(RewardsResponse { object: "list", model, data, usage })))
}

impl Plan {
    /// Settles the penalty and whether variances are computed; what the model cannot do is an error only
    /// where it was asked for.
    fn new(request: &RewardsRequest, served: &Served) -> Result<Self> {
        let given = request.penalty.map(|Object(given)| Penalty::new(given.kind, given.k)).transpose()?;
        let penalty = given.unwrap_or_default();
        let needed = given.is_some_and(|given| given.needs_variance());
        let default = served.has_posterior && penalty.kind() != Kind::None;
        let variance = request.variance.unwrap_or(default);
        if needed && !served.has_posterior {
            let message = "the model has no posterior, so no variance (hint: leave it out, or say `none`)";
            return Err(Error::field("penalty", message));
        }
        if variance && !served.has_posterior {
            return Err(Error::field("variance", "the model has no posterior, so no variance"));
        }
        if needed && !variance {
            let message = "the penalty needs it (hint: leave `penalty` out, or say `none`)";
            return Err(Error::field("variance", message));
        }
        Ok(Self { penalty, want: if variance { Want::MeanAndVariance } else { Want::Mean } })
    }
}

impl Reward {
    fn new(index: usize, id: Option<Id>, scored: Scored, penalty: Penalty) -> Result<Self> {
        let Scored { estimate, novelty, tokens, truncated } = scored;
        let Rated { mean, variance, std, score } = estimate.rated(penalty)?;
        Ok(Self { index, id, mean, variance, std, score, novelty, tokens, truncated })
    }
}

/// Separates ids from inputs; what is wrong is named with its place.
fn parsed(items: Vec<Object<Item<Id>>>) -> Result<(Vec<Option<Id>>, Vec<Input>)> {
    if items.is_empty() {
        return Err(Error::field("items", "missing or empty"));
    }
    let parse = |(index, Object(mut item)): (usize, Object<Item<Id>>)| {
        let id = item.id.take();
        item.parse().map(|input| (id, input)).map_err(|e| e.in_item(index))
    };
    items.into_iter().enumerate().map(parse).collect()
}

fn observe(metrics: &Metrics, model: &str, data: &[Reward]) {
    type Value = fn(&Reward) -> Option<f64>;
    let Metrics { reward_mean, reward_std, reward_score, novelty, .. } = metrics;
    let observed: [(_, Value); 4] = [
        (reward_mean, |reward| Some(reward.mean)),
        (reward_std, |reward| reward.std),
        (reward_score, |reward| Some(reward.score)),
        (novelty, |reward| reward.novelty),
    ];
    for (histogram, value) in observed {
        let histogram = histogram.with_label_values(&[model]);
        data.iter().filter_map(value).for_each(|value| histogram.observe(value));
    }
}

//! Text Embeddings Inference: `/predict` and `/rerank`.
//!
//! A list of two texts is one pair, a prompt and an answer; several inputs are a list of lists of one or two.

use axum::{Json, http::StatusCode, response::Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    question::{Asker, Plain, Posterior, Question},
    rerank::question,
};
use crate::{
    Error, Result,
    http::{error::ApiError, json::LooseJson},
    item::{Input, Place, Placed},
    text::Truncation,
};

pub mod server;
pub mod timing;

use timing::Work;

/// Texts to score.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = TeiPredictRequest)]
pub struct PredictRequest {
    inputs: Inputs,
    /// Whether what is too long is cut; it is an error by default.
    truncate: Option<bool>,
    #[serde(default)]
    truncation_direction: Direction,
    /// Whether scores are not passed through the logistic function; they are not by default.
    raw_scores: Option<bool>,
    /// As the hub's client says it, which then takes the labels of one input in a list too.
    parameters: Option<Parameters>,
}

/// What the hub's client asks for.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = TeiParameters)]
pub struct Parameters {
    function_to_apply: Option<Function>,
}

/// What scores are passed through. There is one label, so that a softmax would always be 1: it is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = TeiFunction)]
pub enum Function {
    None,
    Sigmoid,
}

/// One text, one pair, or a list of either.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a text, a pair of texts, or a list of lists of one or two texts")]
#[schema(as = TeiInputs)]
pub enum Inputs {
    One(String),
    Pair(Vec<String>),
    Several(Vec<Vec<String>>),
}

/// Which end is cut.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[schema(as = TeiDirection)]
pub enum Direction {
    #[serde(alias = "left")]
    Left,
    #[default]
    #[serde(alias = "right")]
    Right,
}

/// The labels of one input, or of each of several.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = TeiPredictions)]
pub enum Predictions {
    One([Prediction; 1]),
    Several(Vec<[Prediction; 1]>),
}

/// The only label.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[schema(as = TeiPrediction)]
pub struct Prediction {
    score: f64,
    label: &'static str,
    reward: Posterior,
}

/// Rewards in Text Embeddings Inference's shape
#[utoipa::path(
    post,
    path = "/predict",
    tag = "dialects",
    request_body = PredictRequest,
    responses((status = OK, body = Predictions), (status = "default", description = "`{\"error\", \"error_type\"}`; 429 overloaded"))
)]
pub async fn predict(
    asker: Asker,
    LooseJson(request): LooseJson<PredictRequest>,
) -> Result<Response, ApiError> {
    predicted(&asker, request).await
}

/// `/predict`, where SageMaker looks for it
#[utoipa::path(
    post,
    path = "/invocations",
    tag = "dialects",
    request_body = PredictRequest,
    responses((status = OK, body = Predictions), (status = "default", description = "`{\"error\", \"error_type\"}`; 429 overloaded"))
)]
pub async fn invocations(
    asker: Asker,
    LooseJson(request): LooseJson<PredictRequest>,
) -> Result<Response, ApiError> {
    predicted(&asker, request).await
}

/// `/predict`, where inference endpoints look for it
#[utoipa::path(
    post,
    path = "/",
    tag = "dialects",
    request_body = PredictRequest,
    responses((status = OK, body = Predictions), (status = "default", description = "`{\"error\", \"error_type\"}`; 429 overloaded"))
)]
pub async fn root(asker: Asker, LooseJson(request): LooseJson<PredictRequest>) -> Result<Response, ApiError> {
    predicted(&asker, request).await
}

/// Vertex AI's envelope around several requests.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = TeiVertexRequest)]
pub struct VertexRequest {
    instances: Vec<PredictRequest>,
}

/// Vertex AI's envelope around their answers.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TeiVertexResponse)]
pub struct VertexResponse {
    predictions: Vec<Predictions>,
}

/// Rewards in Vertex AI's envelope
#[utoipa::path(
    post,
    path = "/vertex",
    tag = "dialects",
    request_body = VertexRequest,
    responses((status = OK, body = VertexResponse), (status = "default", description = "`{\"error\", \"error_type\"}`; 429 overloaded"))
)]
pub async fn vertex(
    asker: Asker,
    LooseJson(request): LooseJson<VertexRequest>,
) -> Result<Json<VertexResponse>, ApiError> {
    asker.app.bounded("instances", request.instances.len())?;
    let mut predictions = Vec::with_capacity(request.instances.len());
    for instance in request.instances {
        predictions.push(predictions_of(&asker, instance).await?.1);
    }
    Ok(Json(VertexResponse { predictions }))
}

/// `/predict` of this dialect.
pub async fn predicted(asker: &Asker, request: PredictRequest) -> Result<Response, ApiError> {
    let (work, predictions) = predictions_of(asker, request).await?;
    Ok(work.reply(asker.spent(), predictions))
}

async fn predictions_of(asker: &Asker, request: PredictRequest) -> Result<(Work, Predictions), ApiError> {
    let (inputs, single) = request.inputs.placed()?;
    let single = single && request.parameters.is_none();
    let characters = timing::characters(&inputs);
    let truncation = request.truncation_direction.where_asked(request.truncate);
    let function = request.parameters.and_then(|parameters| parameters.function_to_apply);
    let activation = request.raw_scores.map(|raw| !raw).or(function.map(|f| f == Function::Sigmoid));
    let answer =
        asker.answer("inputs", Question { inputs, truncation, activation, ..Question::default() }).await?;
    let prediction =
        |_, plain: &Plain| [Prediction { score: plain.score, label: "LABEL_0", reward: plain.reward }];
    let mut all = answer.each(prediction);
    let predictions = match all.pop_if(|_| single) {
        Some(one) => Predictions::One(one),
        None => Predictions::Several(all),
    };
    Ok((Work { answer, characters }, predictions))
}

impl Inputs {
    /// Each with its place, and whether there was only one, not in a list.
    fn placed(self) -> Result<(Vec<Placed>, bool), ApiError> {
        let several = match self {
            Self::One(text) => return Ok((vec![Place::Field("inputs".into()).of(Input::Plain(text))], true)),
            Self::Pair(texts) if texts.is_empty() => return Err(ApiError::empty("inputs")),
            Self::Pair(texts) => return Ok((vec![input(Place::Field("inputs".into()), texts)?], true)),
            Self::Several(several) => several,
        };
        let placed = |(at, texts)| input(Place::element("inputs", at), texts);
        Ok((several.into_iter().enumerate().map(placed).collect::<Result<_>>()?, false))
    }
}

/// One text, or a prompt and an answer.
fn input(place: Place, texts: Vec<String>) -> Result<Placed> {
    match <[String; 2]>::try_from(texts) {
        Ok([prompt, response]) => Ok(place.of(Input::Pair { prompt: prompt.into(), response })),
        Err(mut texts) => match (texts.pop(), texts.is_empty()) {
            (Some(text), true) => Ok(place.of(Input::Plain(text))),
            _ => Err(Error::field(place.to_string(), "neither one text nor a pair")),
        },
    }
}

impl Direction {
    fn where_asked(self, truncate: Option<bool>) -> Option<Truncation> {
        let truncation = match self {
            Self::Left => Truncation::Left,
            Self::Right => Truncation::Right,
        };
        truncate.unwrap_or(false).then_some(truncation)
    }
}

/// A query and texts.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = TeiRerankRequest)]
pub struct RerankRequest {
    query: String,
    texts: Vec<String>,
    /// Whether what is too long is cut; it is an error by default.
    truncate: Option<bool>,
    #[serde(default)]
    truncation_direction: Direction,
    /// Whether scores are not passed through the logistic function; they are not by default.
    raw_scores: Option<bool>,
    #[serde(default)]
    return_text: bool,
}

/// A text in its place; the answer is a list of them, by falling score.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TeiRanked)]
pub struct Ranked {
    index: usize,
    score: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    reward: Posterior,
}

/// `/rerank` of this dialect.
pub async fn rerank(asker: &Asker, request: RerankRequest) -> Result<Response, ApiError> {
    let RerankRequest { query, texts, truncate, truncation_direction, raw_scores, return_text } = request;
    let question = Question {
        truncation: truncation_direction.where_asked(truncate),
        activation: raw_scores.map(|raw| !raw),
        ..question(asker, query, "texts", &texts)?
    };
    let characters = timing::characters(&question.inputs);
    let answer = asker.answer("texts", question).await?;
    let ranked = |index: usize| Ranked {
        index,
        score: answer.scores[index].score,
        text: return_text.then(|| texts[index].clone()),
        reward: answer.scores[index].reward,
    };
    let ranked: Vec<Ranked> = answer.ranked().into_iter().map(ranked).collect();
    Ok(Work { answer, characters }.reply(asker.spent(), ranked))
}

#[derive(Debug, Serialize)]
struct Refusal<'a> {
    error: &'a str,
    error_type: &'static str,
}

/// Says an error as Text Embeddings Inference does: overload is 429, and what fails inside 424.
pub fn refuse(error: &ApiError) -> Response {
    let (status, error_type) = match (error.code(), error.status()) {
        ("empty", _) => (StatusCode::BAD_REQUEST, "Empty"),
        ("overloaded" | "rate_limited", _) => (StatusCode::TOO_MANY_REQUESTS, "Overloaded"),
        ("not_ready", _) => (StatusCode::SERVICE_UNAVAILABLE, "Unhealthy"),
        (_, status) if status.is_server_error() => (StatusCode::FAILED_DEPENDENCY, "Backend"),
        (_, StatusCode::PAYLOAD_TOO_LARGE) => (StatusCode::UNPROCESSABLE_ENTITY, "Validation"),
        (_, status) => (status, "Validation"),
    };
    error.answer(status, Json(Refusal { error: error.message(), error_type }))
}

//! LLaMA-Factory: `reward_model_type: api` posts templated texts and reads `scores`.

use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    question::{Answer, Asker, Posterior, Question},
    vllm::id,
};
use crate::{
    Result,
    http::{error::ApiError, json::LooseJson},
    item::{Input, Place},
    text::Truncation,
};

/// What the client names whatever model there is.
const ANY: &str = "model";

/// Templated texts.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = LlamaFactoryEvaluationRequest)]
pub struct EvaluationRequest {
    model: Option<String>,
    messages: Vec<String>,
    /// Tokens that a text may have; what is longer is cut on the right.
    max_length: Option<usize>,
}

/// A score for each.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LlamaFactoryEvaluation)]
pub struct Evaluation {
    id: String,
    /// Always `score.evaluation`.
    object: &'static str,
    model: String,
    scores: Vec<f64>,
    rewards: Vec<Posterior>,
}

/// Rewards for LLaMA-Factory
#[utoipa::path(
    post,
    path = "/v1/score/evaluation",
    tag = "dialects",
    request_body = EvaluationRequest,
    responses((status = OK, body = Evaluation), (status = "default", description = "`{\"detail\"}`"))
)]
pub async fn evaluation(
    asker: Asker,
    LooseJson(request): LooseJson<EvaluationRequest>,
) -> Result<Response, ApiError> {
    if request.messages.is_empty() {
        return Err(ApiError::empty("messages"));
    }
    let model = request.model.filter(|model| model != ANY);
    let place = |(at, text)| Place::element("messages", at).of(Input::Text(text));
    let inputs = request.messages.into_iter().enumerate().map(place).collect();
    let (max_length, truncation) = (request.max_length, Some(Truncation::Right));
    let question = Question { model, inputs, max_length, truncation, ..Question::default() };
    let answer: Answer = asker.answer("messages", question).await?;
    Ok(answer.reply(Evaluation {
        id: id("scoreval"),
        object: "score.evaluation",
        model: answer.model.clone(),
        scores: answer.each(|_, plain| plain.score),
        rewards: answer.each(|_, plain| plain.reward),
    }))
}

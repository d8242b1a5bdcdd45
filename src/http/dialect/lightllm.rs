//! LightLLM: `/get_score` of one conversation.
//!
//! `chat` is templated text, around which the tokenizer puts its special tokens, or messages. What is wrong with a request and
//! what fails inside are both 417.

use axum::{Json, http::StatusCode, response::Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    question::{Asker, Posterior, Question},
    vllm::{Refusal, kind},
};
use crate::{
    Error,
    http::{error::ApiError, json::LooseJson},
    item::{Input, Message, Place, joined},
};

/// A conversation; `parameters` beside it are of generation, and not read.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = LightLlmGetScoreRequest)]
pub struct GetScoreRequest {
    chat: Chat,
}

/// Templated text, or messages.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a text or a list of messages")]
#[schema(as = LightLlmChat)]
pub enum Chat {
    Text(String),
    Messages(Vec<Message>),
}

/// Its score.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LightLlmGetScoreResponse)]
pub struct GetScoreResponse {
    score: f64,
    prompt_tokens: usize,
    /// Always `stop`.
    finish_reason: &'static str,
    reward: Posterior,
}

/// A reward in LightLLM's shape
#[utoipa::path(
    post,
    path = "/get_score",
    tag = "dialects",
    request_body = GetScoreRequest,
    responses((status = OK, body = GetScoreResponse), (status = "default", description = "`{\"error\": {\"message\", \"type\", \"param\", \"code\"}}`; 417 for most of what is wrong"))
)]
pub async fn get_score(
    asker: Asker,
    LooseJson(request): LooseJson<GetScoreRequest>,
) -> Result<Response, ApiError> {
    let input = match request.chat {
        Chat::Text(text) => Input::Plain(text),
        Chat::Messages(messages) => Input::Messages(joined("chat", messages)?),
    };
    let inputs = vec![Place::Field("chat".into()).of(input)];
    let answer = asker.answer("chat", Question { inputs, ..Question::default() }).await?;
    let [plain] = answer.scores[..] else {
        return Err(Error::Internal("not one score for one conversation".into()).into());
    };
    Ok(answer.reply(GetScoreResponse {
        score: plain.score,
        prompt_tokens: plain.tokens,
        finish_reason: "stop",
        reward: plain.reward,
    }))
}

/// Says an error as LightLLM does, whose `/get_score` knows two: what it calls busy, and all else.
pub fn refuse(error: &ApiError) -> Response {
    let status = match error.status() {
        StatusCode::BAD_REQUEST
        | StatusCode::NOT_FOUND
        | StatusCode::PAYLOAD_TOO_LARGE
        | StatusCode::UNSUPPORTED_MEDIA_TYPE
        | StatusCode::UNPROCESSABLE_ENTITY
        | StatusCode::INTERNAL_SERVER_ERROR => StatusCode::EXPECTATION_FAILED,
        status => status,
    };
    error.answer(status, Json(Refusal::new(error, status, kind(status))))
}

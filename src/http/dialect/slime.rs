//! slime's remote reward: `--rm-url http://…/slime`. The whole reply is the reward; with `?full=1` it is an object, from which
//! `--reward-key` takes a number.

use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::question::{Asker, Posterior, Question};
use crate::{
    Error, Result,
    http::{error::ApiError, json::LooseJson, query::Choices},
    item::{Answer, Place, Prompt},
};

/// A prompt and an answer; `label` beside them is not read.
#[derive(Debug, Deserialize, ToSchema)]
pub struct SlimeRequest {
    prompt: Prompt,
    response: String,
}

/// What the address may ask for.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Detail {
    /// 1 for an object in the place of a number.
    #[serde(default)]
    #[param(maximum = 255)]
    full: u8,
}

/// The reward.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum SlimeResponse {
    /// The plain score.
    Number(f64),
    /// Everything.
    Full(Full),
}

/// The plain score and the posterior.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SlimeFull)]
pub struct Full {
    /// The plain score.
    reward: f64,
    #[serde(flatten)]
    posterior: Posterior,
}

/// A reward for slime
#[utoipa::path(
    post,
    path = "/slime",
    tag = "dialects",
    params(Detail),
    request_body = SlimeRequest,
    responses((status = OK, body = SlimeResponse), (status = "default", description = "`{\"detail\"}`"))
)]
pub async fn reward(
    asker: Asker,
    Choices(Detail { full }): Choices<Detail>,
    LooseJson(request): LooseJson<SlimeRequest>,
) -> Result<Response, ApiError> {
    let input = request.prompt.shared()?.answered(Answer::Text(request.response))?;
    let inputs = vec![Place::Field("response".into()).of(input)];
    let answer = asker.answer("response", Question { inputs, ..Question::default() }).await?;
    let [plain] = answer.scores[..] else {
        return Err(Error::Internal("not one score for one answer".into()).into());
    };
    Ok(answer.reply(match full {
        0 => SlimeResponse::Number(plain.score),
        _ => SlimeResponse::Full(Full { reward: plain.score, posterior: plain.reward }),
    }))
}

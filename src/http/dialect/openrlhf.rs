//! OpenRLHF: `--reward.remote_url http://…/get_reward`.
//!
//! `query` is templated text, special tokens among it; what is too long is cut on the right, as OpenRLHF's own server does. An
//! empty list is answered: with several addresses, the client sends one to each that has nothing to do.

use std::collections::BTreeMap;

use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::question::{Answer, Asker, Plain, PlainScore, Question};
use crate::{
    http::{error::ApiError, json::LooseJson, query::Choices},
    item::{Input, Place},
    text::Truncation,
    train::loss::sigmoid,
};

/// What OpenRLHF sends; `prompts` and `labels` beside it are not read.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = OpenRlhfGetRewardRequest)]
pub struct GetRewardRequest {
    /// Prompts with their answers, templated.
    query: Vec<String>,
}

/// What the address may ask for.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Wanted {
    /// What `rewards` are, where it is not the service's plain score.
    #[serde(default)]
    #[param(inline)]
    reward: Option<PlainScore>,
    /// What `scores` are: the rewards, or, for dynamic filtering, numbers from 0 to 1.
    #[serde(default)]
    #[param(inline)]
    scores: Scores,
}

/// What `scores` are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = OpenRlhfScores)]
enum Scores {
    /// The rewards.
    #[default]
    Reward,
    /// The rewards through the logistic function.
    Sigmoid,
}

/// What OpenRLHF reads.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OpenRlhfGetRewardResponse)]
pub struct GetRewardResponse {
    /// To train by.
    rewards: Vec<f64>,
    /// To filter by.
    scores: Vec<f64>,
    /// What is logged: `mean`, `variance`, `std`, `contraction`, `score`, `novelty` and `truncated` of each, as far as they are known.
    extra_logs: BTreeMap<&'static str, Vec<f64>>,
}

/// Rewards for OpenRLHF
#[utoipa::path(
    post,
    path = "/get_reward",
    tag = "dialects",
    params(Wanted),
    request_body = GetRewardRequest,
    responses((status = OK, body = GetRewardResponse), (status = "default", description = "`{\"detail\"}`"))
)]
pub async fn get_reward(
    asker: Asker,
    Choices(wanted): Choices<Wanted>,
    LooseJson(request): LooseJson<GetRewardRequest>,
) -> Result<Response, ApiError> {
    let place = |(at, text)| Place::element("query", at).of(Input::Text(text));
    let inputs = request.query.into_iter().enumerate().map(place).collect();
    let truncation = Some(Truncation::Right);
    let question = Question { inputs, truncation, plain: wanted.reward, ..Question::default() };
    let answer = asker.answer("query", question).await?;
    let rewards = answer.each(|_, plain| plain.score);
    let scores = match wanted.scores {
        Scores::Reward => rewards.clone(),
        Scores::Sigmoid => rewards.iter().map(|reward| sigmoid(*reward)).collect(),
    };
    Ok(answer.reply(GetRewardResponse { rewards, scores, extra_logs: logs(&answer) }))
}

/// A list for every number that all have: the client makes tensors of them, which hold no nulls.
fn logs(answer: &Answer) -> BTreeMap<&'static str, Vec<f64>> {
    type Number = fn(&Plain) -> Option<f64>;
    let numbers: [(&str, Number); 7] = [
        ("mean", |plain| Some(plain.reward.mean)),
        ("variance", |plain| plain.reward.variance),
        ("std", |plain| plain.reward.std),
        ("contraction", |plain| plain.reward.contraction),
        ("score", |plain| Some(plain.reward.score)),
        ("novelty", |plain| plain.reward.novelty),
        ("truncated", |plain| Some(f64::from(u8::from(plain.reward.truncated)))),
    ];
    let list = |(name, number): (&'static str, Number)| {
        Some((name, answer.scores.iter().map(number).collect::<Option<Vec<f64>>>()?))
    };
    numbers.into_iter().filter(|_| !answer.scores.is_empty()).filter_map(list).collect()
}

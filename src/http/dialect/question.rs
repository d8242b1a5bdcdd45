//! What every dialect asks in the end, and the answer before it is put into its words.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::FromRequestParts,
    http::request::Parts,
    response::{IntoResponse, Response},
};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    Result,
    engine::{Job, terms::Terms, times::Spent},
    http::{App, error::ApiError, layers::Cost, penalty::Plan, reward::Reward},
    item::Placed,
    score::rule::PenaltyRule,
    text::Truncation,
    train::loss::sigmoid,
};

/// Which number stands where an interface has room for one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum PlainScore {
    /// The posterior mean.
    #[default]
    Mean,
    /// The conservative score, by the adapter's stored rule, else the mean less one standard deviation.
    Conservative,
}

/// Inputs to score for a dialect.
#[derive(Debug, Default)]
pub struct Question {
    /// A name, or the default model.
    pub model: Option<String>,
    pub inputs: Vec<Placed>,
    /// The request's own limit on tokens.
    pub max_length: Option<usize>,
    pub truncation: Option<Truncation>,
    /// Whether plain scores pass through the logistic function; not by default.
    pub activation: Option<bool>,
    /// Another plain score than the service's.
    pub plain: Option<PlainScore>,
}

/// The scores, in the order of the inputs.
#[derive(Debug)]
pub struct Answer {
    /// The model that scored.
    pub model: String,
    pub scores: Vec<Plain>,
    /// Tokens of all inputs.
    pub tokens: usize,
}

/// The rewards of a question's inputs.
#[derive(Debug)]
pub struct Rewards {
    /// The model that scored.
    pub model: String,
    pub rewards: Vec<Reward>,
    /// The penalty as it was applied.
    pub penalty: PenaltyRule,
}

/// One input's score.
#[derive(Debug, Clone, Copy)]
pub struct Plain {
    pub score: f64,
    pub tokens: usize,
    pub reward: Posterior,
}

/// What stands beside a plain score.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct Posterior {
    /// Posterior mean of the reward.
    pub mean: f64,
    /// Posterior variance; null without a posterior.
    #[schema(required, minimum = 0.0)]
    pub variance: Option<f64>,
    /// Square root of the variance.
    #[schema(required, minimum = 0.0)]
    pub std: Option<f64>,
    /// Share of the prior variance that the preference pairs removed, as in `/v1/rewards`.
    #[schema(required, minimum = 0.0, maximum = 1.0)]
    pub contraction: Option<f64>,
    /// The conservative score.
    pub score: f64,
    /// Percentile of 1 - contraction, as in `/v1/rewards`.
    #[schema(required, minimum = 0.0, maximum = 1.0)]
    pub novelty: Option<f64>,
    /// Whether tokens were cut to fit.
    pub truncated: bool,
}

/// Who answers, and on what terms.
pub struct Asker {
    pub app: App,
    terms: Terms,
}

impl FromRequestParts<App> for Asker {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let terms = parts.extensions.get::<Terms>().cloned().ok_or_else(ApiError::internal)?;
        Ok(Self { app: app.clone(), terms })
    }
}

impl Asker {
    /// What the request's time has gone into.
    pub fn spent(&self) -> Spent {
        self.terms.times.spent()
    }

    /// Computes something of every input that needs no model; `size` is in tokens.
    pub async fn aside<I: Send + 'static, T: Send + 'static>(
        &self,
        inputs: Vec<I>,
        size: impl Fn(&I) -> usize,
        of: impl Fn(I) -> Result<T> + Send + 'static,
    ) -> Result<Vec<T>, ApiError> {
        Ok(self.app.engine().aside(&self.terms, inputs, size, of).await?)
    }

    /// Scores the inputs; `list` is the field that they came in.
    pub async fn answer(&self, list: &str, question: Question) -> Result<Answer, ApiError> {
        self.app.bounded(list, question.inputs.len())?;
        let plain = question.plain.unwrap_or(self.app.config().plain_score);
        let activated = question.activation.unwrap_or(false);
        let Rewards { model, rewards, .. } = self.rewards(question).await?;
        let scores: Vec<Plain> = rewards.iter().map(|reward| Plain::new(reward, plain, activated)).collect();
        let tokens = scores.iter().map(|score| score.tokens).sum();
        Ok(Answer { model, scores, tokens })
    }

    /// The rewards of the inputs with whatever the model knows of them.
    pub async fn rewards(&self, question: Question) -> Result<Rewards, ApiError> {
        let Question { model, inputs, max_length, truncation, .. } = question;
        let model = self.app.model(model.as_deref())?;
        let Plan { penalty, rule, want } = Plan::new(None, None, &model)?;
        let terms = self.terms.clone();
        let job = Job { model: Arc::clone(&model), inputs, max_length, truncation, terms };
        let rewards = self.app.rate_all(&model, self.app.engine().score(job, want).await?, penalty)?;
        self.app.observe(&model, &rewards);
        Ok(Rewards { model: model.name.clone(), rewards, penalty: rule })
    }
}

impl Plain {
    fn new(reward: &Reward, plain: PlainScore, activated: bool) -> Self {
        let Reward { mean, variance, std, contraction, score, novelty, tokens, truncated, .. } = *reward;
        let raw = match plain {
            PlainScore::Mean => mean,
            PlainScore::Conservative => score,
        };
        let reward = Posterior { mean, variance, std, contraction, score, novelty, truncated };
        Self { score: if activated { sigmoid(raw) } else { raw }, tokens, reward }
    }
}

impl Answer {
    /// Sends a body that says what is in here.
    pub fn reply(&self, body: impl Serialize) -> Response {
        let cost = Cost { items: self.scores.len(), tokens: self.tokens };
        (Extension(cost), Json(body)).into_response()
    }

    /// Something of every score, with its place.
    pub fn each<T>(&self, of: impl Fn(usize, &Plain) -> T) -> Vec<T> {
        self.scores.iter().enumerate().map(|(index, score)| of(index, score)).collect()
    }

    /// Places by falling score, the first of equals first.
    pub fn ranked(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.scores.len()).collect();
        order.sort_by(|a, b| self.scores[*b].score.total_cmp(&self.scores[*a].score));
        order
    }
}

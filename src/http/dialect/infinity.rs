//! Infinity: `/classify` and `/rerank` with `raw_scores`, and `/models` with what waits.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode, response::Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    question::{Asker, Plain, Posterior, Question},
    rerank::{best, question},
    texts::Texts,
    vllm::{id, now},
};
use crate::{
    Result,
    engine::{generation::Generation, queue::Load},
    http::{App, error::ApiError},
};

/// What Infinity's clients send where they mean the only model.
const UNSPECIFIED: &str = "default/not-specified";

/// Texts to score.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = InfinityClassifyRequest)]
pub struct ClassifyRequest {
    model: Option<String>,
    input: Vec<String>,
    /// Whether scores are not passed through the logistic function; they are not by default.
    raw_scores: Option<bool>,
}

/// The labels of each text.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = InfinityClassifyResponse)]
pub struct ClassifyResponse {
    /// Always `classify`.
    object: &'static str,
    data: Vec<[Label; 1]>,
    model: String,
    usage: InfinityUsage,
    id: String,
    created: u64,
}

/// The only label.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = InfinityLabel)]
pub struct Label {
    score: f64,
    label: &'static str,
    reward: Posterior,
}

/// Tokens.
#[derive(Debug, Serialize, ToSchema)]
pub struct InfinityUsage {
    prompt_tokens: usize,
    total_tokens: usize,
}

/// `/classify` of this dialect.
pub async fn classify(asker: &Asker, request: ClassifyRequest) -> Result<Response, ApiError> {
    let (inputs, _) = Texts::Several(request.input).inputs("input", false)?;
    let activation = request.raw_scores.map(|raw| !raw);
    let question = Question { model: specified(request.model), inputs, activation, ..Question::default() };
    let answer = asker.answer("input", question).await?;
    let label = |_, plain: &Plain| [Label { score: plain.score, label: "LABEL_0", reward: plain.reward }];
    Ok(answer.reply(ClassifyResponse {
        object: "classify",
        data: answer.each(label),
        model: answer.model.clone(),
        usage: InfinityUsage::of(answer.tokens),
        id: id("infinity"),
        created: now(),
    }))
}

/// A query and documents.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = InfinityRerankRequest)]
pub struct RerankRequest {
    model: Option<String>,
    query: String,
    documents: Vec<String>,
    /// How many are returned; all by default.
    top_n: Option<usize>,
    #[serde(default)]
    return_documents: bool,
    /// Whether scores are not passed through the logistic function; they are not by default.
    raw_scores: Option<bool>,
}

/// The documents by falling score.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = InfinityRerankResponse)]
pub struct RerankResponse {
    /// Always `rerank`.
    object: &'static str,
    results: Vec<Ranked>,
    model: String,
    usage: InfinityUsage,
    id: String,
    created: u64,
}

/// A document in its place.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = InfinityRanked)]
pub struct Ranked {
    relevance_score: f64,
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<String>,
    reward: Posterior,
}

/// `/rerank` of this dialect.
pub async fn rerank(asker: &Asker, request: RerankRequest) -> Result<Response, ApiError> {
    let RerankRequest { model, query, documents, top_n, return_documents, raw_scores } = request;
    let question = Question {
        model: specified(model),
        activation: raw_scores.map(|raw| !raw),
        ..question(asker, query, "documents", &documents)?
    };
    let answer = asker.answer("documents", question).await?;
    let ranked = |index: usize| Ranked {
        relevance_score: answer.scores[index].score,
        index,
        document: return_documents.then(|| documents[index].clone()),
        reward: answer.scores[index].reward,
    };
    Ok(answer.reply(RerankResponse {
        object: "rerank",
        results: best(&answer, top_n).into_iter().map(ranked).collect(),
        model: answer.model.clone(),
        usage: InfinityUsage::of(answer.tokens),
        id: id("infinity"),
        created: now(),
    }))
}

fn specified(model: Option<String>) -> Option<String> {
    model.filter(|model| model != UNSPECIFIED)
}

impl InfinityUsage {
    fn of(tokens: usize) -> Self {
        Self { prompt_tokens: tokens, total_tokens: tokens }
    }
}

/// The models, with what waits.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = InfinityModels)]
pub struct Models {
    /// Always `list`.
    object: &'static str,
    data: Vec<Model>,
}

/// One model.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = InfinityModel)]
pub struct Model {
    id: String,
    /// Always `model`.
    object: &'static str,
    owned_by: &'static str,
    created: u64,
    backend: &'static str,
    capabilities: [&'static str; 2],
    stats: Stats,
}

/// What waits, for all models together.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[schema(as = InfinityStats)]
pub struct Stats {
    queue_fraction: f64,
    queue_absolute: usize,
    results_pending: usize,
    batch_size: usize,
}

/// List models in Infinity's words
#[utoipa::path(get, path = "/models", tag = "dialects", responses((status = OK, body = Models)))]
pub async fn models(State(app): State<App>) -> Json<Models> {
    let (registry, config, Load { items, .. }) =
        (app.engine().registry(), app.engine().config(), app.engine().load());
    let stats = Stats {
        queue_fraction: items as f64 / config.queue_items as f64,
        queue_absolute: items,
        results_pending: items,
        batch_size: config.batch_tokens,
    };
    let model = |served: &Arc<Generation>| Model {
        id: served.name.clone(),
        object: "model",
        owned_by: "rewarden",
        created: served.created(),
        backend: "candle",
        capabilities: ["classify", "rerank"],
        stats,
    };
    Json(Models { object: "list", data: registry.models().iter().map(model).collect() })
}

#[derive(Debug, Serialize)]
struct Refusal<'a> {
    error: Wrong<'a>,
}

#[derive(Debug, Serialize)]
struct Wrong<'a> {
    message: &'a str,
    r#type: &'static str,
    param: Option<&'a str>,
    code: u16,
}

/// Says an error as Infinity does: overload is 429.
pub fn refuse(error: &ApiError) -> Response {
    let status = match error.code() {
        "overloaded" => StatusCode::TOO_MANY_REQUESTS,
        _ => error.status(),
    };
    let (message, param, code) = (error.message(), error.field(), status.as_u16());
    error.answer(status, Json(Refusal { error: Wrong { message, r#type: error.code(), param, code } }))
}

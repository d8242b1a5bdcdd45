//! Rerankers' interface: Cohere's, Jina's and vLLM's, which share one shape. The query is the prompt, the documents are answers.
//!
//! A document is returned where `return_documents` says so; where it says nothing, vLLM returns them, and Cohere's second version
//! does not.

use std::sync::Arc;

use axum::{Json, http::StatusCode, response::Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    question::{Answer, Asker, Posterior, Question},
    vllm::{Side, id, limit},
};
use crate::{
    http::{error::ApiError, json::LooseJson},
    item::{Input, Place},
};

/// A query and documents.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = CohereRerankRequest)]
pub struct RerankRequest {
    model: Option<String>,
    query: String,
    documents: Documents,
    /// How many are returned; none or 0 is all.
    #[serde(default)]
    top_n: Option<usize>,
    return_documents: Option<bool>,
    /// Whether scores pass through the logistic function; not by default.
    use_activation: Option<bool>,
    /// Tokens that a pair may have; -1 is the model's own limit.
    truncate_prompt_tokens: Option<i64>,
    /// What is cut.
    truncation_side: Option<Side>,
}

/// One document or several.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a document or a list of documents, each a text or `{\"text\"}`")]
#[schema(as = CohereDocuments)]
pub enum Documents {
    One(String),
    Several(Vec<Document>),
}

/// A text, on its own or in an object.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged)]
#[schema(as = CohereDocument)]
pub enum Document {
    Text(String),
    Object { text: String },
}

/// The documents by falling score.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CohereRerankResponse)]
pub struct RerankResponse {
    id: String,
    /// Always `rerank`.
    object: &'static str,
    model: String,
    results: Vec<Ranked>,
    usage: RerankUsage,
    meta: Meta,
}

/// A document in its place.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CohereRanked)]
pub struct Ranked {
    /// The document's place in the request, counted from 0.
    index: usize,
    relevance_score: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<Returned>,
    reward: Posterior,
}

/// A document that is returned.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CohereReturned)]
pub struct Returned {
    text: String,
    multi_modal: Option<()>,
}

/// Tokens.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CohereRerankUsage)]
pub struct RerankUsage {
    prompt_tokens: usize,
    total_tokens: usize,
}

/// What Cohere's client reads of the cost.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CohereMeta)]
pub struct Meta {
    api_version: ApiVersion,
    billed_units: BilledUnits,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CohereApiVersion)]
pub struct ApiVersion {
    version: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CohereBilledUnits)]
pub struct BilledUnits {
    search_units: usize,
    total_tokens: usize,
}

/// Rerank in Cohere's shape
#[utoipa::path(
    post,
    path = "/v2/rerank",
    tag = "dialects",
    request_body = RerankRequest,
    responses((status = OK, body = RerankResponse), (status = "default", description = "`{\"message\"}`; 429 overloaded"))
)]
pub async fn v2(asker: Asker, LooseJson(request): LooseJson<RerankRequest>) -> Result<Response, ApiError> {
    rerank(&asker, request, false).await
}

/// `/rerank` of these dialects; `returned` says what happens to documents where the request does not.
pub async fn rerank(asker: &Asker, request: RerankRequest, returned: bool) -> Result<Response, ApiError> {
    let (max_length, truncation) = limit(request.truncate_prompt_tokens, request.truncation_side)?;
    let documents = request.documents.texts();
    let question = Question {
        model: request.model,
        max_length,
        truncation,
        activation: request.use_activation,
        ..question(asker, request.query, "documents", &documents)?
    };
    let answer = asker.answer("documents", question).await?;
    let returned = request.return_documents.unwrap_or(returned);
    let ranked = |index: usize| Ranked {
        index,
        relevance_score: answer.scores[index].score,
        document: returned.then(|| Returned { text: documents[index].clone(), multi_modal: None }),
        reward: answer.scores[index].reward,
    };
    let results = best(&answer, request.top_n).into_iter().map(ranked).collect();
    Ok(answer.reply(RerankResponse {
        id: id("rerank"),
        object: "rerank",
        model: answer.model.clone(),
        results,
        usage: RerankUsage { prompt_tokens: answer.tokens, total_tokens: answer.tokens },
        meta: Meta {
            api_version: ApiVersion { version: "2" },
            billed_units: BilledUnits { search_units: 1, total_tokens: answer.tokens },
        },
    }))
}

impl Documents {
    /// Their texts.
    pub fn texts(self) -> Vec<String> {
        let text = |document| match document {
            Document::Text(text) | Document::Object { text } => text,
        };
        match self {
            Self::One(document) => vec![document],
            Self::Several(documents) => documents.into_iter().map(text).collect(),
        }
    }
}

/// A query with each of several answers, of which there are not too many.
pub fn question(asker: &Asker, query: String, field: &str, answers: &[String]) -> Result<Question, ApiError> {
    if answers.is_empty() {
        return Err(ApiError::empty(field));
    }
    asker.app.bounded(field, answers.len())?;
    let prompt: Arc<str> = query.into();
    let pair = |answer: &String| Input::Pair { prompt: Arc::clone(&prompt), response: answer.clone() };
    let place = |(at, answer)| Place::element(field, at).of(pair(answer));
    Ok(Question { inputs: answers.iter().enumerate().map(place).collect(), ..Question::default() })
}

/// The first places; all, where nothing or 0 is asked for.
pub fn best(answer: &Answer, top: Option<usize>) -> Vec<usize> {
    let mut ranked = answer.ranked();
    ranked.truncate(top.filter(|top| *top > 0).unwrap_or(usize::MAX));
    ranked
}

/// Cohere's error.
#[derive(Debug, Serialize)]
struct Refusal<'a> {
    message: &'a str,
}

/// Says an error as Cohere does: overload is 429.
pub fn refuse(error: &ApiError) -> Response {
    let status = match error.code() {
        "overloaded" => StatusCode::TOO_MANY_REQUESTS,
        _ => error.status(),
    };
    error.answer(status, Json(Refusal { message: error.message() }))
}

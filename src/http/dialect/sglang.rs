//! SGLang: `/classify` and `/encode`, `/v1/score`, `/v1/embeddings`, and, with `--compat sglang`, its `/v1/rerank`.
//!
//! One text is answered with an object, a list with a list. verl reads `data[-1].embedding[-1]` of `/v1/embeddings`.

use axum::{Json, http::StatusCode, response::Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    question::{Answer, Asker, Plain, Posterior, Question},
    rerank::{best, question},
    texts::Texts,
    vllm::{Usage, id, pairs, status},
};
use crate::{
    Error, Result,
    http::{error::ApiError, json::LooseJson},
    item::{Input, Place, Placed},
};

/// Text or token ids.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = SglangEncodeRequest)]
pub struct EncodeRequest {
    /// One or several; a pair is a prompt and an answer. Stands alone.
    text: Option<Asked>,
    /// Token ids of one or several. Stand alone.
    input_ids: Option<Texts>,
    /// Name of the model, or of each one's; by default the first.
    lora_path: Option<Names>,
}

/// Text in SGLang's forms.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a text, a list of texts, or a list of pairs of texts")]
#[schema(as = SglangAsked)]
pub enum Asked {
    One(String),
    Several(Vec<String>),
    Pairs(Vec<(String, String)>),
}

/// One name, or one for each.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a name or a list of names")]
#[schema(as = SglangNames)]
pub enum Names {
    One(String),
    Each(Vec<Option<String>>),
}

/// One text's reward, or a list.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = SglangEncoded)]
pub enum Encoded {
    One(Embedding),
    Several(Vec<Embedding>),
}

/// The reward as a vector of one number.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SglangEmbedding)]
pub struct Embedding {
    embedding: [f64; 1],
    meta_info: MetaInfo,
    reward: Posterior,
}

/// What is told of a request.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SglangMetaInfo)]
pub struct MetaInfo {
    id: String,
    prompt_tokens: usize,
}

/// Rewards in SGLang's shape
#[utoipa::path(
    post,
    path = "/encode",
    tag = "dialects",
    request_body = EncodeRequest,
    responses((status = OK, body = Encoded), (status = "default", description = "`{\"error\": {\"message\"}}`"))
)]
pub async fn encode(
    asker: Asker,
    LooseJson(request): LooseJson<EncodeRequest>,
) -> Result<Response, ApiError> {
    classify(&asker, request).await
}

/// `/classify` of this dialect.
pub async fn classify(asker: &Asker, request: EncodeRequest) -> Result<Response, ApiError> {
    let model = request.lora_path.map_or(Ok(None), Names::one)?;
    let (inputs, single) = match (request.text, request.input_ids) {
        (Some(text), None) => text.inputs()?,
        (None, Some(ids)) => ids.inputs("input_ids", true)?,
        _ => return Err(Error::field("text", "one of `text` and `input_ids` is needed").into()),
    };
    let answer = asker.answer("text", Question { model, inputs, ..Question::default() }).await?;
    let mut all = answer.each(|_, plain| Embedding {
        embedding: [plain.score],
        meta_info: MetaInfo::of(plain),
        reward: plain.reward,
    });
    let encoded = match all.pop_if(|_| single) {
        Some(one) => Encoded::One(one),
        None => Encoded::Several(all),
    };
    Ok(answer.reply(encoded))
}

impl MetaInfo {
    fn of(plain: &Plain) -> Self {
        Self { id: id("encode"), prompt_tokens: plain.tokens }
    }
}

impl Names {
    /// The one name that is given; a request has one model.
    fn one(self) -> Result<Option<String>> {
        let mut names = match self {
            Self::One(name) => return Ok(Some(name)),
            Self::Each(names) => names,
        };
        names.dedup();
        match names.len() {
            0 | 1 => Ok(names.pop().flatten()),
            _ => Err(Error::field(
                "lora_path",
                "several models in one request (hint: send one request for each)",
            )),
        }
    }
}

impl Asked {
    /// The inputs, and whether there was only one, not in a list.
    fn inputs(self) -> Result<(Vec<Placed>, bool), ApiError> {
        let pair = |(at, (prompt, response)): (usize, (String, String))| {
            Place::element("text", at).of(Input::Pair { prompt: prompt.into(), response })
        };
        match self {
            Self::One(text) => Texts::Text(text).inputs("text", false),
            Self::Several(texts) => Texts::Several(texts).inputs("text", false),
            Self::Pairs(pairs) => Ok((pairs.into_iter().enumerate().map(pair).collect(), false)),
        }
    }
}

/// A query and what may follow it.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = SglangScoreRequest)]
pub struct ScoreRequest {
    model: Option<String>,
    query: Texts,
    items: Texts,
    /// Whether scores pass through the logistic function, which is what the softmax of one number against none comes to.
    apply_softmax: Option<bool>,
    /// Only that the query comes first.
    #[serde(default)]
    item_first: bool,
}

/// A list of one number for each item.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SglangScoring)]
pub struct Scoring {
    /// Always `scoring`.
    object: &'static str,
    scores: Vec<[f64; 1]>,
    model: String,
    usage: Usage,
    rewards: Vec<Posterior>,
}

/// `/v1/score` of this dialect.
pub async fn score(asker: &Asker, request: ScoreRequest) -> Result<Response, ApiError> {
    if request.item_first {
        return Err(Error::field("item_first", "a prompt comes before its answer").into());
    }
    let inputs = pairs(&asker.app, ("query", request.query), ("items", request.items))?;
    let question =
        Question { model: request.model, inputs, activation: request.apply_softmax, ..Question::default() };
    let answer = asker.answer("items", question).await?;
    Ok(answer.reply(Scoring {
        object: "scoring",
        scores: answer.each(|_, plain| [plain.score]),
        model: answer.model.clone(),
        usage: Usage::of(answer.tokens),
        rewards: answer.each(|_, plain| plain.reward),
    }))
}

/// Text or token ids, in OpenAI's manner.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = SglangEmbeddingsRequest)]
pub struct EmbeddingsRequest {
    model: Option<String>,
    input: Texts,
}

/// Rewards as embeddings of one number.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SglangEmbeddings)]
pub struct Embeddings {
    /// Always `list`.
    object: &'static str,
    data: Vec<EmbeddingEntry>,
    model: String,
    usage: Usage,
}

/// One of them.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SglangEmbeddingEntry)]
pub struct EmbeddingEntry {
    /// Always `embedding`.
    object: &'static str,
    index: usize,
    embedding: [f64; 1],
    reward: Posterior,
}

/// Rewards in the shape of embeddings
#[utoipa::path(
    post,
    path = "/v1/embeddings",
    tag = "dialects",
    request_body = EmbeddingsRequest,
    responses((status = OK, body = Embeddings), (status = "default", description = "`{\"object\": \"error\", \"message\", \"type\", \"param\", \"code\"}`"))
)]
pub async fn embeddings(
    asker: Asker,
    LooseJson(request): LooseJson<EmbeddingsRequest>,
) -> Result<Response, ApiError> {
    let (inputs, _) = request.input.inputs("input", false)?;
    let answer =
        asker.answer("input", Question { model: request.model, inputs, ..Question::default() }).await?;
    let entry = |index, plain: &Plain| EmbeddingEntry {
        object: "embedding",
        index,
        embedding: [plain.score],
        reward: plain.reward,
    };
    let (data, usage) = (answer.each(entry), Usage::of(answer.tokens));
    Ok(answer.reply(Embeddings { object: "list", data, model: answer.model.clone(), usage }))
}

/// A query and documents.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = SglangRerankRequest)]
pub struct RerankRequest {
    query: String,
    documents: Vec<String>,
    /// How many are returned; all by default.
    top_n: Option<usize>,
    return_documents: Option<bool>,
}

/// A document in its place; the answer is a list of them, by falling score.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SglangReranked)]
pub struct Reranked {
    score: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<String>,
    index: usize,
    meta_info: MetaInfo,
    reward: Posterior,
}

/// `/v1/rerank` of this dialect.
pub async fn rerank(asker: &Asker, request: RerankRequest) -> Result<Response, ApiError> {
    let RerankRequest { query, documents, top_n, return_documents } = request;
    if top_n == Some(0) {
        return Err(Error::field("top_n", "at least 1").into());
    }
    let question = question(asker, query, "documents", &documents)?;
    let answer: Answer = asker.answer("documents", question).await?;
    let returned = return_documents.unwrap_or(true);
    let ranked = |index: usize| Reranked {
        score: answer.scores[index].score,
        document: returned.then(|| documents[index].clone()),
        index,
        meta_info: MetaInfo::of(&answer.scores[index]),
        reward: answer.scores[index].reward,
    };
    Ok(answer.reply(best(&answer, top_n).into_iter().map(ranked).collect::<Vec<_>>()))
}

#[derive(Debug, Serialize)]
struct Refusal<'a> {
    error: Message<'a>,
}

#[derive(Debug, Serialize)]
struct Message<'a> {
    message: &'a str,
}

/// Says an error as SGLang's own routes do: whatever is wrong with what the client sent is 400.
pub fn refuse(error: &ApiError) -> Response {
    let status = match error.status() {
        status @ (StatusCode::TOO_MANY_REQUESTS | StatusCode::METHOD_NOT_ALLOWED) => status,
        status if status.is_client_error() => StatusCode::BAD_REQUEST,
        status => status,
    };
    error.answer(status, Json(Refusal { error: Message { message: error.message() } }))
}

#[derive(Debug, Serialize)]
struct FlatRefusal<'a> {
    object: &'static str,
    message: &'a str,
    r#type: &'static str,
    param: Option<&'a str>,
    code: u16,
}

/// Says an error as its routes in OpenAI's manner do.
pub fn refuse_openai(error: &ApiError) -> Response {
    let (status, kind) = status(error);
    let (message, param) = (error.message(), error.field());
    let flat = FlatRefusal { object: "error", message, r#type: kind, param, code: status.as_u16() };
    error.answer(status, Json(flat))
}

//! Paths that several dialects use: the fields of the body tell whose it is.

use axum::{
    Extension, Json,
    response::{IntoResponse, Response},
};
use clap::ValueEnum;
use serde::{Deserialize, de::DeserializeOwned};
use utoipa::ToSchema;

use super::{
    Dialect, Spoken, infinity,
    question::{Asker, Question, Rewards},
    rerank, sglang, tei, vllm,
};
use crate::{
    http::{
        error::ApiError,
        json::RawJson,
        layers::Cost,
        pool::{Given, PoolRequest},
        reward::TokenUsage,
        rewards::RewardsResponse,
    },
    item::{Answer, Message, Prompt},
};

/// Whose shape a path has that the body does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Compat {
    /// `/v1/rerank` answers as SGLang does, with a list.
    Sglang,
}

/// What `/classify` takes.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
#[schema(as = SharedClassify)]
pub enum Classify {
    Sglang(sglang::EncodeRequest),
    Tei(tei::PredictRequest),
    Infinity(infinity::ClassifyRequest),
    Vllm(vllm::PoolingRequest),
}

/// What `/score` takes.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
#[schema(as = SharedScore)]
pub enum Score {
    Sglang(sglang::ScoreRequest),
    Vllm(vllm::ScoreRequest),
    Native(NativeScore),
}

/// What `/rerank` takes.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
#[schema(as = SharedRerank)]
pub enum Rerank {
    Tei(tei::RerankRequest),
    Infinity(infinity::RerankRequest),
    Sglang(sglang::RerankRequest),
    Vllm(rerank::RerankRequest),
}

/// What `/tokenize` takes.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
#[schema(as = SharedTokenize)]
pub enum Tokenize {
    Tei(tei::server::TokenizeRequest),
    Vllm(vllm::server::TokenizeRequest),
}

/// A prompt and its answer, or several, in this server's own words.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = SharedNativeScore)]
pub struct NativeScore {
    model: Option<String>,
    prompt: Option<Prompt>,
    messages: Option<Vec<Message>>,
    response: Option<Answer>,
    #[serde(default)]
    responses: Vec<Answer>,
}

/// What `/classify` answers.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "documentation")]
#[schema(as = SharedClassification)]
pub enum Classification {
    Sglang(sglang::Encoded),
    Tei(tei::Predictions),
    Infinity(infinity::ClassifyResponse),
    Vllm(vllm::List<vllm::Classified>),
}

/// What `/score` answers.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "documentation")]
#[schema(as = SharedScores)]
pub enum Scores {
    Sglang(sglang::Scoring),
    Vllm(vllm::List<vllm::ScoreEntry>),
    Native(RewardsResponse),
}

/// What `/rerank` answers.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "documentation")]
#[schema(as = SharedReranking)]
pub enum Reranking {
    Tei(Vec<tei::Ranked>),
    Infinity(infinity::RerankResponse),
    Sglang(Vec<sglang::Reranked>),
    Vllm(rerank::RerankResponse),
}

/// What `/tokenize` answers.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "documentation")]
#[schema(as = SharedTokens)]
pub enum Tokens {
    Tei(Vec<Vec<tei::server::SimpleToken>>),
    Vllm(vllm::server::Tokenized),
}

/// Rewards, by the fields of the body
///
/// `text` or `input_ids`: SGLang. `inputs`: Text Embeddings Inference. `input` with `raw_scores`: Infinity. `input` or `messages`: vLLM.
#[utoipa::path(
    post,
    path = "/classify",
    tag = "dialects",
    request_body = Classify,
    responses((status = OK, body = Classification), (status = "default", description = "the dialect's own error"))
)]
pub async fn classify(
    asker: Asker,
    Extension(spoken): Extension<Spoken>,
    body: RawJson,
) -> Result<Response, ApiError> {
    match Classify::read(&body, &spoken)? {
        Classify::Sglang(request) => sglang::classify(&asker, request).await,
        Classify::Tei(request) => tei::predicted(&asker, request).await,
        Classify::Infinity(request) => infinity::classify(&asker, request).await,
        Classify::Vllm(request) => vllm::classify(&asker, request).await,
    }
}

/// Rewards in SGLang's shape
#[utoipa::path(
    put,
    path = "/classify",
    tag = "dialects",
    request_body = sglang::EncodeRequest,
    responses((status = OK, body = sglang::Encoded), (status = "default", description = "`{\"error\": {\"message\"}}`"))
)]
pub async fn put_classify(
    asker: Asker,
    Extension(spoken): Extension<Spoken>,
    body: RawJson,
) -> Result<Response, ApiError> {
    sglang::classify(&asker, body.spoken(&spoken, Dialect::Sglang)?).await
}

/// Rewards of answers, by the fields of the body
///
/// `query` and `items`: SGLang. `queries`, `data_1` or `text_1`: vLLM. `prompt` or `messages`: as `/v1/rewards`.
#[utoipa::path(
    post,
    path = "/score",
    tag = "dialects",
    request_body = Score,
    responses((status = OK, body = Scores), (status = "default", description = "the dialect's own error"))
)]
pub async fn score(
    asker: Asker,
    Extension(spoken): Extension<Spoken>,
    body: RawJson,
) -> Result<Response, ApiError> {
    scored(&asker, &spoken, &body).await
}

/// The same as `/score`
#[utoipa::path(
    post,
    path = "/v1/score",
    tag = "dialects",
    request_body = Score,
    responses((status = OK, body = Scores), (status = "default", description = "the dialect's own error"))
)]
pub async fn v1_score(
    asker: Asker,
    Extension(spoken): Extension<Spoken>,
    body: RawJson,
) -> Result<Response, ApiError> {
    scored(&asker, &spoken, &body).await
}

async fn scored(asker: &Asker, spoken: &Spoken, body: &RawJson) -> Result<Response, ApiError> {
    match Score::read(body, spoken)? {
        Score::Sglang(request) => sglang::score(asker, request).await,
        Score::Vllm(request) => vllm::score(asker, request).await,
        Score::Native(request) => request.answer(asker).await,
    }
}

/// Answers by falling reward, by the fields of the body
///
/// `texts`: Text Embeddings Inference. `documents` with `raw_scores`: Infinity. `documents`: vLLM, and Jina.
#[utoipa::path(
    post,
    path = "/rerank",
    tag = "dialects",
    request_body = Rerank,
    responses((status = OK, body = Reranking), (status = "default", description = "the dialect's own error"))
)]
pub async fn rerank(
    asker: Asker,
    Extension(spoken): Extension<Spoken>,
    body: RawJson,
) -> Result<Response, ApiError> {
    reranked(&asker, Rerank::read(&body, &spoken, None)?).await
}

/// The same as `/rerank`; with `--compat sglang`, `documents` are SGLang's
#[utoipa::path(
    post,
    path = "/v1/rerank",
    tag = "dialects",
    request_body = Rerank,
    responses((status = OK, body = Reranking), (status = "default", description = "the dialect's own error"))
)]
pub async fn v1_rerank(
    asker: Asker,
    Extension(spoken): Extension<Spoken>,
    body: RawJson,
) -> Result<Response, ApiError> {
    let request = Rerank::read(&body, &spoken, asker.app.config().compat)?;
    reranked(&asker, request).await
}

async fn reranked(asker: &Asker, request: Rerank) -> Result<Response, ApiError> {
    match request {
        Rerank::Tei(request) => tei::rerank(asker, request).await,
        Rerank::Infinity(request) => infinity::rerank(asker, request).await,
        Rerank::Sglang(request) => sglang::rerank(asker, request).await,
        Rerank::Vllm(request) => rerank::rerank(asker, request, true).await,
    }
}

/// Tokens of a text, by the fields of the body
///
/// `inputs`: Text Embeddings Inference. `prompt` or `messages`: vLLM.
#[utoipa::path(
    post,
    path = "/tokenize",
    tag = "dialects",
    request_body = Tokenize,
    responses((status = OK, body = Tokens), (status = "default", description = "the dialect's own error"))
)]
pub async fn tokenize(
    asker: Asker,
    Extension(spoken): Extension<Spoken>,
    body: RawJson,
) -> Result<Response, ApiError> {
    match Tokenize::read(&body, &spoken)? {
        Tokenize::Tei(request) => Ok(tei::server::tokenize(&asker, request).await?.into_response()),
        Tokenize::Vllm(request) => vllm::server::tokenize(&asker, request).await,
    }
}

impl Classify {
    fn read(body: &RawJson, spoken: &Spoken) -> Result<Self, ApiError> {
        let fields = body.fields()?;
        let has = |name: &str| fields.contains(name);
        if has("text") || has("input_ids") {
            body.spoken(spoken, Dialect::Sglang).map(Self::Sglang)
        } else if has("inputs") {
            body.spoken(spoken, Dialect::Tei).map(Self::Tei)
        } else if has("input") && has("raw_scores") {
            body.spoken(spoken, Dialect::Infinity).map(Self::Infinity)
        } else if has("input") || has("messages") {
            body.spoken(spoken, Dialect::Vllm).map(Self::Vllm)
        } else {
            Err(ApiError::no_dialect(
                "/classify",
                "`input` or `messages` (vLLM), `input` and `raw_scores` (Infinity), `text` or `input_ids` (SGLang), or \
                 `inputs` (Text Embeddings Inference)",
            ))
        }
    }
}

impl Score {
    fn read(body: &RawJson, spoken: &Spoken) -> Result<Self, ApiError> {
        let fields = body.fields()?;
        let has = |name: &str| fields.contains(name);
        if has("query") {
            body.spoken(spoken, Dialect::SglangOpenAi).map(Self::Sglang)
        } else if has("queries") || has("data_1") || has("text_1") {
            body.spoken(spoken, Dialect::Vllm).map(Self::Vllm)
        } else if has("prompt") || has("messages") {
            spoken.native();
            body.loose().map(Self::Native)
        } else {
            Err(ApiError::no_dialect(
                "/score",
                "`queries` and `documents` (vLLM), `query` and `items` (SGLang), or `prompt` and `responses`",
            ))
        }
    }
}

impl Rerank {
    fn read(body: &RawJson, spoken: &Spoken, compat: Option<Compat>) -> Result<Self, ApiError> {
        let fields = body.fields()?;
        let has = |name: &str| fields.contains(name);
        if has("texts") {
            body.spoken(spoken, Dialect::Tei).map(Self::Tei)
        } else if has("documents") && compat == Some(Compat::Sglang) {
            body.spoken(spoken, Dialect::SglangOpenAi).map(Self::Sglang)
        } else if has("documents") && has("raw_scores") {
            body.spoken(spoken, Dialect::Infinity).map(Self::Infinity)
        } else if has("documents") {
            body.spoken(spoken, Dialect::Vllm).map(Self::Vllm)
        } else {
            Err(ApiError::no_dialect(
                "/rerank",
                "`query` with `documents` (Cohere, Jina, vLLM, Infinity) or `texts` (Text Embeddings Inference)",
            ))
        }
    }
}

impl Tokenize {
    fn read(body: &RawJson, spoken: &Spoken) -> Result<Self, ApiError> {
        match body.fields()?.contains("inputs") {
            true => body.spoken(spoken, Dialect::Tei).map(Self::Tei),
            false => body.spoken(spoken, Dialect::Vllm).map(Self::Vllm),
        }
    }
}

impl RawJson {
    /// Reads a body as one dialect's; what is wrong with it is said in that one.
    fn spoken<T: DeserializeOwned>(&self, spoken: &Spoken, dialect: Dialect) -> Result<T, ApiError> {
        spoken.set(dialect);
        self.loose()
    }
}

impl NativeScore {
    async fn answer(self, asker: &Asker) -> Result<Response, ApiError> {
        let Self { model, prompt, messages, response, mut responses } = self;
        responses.extend(response);
        let pool = PoolRequest { id: None, prompt, messages, responses };
        let inputs = Given::One(pool).parse(&asker.app, 1)?.inputs;
        let question = Question { model, inputs, ..Question::default() };
        let Rewards { model, rewards: data, penalty } = asker.rewards(question).await?;
        let (usage, items) = (TokenUsage::of(&data), data.len());
        let cost = Cost { items, tokens: usage.tokens };
        let reply = RewardsResponse { object: "list", model, data, penalty, usage };
        Ok((Extension(cost), Json(reply)).into_response())
    }
}

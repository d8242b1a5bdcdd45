//! vLLM's pooling routes: `/classify`, `/pooling`, `/score`.
//!
//! verl posts text to `/classify` and reads `data[-1].probs[-1]`; reward-hub posts messages to `/pooling` and reads the last number
//! of every list in `data[0].data`.

use axum::{Json, http::StatusCode, response::Response};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    question::{Answer, Asker, Plain, Posterior, Question},
    texts::{SharedText, Text, Texts},
};
use crate::{
    Error, Result,
    http::{App, error::ApiError, json::LooseJson},
    item::{Input, Message, Place, Placed, joined},
    text::Truncation,
};

mod encoding;
pub mod server;

use encoding::{EmbedDtype, Encoding, EncodingFormat, Endianness, PooledData};

/// Text, token ids or a conversation.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = VllmPoolingRequest)]
pub struct PoolingRequest {
    model: Option<String>,
    /// One or several; stands alone.
    input: Option<Texts>,
    /// A conversation; stands alone.
    messages: Option<Vec<Message>>,
    /// Whether the tokenizer's special tokens surround the text.
    add_special_tokens: Option<bool>,
    /// Whether scores pass through the logistic function; not by default.
    use_activation: Option<bool>,
    /// Tokens that an input may have; -1 is the model's own limit.
    truncate_prompt_tokens: Option<i64>,
    /// What is cut.
    truncation_side: Option<Side>,
    /// `classify` or `token_classify`; a reward model has no other.
    task: Option<String>,
    /// `float` by default; of `/pooling` alone, as the next two.
    encoding_format: Option<EncodingFormat>,
    /// `float32` by default.
    embed_dtype: Option<EmbedDtype>,
    /// `native` by default.
    endianness: Option<Endianness>,
    #[schema(ignore)]
    normalize: Option<Value>,
    #[schema(ignore)]
    chat_template: Option<Value>,
    #[schema(ignore)]
    add_generation_prompt: Option<bool>,
    #[schema(ignore)]
    continue_final_message: Option<bool>,
}

/// The side on which too long an input is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = VllmSide)]
pub enum Side {
    Left,
    Right,
}

/// What vLLM answers with: an entry for each input.
#[derive(Debug, Serialize, ToSchema)]
pub struct List<T> {
    id: String,
    /// Always `list`.
    object: &'static str,
    created: u64,
    model: String,
    data: Vec<T>,
    usage: Usage,
}

/// Tokens, of which none are generated.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = VllmUsage)]
pub struct Usage {
    prompt_tokens: usize,
    total_tokens: usize,
    completion_tokens: usize,
    prompt_tokens_details: Option<()>,
    completion_tokens_details: Option<()>,
}

/// An entry of `/classify`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = VllmClassified)]
pub struct Classified {
    index: usize,
    label: &'static str,
    /// The one score.
    probs: [f64; 1],
    num_classes: usize,
    reward: Posterior,
}

/// An entry of `/pooling`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = VllmPooled)]
pub struct Pooled {
    index: usize,
    /// Always `pooling`.
    object: &'static str,
    data: PooledData,
    reward: Posterior,
}

/// An entry of `/score`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = VllmScoreEntry)]
pub struct ScoreEntry {
    index: usize,
    /// Always `score`.
    object: &'static str,
    score: f64,
    reward: Posterior,
}

/// Classify in vLLM's and SGLang's shape
#[utoipa::path(
    post,
    path = "/v1/classify",
    tag = "dialects",
    request_body = PoolingRequest,
    responses((status = OK, body = List<Classified>), (status = "default", description = "`{\"error\": {\"message\", \"type\", \"param\", \"code\"}}`"))
)]
pub async fn v1_classify(
    asker: Asker,
    LooseJson(request): LooseJson<PoolingRequest>,
) -> Result<Response, ApiError> {
    classify(&asker, request).await
}

/// `/classify` of this dialect.
pub async fn classify(asker: &Asker, request: PoolingRequest) -> Result<Response, ApiError> {
    let answer = asker.answer("input", request.question()?).await?;
    let entry = |index, plain: &Plain| Classified {
        index,
        label: "LABEL_0",
        probs: [plain.score],
        num_classes: 1,
        reward: plain.reward,
    };
    Ok(answer.reply(List::new("classify", answer.each(entry), &answer)))
}

/// Rewards in vLLM's pooling shape
#[utoipa::path(
    post,
    path = "/pooling",
    tag = "dialects",
    request_body = PoolingRequest,
    responses((status = OK, body = List<Pooled>), (status = "default", description = "`{\"error\": {\"message\", \"type\", \"param\", \"code\"}}`"))
)]
pub async fn pooling(
    asker: Asker,
    LooseJson(request): LooseJson<PoolingRequest>,
) -> Result<Response, ApiError> {
    let encoding = request.encoding();
    let answer = asker.answer("input", request.question()?).await?;
    let entry = |index, plain: &Plain| Pooled {
        index,
        object: "pooling",
        data: encoding.write(plain.score),
        reward: plain.reward,
    };
    Ok(answer.reply(List::new("pool", answer.each(entry), &answer)))
}

impl PoolingRequest {
    fn encoding(&self) -> Encoding {
        Encoding {
            format: self.encoding_format.unwrap_or_default(),
            dtype: self.embed_dtype.unwrap_or_default(),
            endianness: self.endianness.unwrap_or_default(),
        }
    }

    fn question(self) -> Result<Question, ApiError> {
        self.only_what_can_be_done()?;
        let Self { model, input, messages, add_special_tokens, use_activation: activation, .. } = self;
        let (max_length, truncation) = limit(self.truncate_prompt_tokens, self.truncation_side)?;
        let inputs = match (input, messages) {
            (Some(input), None) => input.inputs("input", add_special_tokens == Some(false))?.0,
            (None, Some(messages)) => {
                let conversation = Input::Messages(joined("messages", messages)?);
                vec![Place::Field("messages".into()).of(conversation)]
            }
            (Some(_), Some(_)) => return Err(Error::field("messages", "cannot stand beside `input`").into()),
            (None, None) => return Err(ApiError::empty("input")),
        };
        Ok(Question { model, inputs, max_length, truncation, activation, plain: None })
    }

    fn only_what_can_be_done(&self) -> Result<()> {
        let wrong = |field: &str, message: &str| Err(Error::field(field, message));
        match self {
            Self { normalize: Some(_), .. } => wrong("normalize", "was removed (hint: use `use_activation`)"),
            Self { task: Some(task), .. } if !["classify", "token_classify"].contains(&task.as_str()) => {
                wrong("task", "a reward model has `classify` and `token_classify` only")
            }
            Self { chat_template: Some(_), .. } => wrong("chat_template", "must be the model's own"),
            Self { add_generation_prompt: Some(true), .. } => {
                wrong("add_generation_prompt", "a reward is of a conversation as it stands")
            }
            Self { continue_final_message: Some(true), .. } => {
                wrong("continue_final_message", "a reward is of a conversation as it stands")
            }
            _ => Ok(()),
        }
    }
}

/// What `truncate_prompt_tokens` and `truncation_side` come to: by default nothing is cut, and else the left.
pub fn limit(tokens: Option<i64>, side: Option<Side>) -> Result<(Option<usize>, Option<Truncation>)> {
    let truncation = match side {
        Some(Side::Right) => Truncation::Right,
        Some(Side::Left) | None => Truncation::Left,
    };
    match tokens {
        None => Ok((None, None)),
        Some(-1) => Ok((None, Some(truncation))),
        Some(tokens) => match usize::try_from(tokens) {
            Ok(tokens) if tokens > 0 => Ok((Some(tokens), Some(truncation))),
            _ => Err(Error::field("truncate_prompt_tokens", format!("neither -1 nor at least 1: {tokens}"))),
        },
    }
}

/// Queries and documents, by one of four pairs of names.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = VllmScoreRequest)]
pub struct ScoreRequest {
    model: Option<String>,
    #[serde(alias = "data_1", alias = "text_1")]
    /// One prompt, or one for each answer; also called `data_1` and `text_1`.
    queries: Texts,
    #[serde(alias = "items", alias = "data_2", alias = "text_2")]
    /// The answers; also called `items`, `data_2` and `text_2`.
    documents: Texts,
    /// Whether scores pass through the logistic function; not by default.
    use_activation: Option<bool>,
    /// Tokens that a pair may have; -1 is the model's own limit.
    truncate_prompt_tokens: Option<i64>,
    /// What is cut.
    truncation_side: Option<Side>,
}

/// `/score` of this dialect.
pub async fn score(asker: &Asker, request: ScoreRequest) -> Result<Response, ApiError> {
    let ScoreRequest { model, queries, documents, use_activation: activation, .. } = request;
    let (max_length, truncation) = limit(request.truncate_prompt_tokens, request.truncation_side)?;
    let inputs = pairs(&asker.app, ("queries", queries), ("documents", documents))?;
    let question = Question { model, inputs, max_length, truncation, activation, plain: None };
    let answer = asker.answer("documents", question).await?;
    let entry = |index, plain: &Plain| ScoreEntry {
        index,
        object: "score",
        score: plain.score,
        reward: plain.reward,
    };
    Ok(answer.reply(List::new("embd", answer.each(entry), &answer)))
}

/// One prompt with each answer, or each prompt with its own; not too many.
pub fn pairs(
    app: &App,
    (asking, prompts): (&str, Texts),
    (answering, answers): (&str, Texts),
) -> Result<Vec<Placed>, ApiError> {
    let ((prompts, _), (answers, _)) = (prompts.apart(), answers.apart());
    if prompts.is_empty() {
        return Err(ApiError::empty(asking));
    }
    if answers.is_empty() {
        return Err(ApiError::empty(answering));
    }
    if prompts.len() != 1 && prompts.len() != answers.len() {
        let message = format!("{}, neither 1 nor as many as `{answering}`: {}", prompts.len(), answers.len());
        return Err(Error::field(asking, message).into());
    }
    app.bounded(answering, answers.len())?;
    let prompts: Vec<SharedText> = prompts.into_iter().map(SharedText::from).collect();
    let pair = |(at, (answer, prompt)): (usize, (Text, &SharedText))| {
        let place = Place::element(answering, at);
        let mixed = || Error::field(place.to_string(), format!("text or token ids, but as in `{asking}`"));
        Ok(prompt.answered(answer).map(|input| place.clone().of(input)).ok_or_else(mixed)?)
    };
    answers.into_iter().zip(prompts.iter().cycle()).enumerate().map(pair).collect()
}

impl<T> List<T> {
    fn new(kind: &str, data: Vec<T>, answer: &Answer) -> Self {
        Self {
            id: id(kind),
            object: "list",
            created: now(),
            model: answer.model.clone(),
            data,
            usage: Usage::of(answer.tokens),
        }
    }
}

impl Usage {
    pub fn of(tokens: usize) -> Self {
        Self {
            prompt_tokens: tokens,
            total_tokens: tokens,
            completion_tokens: 0,
            prompt_tokens_details: None,
            completion_tokens_details: None,
        }
    }
}

/// A name for an answer.
pub fn id(kind: &str) -> String {
    format!("{kind}-{}", Uuid::new_v4().simple())
}

/// Seconds since 1970.
pub fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// vLLM's error.
#[derive(Debug, Serialize)]
pub struct Refusal<'a> {
    error: Wrong<'a>,
}

impl<'a> Refusal<'a> {
    /// An error under another status and the name that goes with it.
    pub fn new(error: &'a ApiError, status: StatusCode, kind: &'static str) -> Self {
        let (message, param, code) = (error.message(), error.field(), status.as_u16());
        Self { error: Wrong { message, r#type: kind, param, code } }
    }
}

#[derive(Debug, Serialize)]
struct Wrong<'a> {
    message: &'a str,
    r#type: &'static str,
    param: Option<&'a str>,
    code: u16,
}

/// Says an error as vLLM does: a field that is wrong is 400 too, and overload 503, which verl tries again.
pub fn refuse(error: &ApiError) -> Response {
    let (status, kind) = status(error);
    error.answer(status, Json(Refusal::new(error, status, kind)))
}

/// The status and the name that it has in OpenAI's manner.
pub fn status(error: &ApiError) -> (StatusCode, &'static str) {
    let status = match error.status() {
        StatusCode::UNPROCESSABLE_ENTITY => StatusCode::BAD_REQUEST,
        status => status,
    };
    (status, kind(status))
}

/// The name of a status in OpenAI's manner.
pub fn kind(status: StatusCode) -> &'static str {
    match status {
        StatusCode::NOT_FOUND => "NotFoundError",
        StatusCode::TOO_MANY_REQUESTS => "RateLimitError",
        StatusCode::SERVICE_UNAVAILABLE => "ServiceUnavailableError",
        status if status.is_server_error() => "InternalServerError",
        _ => "BadRequestError",
    }
}

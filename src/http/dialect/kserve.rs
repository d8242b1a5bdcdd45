//! The Open Inference Protocol, version 2, in JSON, and the older `:predict`.
//!
//! Inputs are columns of texts: `prompt` and `response`; `text`, templated, also called `sentences`, as NeMo-Aligner does; or rows of
//! token ids, `tokens`, each cut to its number in `sequence_lengths`. Outputs are columns of numbers. Data may be nested or flat.

use axum::{Json, extract::Path, response::Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::question::{Answer, Asker, Plain, Question};
use crate::{
    Error, Result,
    http::{error::ApiError, json::LooseJson, object::Object},
    item::{Input, Place},
};

pub mod about;
mod tensor;

use tensor::{Tensor, rows};

/// The one version that a model has.
const VERSION: &str = "1";

/// Tensors to score.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = KserveInferRequest)]
pub struct InferRequest {
    /// Returned unchanged.
    id: Option<String>,
    #[schema(value_type = Vec<Tensor>)]
    inputs: Vec<Object<Tensor>>,
    /// Which outputs are wanted; `score`, `mean`, `variance`, `std`, `contraction`, `novelty`, `truncated` as far as they are known, by default.
    #[schema(value_type = Option<Vec<Wanted>>)]
    outputs: Option<Vec<Object<Wanted>>>,
}

/// A tensor that is wanted.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = KserveWanted)]
pub struct Wanted {
    name: String,
}

/// The scores.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = KserveInferResponse)]
pub struct InferResponse {
    model_name: String,
    model_version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    outputs: Vec<Column>,
}

/// A tensor that goes out.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = KserveColumn)]
pub struct Column {
    name: &'static str,
    shape: [usize; 1],
    /// `FP64`, or `BOOL` for `truncated`.
    datatype: &'static str,
    data: Data,
}

/// Its elements.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = KserveData)]
pub enum Data {
    Numbers(Vec<f64>),
    Truths(Vec<bool>),
}

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Output {
    /// The plain score, under NeMo-Aligner's name.
    Rewards,
    Score,
    Mean,
    Variance,
    Std,
    Contraction,
    Novelty,
    Truncated,
}

/// Those that are returned where none is asked for.
const OUTPUTS: [(&str, Output); 7] = [
    ("score", Output::Score),
    ("mean", Output::Mean),
    ("variance", Output::Variance),
    ("std", Output::Std),
    ("contraction", Output::Contraction),
    ("novelty", Output::Novelty),
    ("truncated", Output::Truncated),
];

/// Rewards in KServe's protocol
#[utoipa::path(
    post,
    path = "/v2/models/{model}/infer",
    tag = "dialects",
    params(("model" = String, Path, description = "a name that `/v1/models` lists")),
    request_body = InferRequest,
    responses((status = OK, body = InferResponse), (status = "default", description = "`{\"error\"}`"))
)]
pub async fn infer(
    asker: Asker,
    Path(model): Path<String>,
    LooseJson(request): LooseJson<InferRequest>,
) -> Result<Response, ApiError> {
    inferred(&asker, model, request).await
}

/// The same of a version, of which there is one
#[utoipa::path(
    post,
    path = "/v2/models/{model}/versions/{version}/infer",
    tag = "dialects",
    params(
        ("model" = String, Path, description = "a name that `/v1/models` lists"),
        ("version" = String, Path, description = "1"),
    ),
    request_body = InferRequest,
    responses((status = OK, body = InferResponse), (status = "default", description = "`{\"error\"}`"))
)]
pub async fn infer_version(
    asker: Asker,
    Path((model, version)): Path<(String, String)>,
    LooseJson(request): LooseJson<InferRequest>,
) -> Result<Response, ApiError> {
    only_version(&version)?;
    inferred(&asker, model, request).await
}

async fn inferred(asker: &Asker, model: String, request: InferRequest) -> Result<Response, ApiError> {
    asker.app.model(Some(&model))?;
    let InferRequest { id, inputs, outputs } = request;
    let wanted = wanted(outputs)?;
    let inputs = rows(inputs)?;
    let answer =
        asker.answer("inputs", Question { model: Some(model), inputs, ..Question::default() }).await?;
    let outputs = match wanted {
        None => OUTPUTS.iter().filter_map(|&(name, output)| output.of(name, &answer)).collect(),
        Some(wanted) => {
            let unknown = |name| Error::field("outputs", format!("the model does not give `{name}`"));
            let column = |(name, output): (&'static str, Output)| {
                output.of(name, &answer).ok_or_else(|| unknown(name))
            };
            wanted.into_iter().map(column).collect::<Result<_>>()?
        }
    };
    let model_name = answer.model.clone();
    Ok(answer.reply(InferResponse { model_name, model_version: VERSION, id, outputs }))
}

fn wanted(outputs: Option<Vec<Object<Wanted>>>) -> Result<Option<Vec<(&'static str, Output)>>> {
    let known = |(at, Object(Wanted { name })): (usize, Object<Wanted>)| {
        let found = OUTPUTS.into_iter().chain([("rewards", Output::Rewards)]).find(|known| known.0 == name);
        found.ok_or_else(|| Error::field(format!("outputs[{at}].name"), format!("no such output: {name}")))
    };
    outputs.map(|outputs| outputs.into_iter().enumerate().map(known).collect()).transpose()
}

impl Output {
    /// The column, where every row has a number.
    fn of(self, name: &'static str, answer: &Answer) -> Option<Column> {
        let numbers = |of: fn(&Plain) -> Option<f64>| -> Option<Data> {
            answer.scores.iter().map(of).collect::<Option<_>>().map(Data::Numbers)
        };
        let data = match self {
            Self::Rewards => numbers(|plain| Some(plain.score)),
            Self::Score => numbers(|plain| Some(plain.reward.score)),
            Self::Mean => numbers(|plain| Some(plain.reward.mean)),
            Self::Variance => numbers(|plain| plain.reward.variance),
            Self::Std => numbers(|plain| plain.reward.std),
            Self::Contraction => numbers(|plain| plain.reward.contraction),
            Self::Novelty => numbers(|plain| plain.reward.novelty),
            Self::Truncated => Some(Data::Truths(answer.each(|_, plain| plain.reward.truncated))),
        }?;
        let datatype = if self == Self::Truncated { "BOOL" } else { "FP64" };
        Some(Column { name, shape: [answer.scores.len()], datatype, data })
    }
}

fn only_version(version: &str) -> Result<()> {
    match version {
        VERSION => Ok(()),
        other => Err(Error::UnknownModel(format!("version {other}"))),
    }
}

/// Texts, templated, in the protocol's first version.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = KservePredictRequest)]
pub struct PredictRequest {
    instances: Vec<String>,
}

/// Their plain scores.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = KservePredictResponse)]
pub struct PredictResponse {
    predictions: Vec<f64>,
}

/// Rewards in the first version of KServe's protocol: `/v1/models/NAME:predict`
#[utoipa::path(
    post,
    path = "/v1/models/{model}",
    tag = "dialects",
    params(("model" = String, Path, description = "`NAME:predict`")),
    request_body = PredictRequest,
    responses((status = OK, body = PredictResponse), (status = "default", description = "`{\"error\"}`"))
)]
pub async fn v1_predict(
    asker: Asker,
    Path(model): Path<String>,
    LooseJson(request): LooseJson<PredictRequest>,
) -> Result<Response, ApiError> {
    let Some(model) = model.strip_suffix(":predict") else { return Err(ApiError::no_route()) };
    if request.instances.is_empty() {
        return Err(ApiError::empty("instances"));
    }
    let place = |(at, text)| Place::element("instances", at).of(Input::Text(text));
    let inputs = request.instances.into_iter().enumerate().map(place).collect();
    let question = Question { model: Some(model.to_owned()), inputs, ..Question::default() };
    let answer = asker.answer("instances", question).await?;
    Ok(answer.reply(PredictResponse { predictions: answer.each(|_, plain| plain.score) }))
}

#[derive(Debug, Serialize)]
struct Refusal<'a> {
    error: &'a str,
}

/// Says an error as KServe does.
pub fn refuse(error: &ApiError) -> Response {
    error.answer(error.status(), Json(Refusal { error: error.message() }))
}

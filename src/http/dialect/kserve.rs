//! The Open Inference Protocol, version 2, in JSON, and the older `:predict`.
//!
//! Inputs are columns of texts: `prompt` and `response`; `text`, templated, also called `sentences`, as NeMo-Aligner does; or rows of
//! token ids, `tokens`, each cut to its number in `sequence_lengths`. Outputs are columns of numbers. Data may be nested or flat.

use axum::{
    Json,
    extract::{Path, State},
    response::Response,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::question::{Answer, Asker, Plain, Question};
use crate::{
    Error, Result,
    http::{App, error::ApiError, json::LooseJson, object::Object},
    item::{Input, Place, Placed},
};

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
    /// Which outputs are wanted; `score`, `mean`, `variance`, `std`, `novelty`, `truncated` as far as they are known, by default.
    #[schema(value_type = Option<Vec<Wanted>>)]
    outputs: Option<Vec<Object<Wanted>>>,
}

/// A tensor that comes in.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = KserveTensor)]
pub struct Tensor {
    name: String,
    shape: Vec<usize>,
    datatype: String,
    /// Flat or nested.
    #[schema(value_type = Vec<Object>)]
    data: Value,
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
    Novelty,
    Truncated,
}

/// Those that are returned where none is asked for.
const OUTPUTS: [(&str, Output); 6] = [
    ("score", Output::Score),
    ("mean", Output::Mean),
    ("variance", Output::Variance),
    ("std", Output::Std),
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
    let InferRequest { id, inputs, outputs } = request;
    let wanted = wanted(outputs)?;
    let inputs = columns(inputs)?;
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
            Self::Novelty => numbers(|plain| plain.reward.novelty),
            Self::Truncated => Some(Data::Truths(answer.each(|_, plain| plain.reward.truncated))),
        }?;
        let datatype = if self == Self::Truncated { "BOOL" } else { "FP64" };
        Some(Column { name, shape: [answer.scores.len()], datatype, data })
    }
}

/// The rows that the columns make.
fn columns(tensors: Vec<Object<Tensor>>) -> Result<Vec<Placed>> {
    let tensors: Vec<(usize, Tensor)> =
        tensors.into_iter().map(|Object(tensor)| tensor).enumerate().collect();
    let find = |names: &[&str]| tensors.iter().find(|(_, tensor)| names.contains(&tensor.name.as_str()));
    let rows: Vec<Input> =
        match (find(&["prompt"]), find(&["response"]), find(&["text", "sentences"]), find(&["tokens"])) {
            (Some(prompts), Some(responses), None, None) => {
                let (prompts, responses) = (texts(prompts)?, texts(responses)?);
                if prompts.len() != responses.len() {
                    let message = format!("{} prompts and {} responses", prompts.len(), responses.len());
                    return Err(Error::field("inputs", message));
                }
                let pair = |(prompt, response)| Input::Pair { prompt, response };
                prompts.into_iter().zip(responses).map(pair).collect()
            }
            (None, None, Some(text), None) => texts(text)?.into_iter().map(Input::Text).collect(),
            (None, None, None, Some(tokens)) => token_rows(tokens, find(&["sequence_lengths"]))?,
            _ => {
                let message = "expected `prompt` and `response`, or one of `text`, `sentences` and `tokens`";
                return Err(Error::field("inputs", message));
            }
        };
    match rows.len() {
        0 => Err(Error::field("inputs", "no rows")),
        _ => Ok(rows
            .into_iter()
            .enumerate()
            .map(|(at, row)| Place::element("inputs.data", at).of(row))
            .collect()),
    }
}

/// The elements of a tensor in their order, as many as its shape says.
fn elements((at, tensor): &(usize, Tensor)) -> Result<Vec<&Value>> {
    fn flatten<'a>(value: &'a Value, into: &mut Vec<&'a Value>) {
        match value {
            Value::Array(list) => list.iter().for_each(|value| flatten(value, into)),
            value => into.push(value),
        }
    }
    let mut elements = Vec::new();
    flatten(&tensor.data, &mut elements);
    let wanted = tensor.shape.iter().try_fold(1usize, |all, size| all.checked_mul(*size));
    match wanted == Some(elements.len()) {
        true => Ok(elements),
        false => {
            let message = format!("{} elements, not those of the shape {:?}", elements.len(), tensor.shape);
            Err(Error::field(format!("inputs[{at}].data"), message))
        }
    }
}

fn of_type((at, tensor): &(usize, Tensor), types: &[&str]) -> Result<()> {
    match types.contains(&tensor.datatype.as_str()) {
        true => Ok(()),
        false => Err(Error::field(format!("inputs[{at}].datatype"), format!("not one of {types:?}"))),
    }
}

fn texts(tensor: &(usize, Tensor)) -> Result<Vec<String>> {
    of_type(tensor, &["BYTES"])?;
    let wrong = || Error::field(format!("inputs[{}].data", tensor.0), "not texts");
    elements(tensor)?.into_iter().map(|value| value.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
}

fn numbers(tensor: &(usize, Tensor)) -> Result<Vec<u32>> {
    of_type(tensor, &["INT64", "INT32", "UINT32"])?;
    let wrong = || Error::field(format!("inputs[{}].data", tensor.0), "not token ids");
    let number = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(wrong);
    elements(tensor)?.into_iter().map(number).collect()
}

/// Rows of ids, each as long as its number says.
fn token_rows(tokens: &(usize, Tensor), lengths: Option<&(usize, Tensor)>) -> Result<Vec<Input>> {
    let ids = numbers(tokens)?;
    let width = tokens.1.shape.last().copied().unwrap_or(0).max(1);
    let rows = ids.chunks(width);
    let lengths = match lengths {
        None => vec![width; rows.len()],
        Some(lengths) => numbers(lengths)?.into_iter().map(|length| length as usize).collect(),
    };
    if lengths.len() != rows.len() || lengths.iter().any(|length| *length == 0 || *length > width) {
        return Err(Error::field("inputs", "`sequence_lengths` does not fit `tokens`"));
    }
    Ok(rows.zip(lengths).map(|(row, length)| Input::Ids(row[..length].to_vec())).collect())
}

/// What the server is.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = KserveServerMetadata)]
pub struct ServerMetadata {
    name: &'static str,
    version: &'static str,
    extensions: [&'static str; 0],
}

/// What is the server?
#[utoipa::path(get, path = "/v2", tag = "dialects", responses((status = OK, body = ServerMetadata)))]
pub async fn server() -> Json<ServerMetadata> {
    Json(ServerMetadata { name: "rewarden", version: env!("CARGO_PKG_VERSION"), extensions: [] })
}

/// How the server is.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = KserveServerHealth)]
pub struct ServerHealth {
    live: bool,
    ready: bool,
}

/// Is the process alive?
#[utoipa::path(get, path = "/v2/health/live", tag = "dialects", responses((status = OK, body = ServerHealth)))]
pub async fn live(State(app): State<App>) -> Json<ServerHealth> {
    Json(ServerHealth { live: true, ready: app.engine().ready().is_ok() })
}

/// Should requests be sent here?
#[utoipa::path(
    get,
    path = "/v2/health/ready",
    tag = "dialects",
    responses((status = OK, body = ServerHealth), (status = "default", description = "`{\"error\"}`"))
)]
pub async fn ready(State(app): State<App>) -> Result<Json<ServerHealth>, ApiError> {
    app.engine().ready()?;
    Ok(Json(ServerHealth { live: true, ready: true }))
}

/// What a model takes and gives.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = KserveModelMetadata)]
pub struct ModelMetadata {
    name: String,
    versions: [&'static str; 1],
    platform: &'static str,
    inputs: Vec<Described>,
    outputs: Vec<Described>,
}

/// A tensor in words.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = KserveDescribed)]
pub struct Described {
    name: &'static str,
    datatype: &'static str,
    shape: [i64; 1],
}

/// What does a model take and give?
#[utoipa::path(
    get,
    path = "/v2/models/{model}",
    tag = "dialects",
    params(("model" = String, Path, description = "a name that `/v1/models` lists")),
    responses((status = OK, body = ModelMetadata), (status = "default", description = "`{\"error\"}`"))
)]
pub async fn model(
    State(app): State<App>,
    Path(model): Path<String>,
) -> Result<Json<ModelMetadata>, ApiError> {
    described(&app, &model)
}

/// The same of a version, of which there is one
#[utoipa::path(
    get,
    path = "/v2/models/{model}/versions/{version}",
    tag = "dialects",
    params(
        ("model" = String, Path, description = "a name that `/v1/models` lists"),
        ("version" = String, Path, description = "1"),
    ),
    responses((status = OK, body = ModelMetadata), (status = "default", description = "`{\"error\"}`"))
)]
pub async fn model_version(
    State(app): State<App>,
    Path((model, version)): Path<(String, String)>,
) -> Result<Json<ModelMetadata>, ApiError> {
    only_version(&version)?;
    described(&app, &model)
}

fn described(app: &App, model: &str) -> Result<Json<ModelMetadata>, ApiError> {
    let (_, served) = app.engine().registry().find(Some(model))?;
    let text = |name| Described { name, datatype: "BYTES", shape: [-1] };
    let output = |(name, output): &(&'static str, Output)| {
        let datatype = if *output == Output::Truncated { "BOOL" } else { "FP64" };
        Described { name, datatype, shape: [-1] }
    };
    Ok(Json(ModelMetadata {
        name: served.name.clone(),
        versions: [VERSION],
        platform: "candle_safetensors",
        inputs: vec![text("prompt"), text("response")],
        outputs: OUTPUTS.iter().map(output).collect(),
    }))
}

/// Whether a model is ready.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = KserveModelReady)]
pub struct ModelReady {
    name: String,
    ready: bool,
}

/// Is a model ready?
#[utoipa::path(
    get,
    path = "/v2/models/{model}/ready",
    tag = "dialects",
    params(("model" = String, Path, description = "a name that `/v1/models` lists")),
    responses((status = OK, body = ModelReady), (status = "default", description = "`{\"error\"}`"))
)]
pub async fn model_ready(
    State(app): State<App>,
    Path(model): Path<String>,
) -> Result<Json<ModelReady>, ApiError> {
    is_ready(&app, &model)
}

/// The same of a version, of which there is one
#[utoipa::path(
    get,
    path = "/v2/models/{model}/versions/{version}/ready",
    tag = "dialects",
    params(
        ("model" = String, Path, description = "a name that `/v1/models` lists"),
        ("version" = String, Path, description = "1"),
    ),
    responses((status = OK, body = ModelReady), (status = "default", description = "`{\"error\"}`"))
)]
pub async fn model_version_ready(
    State(app): State<App>,
    Path((model, version)): Path<(String, String)>,
) -> Result<Json<ModelReady>, ApiError> {
    only_version(&version)?;
    is_ready(&app, &model)
}

fn is_ready(app: &App, model: &str) -> Result<Json<ModelReady>, ApiError> {
    let (_, served) = app.engine().registry().find(Some(model))?;
    app.engine().ready()?;
    Ok(Json(ModelReady { name: served.name.clone(), ready: true }))
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

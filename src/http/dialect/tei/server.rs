//! What is asked of a server as a whole: its tokens, there and back, and what it serves.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    Result,
    engine::tokens_of,
    http::{App, dialect::question::Asker, error::ApiError, json::LooseJson},
    item::{Input, Place, Placed},
    text::Token,
};

/// Texts to tokenise.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = TeiTokenizeRequest)]
pub struct TokenizeRequest {
    inputs: OneOrSeveral,
    /// Whether the tokenizer's special tokens surround the text; they do by default.
    add_special_tokens: Option<bool>,
}

/// One text, or several.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a text or a list of texts")]
#[schema(as = TeiOneOrSeveral)]
pub enum OneOrSeveral {
    One(String),
    Several(Vec<String>),
}

/// A token; `start` and `stop` are bytes of the text, and null where it covers nothing of it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TeiSimpleToken)]
pub struct SimpleToken {
    id: u32,
    text: String,
    special: bool,
    start: Option<usize>,
    stop: Option<usize>,
}

/// `/tokenize` of this dialect.
pub async fn tokenize(
    asker: &Asker,
    request: TokenizeRequest,
) -> Result<Json<Vec<Vec<SimpleToken>>>, ApiError> {
    let served = asker.app.model(None)?;
    let surrounded = request.add_special_tokens.unwrap_or(true);
    let texts = match request.inputs {
        OneOrSeveral::One(text) => vec![text],
        OneOrSeveral::Several(texts) => texts,
    };
    asker.app.bounded("inputs", texts.len())?;
    let placed = |(at, text): (usize, String)| {
        let input = if surrounded { Input::Plain(text) } else { Input::Text(text) };
        Place::element("inputs", at).of(input)
    };
    let inputs = texts.into_iter().enumerate().map(placed).collect();
    let encoder = served.encoder.clone();
    let tokens = move |Placed { input, place }: Placed| {
        let tokens = encoder.tokens(&input).map_err(|error| place.blame(error))?;
        Ok(tokens.into_iter().map(SimpleToken::new).collect())
    };
    Ok(Json(asker.aside(inputs, |placed| tokens_of(&placed.input), tokens).await?))
}

impl SimpleToken {
    fn new(Token { id, text, special, bytes }: Token) -> Self {
        let place = (!special).then_some(bytes);
        Self { id, text, special, start: place.as_ref().map(|at| at.start), stop: place.map(|at| at.end) }
    }
}

/// Token ids.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = TeiDecodeRequest)]
pub struct DecodeRequest {
    ids: Ids,
    /// Whether special tokens are left out; they are by default.
    skip_special_tokens: Option<bool>,
}

/// Those of one text, or of several.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected token ids or a list of token ids")]
#[schema(as = TeiIds)]
pub enum Ids {
    One(Vec<u32>),
    Several(Vec<Vec<u32>>),
}

/// Text of token ids
#[utoipa::path(
    post,
    path = "/decode",
    tag = "dialects",
    request_body = DecodeRequest,
    responses((status = OK, body = Vec<String>), (status = "default", description = "`{\"error\", \"error_type\"}`"))
)]
pub async fn decode(
    asker: Asker,
    LooseJson(request): LooseJson<DecodeRequest>,
) -> Result<Json<Vec<String>>, ApiError> {
    let served = asker.app.model(None)?;
    let skip = request.skip_special_tokens.unwrap_or(true);
    let lists = match request.ids {
        Ids::One(ids) => vec![ids],
        Ids::Several(lists) => lists,
    };
    asker.app.bounded("ids", lists.len())?;
    let encoder = served.encoder.clone();
    let text = move |ids: Vec<u32>| encoder.decode(&ids, skip);
    Ok(Json(asker.aside(lists, Vec::len, text).await?))
}

/// What is served.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TeiInfo)]
pub struct Info {
    model_id: String,
    model_sha: Option<String>,
    model_dtype: &'static str,
    served_model_name: String,
    model_type: ModelType,
    max_concurrent_requests: usize,
    max_input_length: usize,
    max_batch_tokens: usize,
    max_batch_requests: Option<usize>,
    max_client_batch_size: usize,
    auto_truncate: bool,
    tokenization_workers: usize,
    version: &'static str,
    sha: Option<&'static str>,
    docker_label: Option<&'static str>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TeiModelType)]
pub struct ModelType {
    classifier: Labels,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TeiLabels)]
pub struct Labels {
    #[schema(value_type = Object)]
    id2label: serde_json::Value,
    #[schema(value_type = Object)]
    label2id: serde_json::Value,
}

/// What is served, in Text Embeddings Inference's words
#[utoipa::path(get, path = "/info", tag = "dialects", responses((status = OK, body = Info)))]
pub async fn info(State(app): State<App>) -> Result<Json<Info>, ApiError> {
    let served = app.model(None)?;
    let (config, engine) = (app.config(), app.engine().config());
    Ok(Json(Info {
        model_id: served.parent.clone().unwrap_or_else(|| served.name.clone()),
        model_sha: None,
        model_dtype: "float32",
        served_model_name: served.name.clone(),
        model_type: ModelType {
            classifier: Labels {
                id2label: serde_json::json!({"0": "LABEL_0"}),
                label2id: serde_json::json!({"LABEL_0": 0}),
            },
        },
        max_concurrent_requests: config.connections,
        max_input_length: served.max_length,
        max_batch_tokens: engine.batch_tokens,
        max_batch_requests: None,
        max_client_batch_size: config.max_items,
        auto_truncate: false,
        tokenization_workers: std::thread::available_parallelism().map_or(1, usize::from),
        version: env!("CARGO_PKG_VERSION"),
        sha: None,
        docker_label: None,
    }))
}

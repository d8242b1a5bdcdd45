//! What is asked of a server as a whole: its tokens, its version, what waits.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    Error, Result,
    engine::{queue::Load, tokens_of},
    http::{App, dialect::question::Asker, error::ApiError},
    item::{Input, Message, Place, Placed, joined},
};

/// Text or a conversation to tokenise.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = VllmTokenizeRequest)]
pub struct TokenizeRequest {
    model: Option<String>,
    prompt: Option<String>,
    messages: Option<Vec<Message>>,
    /// Whether the tokenizer's special tokens surround the text; they do by default.
    add_special_tokens: Option<bool>,
    /// Whether the tokens' texts are returned.
    #[serde(default)]
    return_token_strs: bool,
}

/// Its tokens.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = VllmTokenized)]
pub struct Tokenized {
    count: usize,
    max_model_len: usize,
    tokens: Vec<u32>,
    token_strs: Option<Vec<String>>,
}

/// `/tokenize` of this dialect.
pub async fn tokenize(asker: &Asker, request: TokenizeRequest) -> Result<Response, ApiError> {
    let served = asker.app.model(request.model.as_deref())?;
    let (field, input) = match (request.prompt, request.messages) {
        (Some(prompt), None) if request.add_special_tokens == Some(false) => ("prompt", Input::Text(prompt)),
        (Some(prompt), None) => ("prompt", Input::Plain(prompt)),
        (None, Some(messages)) => ("messages", Input::Messages(joined("messages", messages)?)),
        _ => return Err(Error::field("prompt", "one of `prompt` and `messages` is needed").into()),
    };
    let (encoder, max_model_len) = (served.encoder.clone(), served.max_length);
    let placed = vec![Place::Field(field.into()).of(input)];
    let tokens =
        move |Placed { input, place }: Placed| encoder.tokens(&input).map_err(|error| place.blame(error));
    let tokens = asker.aside(placed, |placed| tokens_of(&placed.input), tokens).await?.concat();
    let strings = || tokens.iter().map(|token| token.text.clone()).collect();
    let token_strs = request.return_token_strs.then(strings);
    let tokens: Vec<u32> = tokens.iter().map(|token| token.id).collect();
    Ok(Json(Tokenized { count: tokens.len(), max_model_len, tokens, token_strs }).into_response())
}

/// The server's version.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = VllmVersion)]
pub struct Version {
    version: &'static str,
}

/// Which version is it?
#[utoipa::path(get, path = "/version", tag = "dialects", responses((status = OK, body = Version)))]
pub async fn version() -> Json<Version> {
    Json(Version { version: env!("CARGO_PKG_VERSION") })
}

/// What waits.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = VllmServerLoad)]
pub struct ServerLoad {
    server_load: usize,
}

/// How many items wait?
#[utoipa::path(get, path = "/load", tag = "dialects", responses((status = OK, body = ServerLoad)))]
pub async fn load(State(app): State<App>) -> Json<ServerLoad> {
    let Load { items, .. } = app.engine().load();
    Json(ServerLoad { server_load: items })
}

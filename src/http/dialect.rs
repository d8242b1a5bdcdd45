//! Other servers' interfaces, so that clients written for them need another address and nothing else.
//!
//! | module | whose |
//! |---|---|
//! | `openrlhf` | OpenRLHF's remote reward model |
//! | `vllm` | vLLM's pooling routes; verl and reward-hub call them |
//! | `sglang` | SGLang's reward-model routes |
//! | `tei` | Text Embeddings Inference |
//! | `rerank` | Cohere's and Jina's rerankers, in vLLM's shape |
//! | `infinity` | Infinity |
//! | `kserve` | the Open Inference Protocol |
//! | `lightllm` | LightLLM's score of a conversation |
//! | `llama_factory`, `slime` | two trainers' reward calls |
//! | `lora` | adapters that come and go, as with vLLM and SGLang |
//! | `shared` | paths that several of them use |
//!
//! A handler turns its request into a `Question`, whose answer has a *plain* score for each input, the one number that these
//! interfaces have room for (`--plain-score` says which), and the posterior beside it, as a field `reward` that their clients do not
//! read. Fields that are not known are let pass, as those servers do.
//!
//! An error is a native one until it leaves the service; `envelope` then says it as the server would that was spoken to.

use axum::{
    Json,
    extract::Request,
    http::header::ALLOW,
    middleware::{Next, from_fn},
    response::Response,
};
use serde::Serialize;
use std::sync::{Arc, Mutex, PoisonError};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{App, answering::MODEL, error::ApiError, layers::no_method, models, timing::SERVER_TIMING};

mod health;
mod infinity;
mod kserve;
mod lightllm;
mod llama_factory;
mod lora;
mod openrlhf;
mod question;
mod rerank;
mod sglang;
mod shared;
mod slime;
mod tei;
mod texts;
mod vllm;

pub use question::PlainScore;
pub use shared::Compat;
pub use tei::timing::HEADERS as TEI_TIMES;

/// Whose interface a request is written for, where it is not this server's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    OpenRlhf,
    Vllm,
    Sglang,
    /// SGLang's routes in OpenAI's manner.
    SglangOpenAi,
    Tei,
    Cohere,
    Infinity,
    Kserve,
    LightLlm,
    LlamaFactory,
    Slime,
}

/// The dialect that a request turns out to be written in, for whoever answers it with an error.
#[derive(Debug, Clone, Default)]
pub struct Spoken(Arc<Mutex<Option<Dialect>>>);

/// Every route of the dialects.
pub fn table() -> OpenApiRouter<App> {
    let routes = OpenApiRouter::new;
    OpenApiRouter::new()
        .merge(spoken(Dialect::OpenRlhf, routes().routes(routes!(openrlhf::get_reward))))
        .merge(spoken(
            Dialect::Vllm,
            routes()
                .routes(routes!(vllm::v1_classify))
                .routes(routes!(vllm::pooling))
                .routes(routes!(vllm::server::version))
                .routes(routes!(vllm::server::load))
                .routes(routes!(lora::v1_load))
                .routes(routes!(lora::v1_unload)),
        ))
        .merge(spoken(
            Dialect::Sglang,
            routes()
                .routes(routes!(sglang::encode))
                .routes(routes!(lora::load))
                .routes(routes!(lora::unload)),
        ))
        .merge(spoken(Dialect::SglangOpenAi, routes().routes(routes!(sglang::embeddings))))
        .merge(spoken(
            Dialect::Tei,
            routes()
                .routes(routes!(tei::predict))
                .routes(routes!(tei::invocations))
                .routes(routes!(tei::root))
                .routes(routes!(tei::vertex))
                .routes(routes!(tei::server::decode))
                .routes(routes!(tei::server::info)),
        ))
        .merge(spoken(Dialect::Cohere, routes().routes(routes!(rerank::v2))))
        .merge(spoken(Dialect::Infinity, routes().routes(routes!(infinity::models))))
        .merge(spoken(
            Dialect::Kserve,
            routes()
                .routes(routes!(kserve::about::server))
                .routes(routes!(kserve::about::live))
                .routes(routes!(kserve::about::ready))
                .routes(routes!(kserve::about::model))
                .routes(routes!(kserve::about::model_version))
                .routes(routes!(kserve::about::model_ready))
                .routes(routes!(kserve::about::model_version_ready))
                .routes(routes!(kserve::infer))
                .routes(routes!(kserve::infer_version))
                .routes(routes!(kserve::v1_predict, models::model)),
        ))
        .merge(spoken(Dialect::LightLlm, routes().routes(routes!(lightllm::get_score))))
        .merge(spoken(Dialect::LlamaFactory, routes().routes(routes!(llama_factory::evaluation))))
        .merge(spoken(Dialect::Slime, routes().routes(routes!(slime::reward))))
        .merge(spoken(
            // Until the body has told.
            Dialect::Vllm,
            routes()
                .routes(routes!(shared::classify, shared::put_classify))
                .routes(routes!(shared::score))
                .routes(routes!(shared::v1_score))
                .routes(routes!(shared::rerank))
                .routes(routes!(shared::v1_rerank))
                .routes(routes!(shared::tokenize)),
        ))
        .routes(routes!(health::health))
        .routes(routes!(health::health_generate))
        .routes(routes!(health::ping, health::post_ping))
}

/// Routes of one dialect, which also says that a route does not take a method.
fn spoken(dialect: Dialect, routes: OpenApiRouter<App>) -> OpenApiRouter<App> {
    let (routes, document) = routes.split_for_parts();
    // Before the layer, so that it is around this too.
    let routes =
        routes.method_not_allowed_fallback(no_method).layer(from_fn(move |request: Request, next: Next| {
            if let Some(spoken) = request.extensions().get::<Spoken>() {
                spoken.set(dialect);
            }
            next.run(request)
        }));
    OpenApiRouter::with_openapi(document).merge(routes.into())
}

/// Says an error in the words of the dialect that was spoken.
pub async fn envelope(mut request: Request, next: Next) -> Response {
    let spoken = Spoken::default();
    request.extensions_mut().insert(spoken.clone());
    let mut response = next.run(request).await;
    let error = response.extensions_mut().remove::<ApiError>();
    let (Some(dialect), Some(error)) = (spoken.get(), error) else { return response };
    let mut refused = dialect.refuse(&error);
    // What the route itself has said, or the layers below.
    for name in [ALLOW, MODEL, SERVER_TIMING] {
        if let Some(value) = response.headers_mut().remove(&name) {
            refused.headers_mut().insert(name, value);
        }
    }
    refused
}

impl Spoken {
    pub fn set(&self, dialect: Dialect) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(dialect);
    }

    /// It is this server's own after all.
    pub fn native(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn get(&self) -> Option<Dialect> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dialect {
    fn refuse(self, error: &ApiError) -> Response {
        match self {
            Self::Vllm => vllm::refuse(error),
            Self::Sglang => sglang::refuse(error),
            Self::SglangOpenAi => sglang::refuse_openai(error),
            Self::Tei => tei::refuse(error),
            Self::Cohere => rerank::refuse(error),
            Self::Infinity => infinity::refuse(error),
            Self::Kserve => kserve::refuse(error),
            Self::LightLlm => lightllm::refuse(error),
            Self::OpenRlhf | Self::LlamaFactory | Self::Slime => detail(error),
        }
    }
}

/// FastAPI's error, which the servers of the trainers leave as it is.
#[derive(Debug, Serialize)]
struct Detail<'a> {
    detail: &'a str,
}

fn detail(error: &ApiError) -> Response {
    error.answer(error.status(), Json(Detail { detail: error.message() }))
}

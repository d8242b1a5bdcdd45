//! The HTTP service: routes, the layers around them, and the server.
//!
//! The router is a table, and the OpenAPI document is read off it. Handlers extract, call the engine and
//! map the result; what they share is an [`App`]. [`serve`] is the whole service as a value: a listener, an
//! app, and a future that says when to stop.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::{HeaderValue, header::CONTENT_SECURITY_POLICY},
    middleware::{from_fn, from_fn_with_state, map_response},
    response::Response,
};
use tokio::{net::TcpListener, sync::Notify};
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::{
    OpenApi as _,
    openapi::{
        OpenApi, RefOr,
        schema::{AdditionalProperties, Schema},
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};
use utoipa_swagger_ui::SwaggerUi;

use crate::{Error, Result, engine::Engine, telemetry::metrics::Metrics};

mod error;
mod json;
mod layers;
mod listener;
mod models;
mod object;
mod ops;
mod page;
mod rewards;

use listener::{Bounded, Turns};

/// What is left of a connection's time after the last request's, when the service stops.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Bounds on what clients may ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Bytes of a request's body.
    pub body_limit: usize,
    /// Items of one request.
    pub max_items: usize,
    /// How long a request may take, from the end of its headers to its answer.
    pub timeout: Duration,
    /// How long a connection may take to send a request's headers.
    pub header_timeout: Duration,
    /// Connections that are open at once; more wait for one to end.
    pub connections: usize,
    /// How long `/readyz` says no, while requests are still taken, before the service stops listening.
    pub drain: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            body_limit: 8 << 20,
            max_items: 256,
            timeout: Duration::from_secs(120),
            header_timeout: Duration::from_secs(10),
            connections: 512,
            drain: Duration::ZERO,
        }
    }
}

/// What handlers share; cheap to clone.
#[derive(Debug, Clone)]
pub struct App {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    engine: Engine,
    metrics: Arc<Metrics>,
    config: Config,
}

impl App {
    /// Puts the parts together; `metrics` are those the engine reports to.
    pub fn new(engine: Engine, metrics: Arc<Metrics>, config: Config) -> Self {
        Self { shared: Arc::new(Shared { engine, metrics, config }) }
    }

    fn engine(&self) -> &Engine {
        &self.shared.engine
    }

    fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    fn config(&self) -> &Config {
        &self.shared.config
    }
}

#[derive(utoipa::OpenApi)]
#[openapi(
    info(description = "Rewards of language-model answers, each with its variance."),
    tags(
        (name = "scoring", description = "Rewards and the models that give them"),
        (name = "operations", description = "Probes and metrics"),
    )
)]
struct Document;

/// Every route with its documentation.
fn table() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(rewards::rewards))
        .routes(routes!(models::models))
        .routes(routes!(ops::livez))
        .routes(routes!(ops::readyz))
        .routes(routes!(ops::metrics))
}

/// Returns the OpenAPI document of the service.
pub fn openapi() -> OpenApi {
    strict(table().into_openapi())
}

/// Says of items and messages what the server does: fields that are not known are refused. Files may have
/// more, so the types themselves do not say it.
fn strict(mut api: OpenApi) -> OpenApi {
    let schemas = api.components.iter_mut().flat_map(|components| &mut components.schemas);
    for (name, schema) in schemas {
        if let ("Item" | "Message", RefOr::T(Schema::Object(object))) = (name.as_str(), schema) {
            object.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(false)));
        }
    }
    api
}

/// Makes the router with all its layers.
pub fn router(app: App) -> Router {
    let docs = Router::<App>::from(
        SwaggerUi::new("/docs")
            .url("/openapi.json", openapi())
            .config(utoipa_swagger_ui::Config::from("/openapi.json").validator_url("none")),
    );
    let layers = ServiceBuilder::new()
        .layer(from_fn(layers::turn))
        .layer(from_fn(layers::request_id))
        .layer(from_fn_with_state(app.clone(), layers::observe))
        .layer(CatchPanicLayer::custom(layers::panicked))
        .layer(from_fn_with_state(app.clone(), layers::deadline))
        .layer(DefaultBodyLimit::max(app.config().body_limit));
    Router::from(table())
        .merge(docs.layer(map_response(own_origin_only)))
        .merge(page::router())
        .fallback(layers::no_route)
        .method_not_allowed_fallback(layers::no_method)
        .layer(layers)
        .with_state(app)
}

/// Forbids the documentation's pages to load anything from elsewhere.
async fn own_origin_only(mut response: Response) -> Response {
    let policy = "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'";
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    response
}

/// Serves until `shutdown`, then finishes what was accepted. A model that does not warm up, or a worker that
/// fails, ends it with an error.
pub async fn serve(
    listener: TcpListener,
    app: App,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<()> {
    let (engine, config) = (app.engine().clone(), app.config().clone());
    let stopping = Arc::new(Notify::new());
    let stopped = Arc::clone(&stopping);
    let draining = engine.clone();
    let signal = async move {
        shutdown.await;
        tracing::info!("shutting down");
        draining.drain();
        tokio::time::sleep(config.drain).await;
        stopping.notify_one();
    };
    let listener = Bounded::new(listener, config.connections, config.header_timeout);
    let service = router(app).into_make_service_with_connect_info::<Turns>();
    let server = axum::serve(listener, service).with_graceful_shutdown(signal);
    // Requests end by their own timeout; a connection that is silent, or does not read, must not keep the rest.
    let overdue = async move {
        stopped.notified().await;
        tokio::time::sleep(config.timeout.saturating_add(LAST_WORDS)).await;
    };
    tokio::select! {
        served = server => served.map_err(Error::io("listener")),
        () = overdue => Ok(()),
        error = engine.failed() => Err(error),
    }
}

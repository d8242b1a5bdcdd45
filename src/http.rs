//! The HTTP service: routes, the layers around them, and the server.
//!
//! The router is a table, and the OpenAPI document is read off it. Handlers extract, call the engine and
//! map the result; what they share is an [`App`]. [`serve`] is the whole service as a value: sockets, an
//! app, and a future that says when to stop.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    extract::DefaultBodyLimit,
    http::{HeaderValue, header::CONTENT_SECURITY_POLICY},
    middleware::{from_fn, from_fn_with_state, map_response},
    response::Response,
};
use tokio::{net::TcpListener, sync::watch};
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

pub mod access;
pub mod adapters;
mod answering;
mod best_of_n;
mod bodies;
mod compare;
pub mod cors;
pub mod dialect;
mod error;
mod hosts;
mod idempotency;
mod json;
mod layers;
mod listener;
mod models;
mod object;
mod ops;
mod outline;
mod page;
mod penalty;
mod places;
mod pool;
mod query;
mod reward;
mod rewards;
mod stream;
mod terms;
mod timing;
pub mod tls;

use access::keys::Keys;
use adapters::Adapters;
use bodies::Bodies;
use cors::Origin;
use dialect::{Compat, PlainScore};
use error::ApiError;
use hosts::Hosts;
use idempotency::Replays;
use listener::{Bounded, Turns};
use tls::Tls;

/// How long the service listens on after it was told to stop, at the least: a connection on which a request has arrived, but was not
/// read yet, looks idle, and idle ones are closed at the end.
const LISTEN_ON: Duration = Duration::from_millis(500);
/// What is left of a connection's time after the last request's, when the service stops.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Bounds on what clients may ask, and who may.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Bytes of a request's body.
    pub body_limit: usize,
    /// Bytes of the bodies of all requests under way.
    pub bodies: usize,
    /// Items of one request.
    pub max_items: usize,
    /// Items of one request whose answer is a stream.
    pub max_stream_items: usize,
    /// From which novelty on a reward is flagged.
    pub novelty_threshold: f64,
    /// What a plain score is.
    pub plain_score: PlainScore,
    /// Whose shape a path has that the body does not tell.
    pub compat: Option<Compat>,
    /// How long a request may take, from the end of its headers to its answer.
    pub timeout: Duration,
    /// How long a connection may take to send a request's headers.
    pub header_timeout: Duration,
    /// How long a connection may rest between two requests, and an answer without its client taking any of it.
    pub rest: Duration,
    /// Connections that are open at once; a further one takes the place of the longest idle one, or waits for one to end.
    pub connections: usize,
    /// Those of one address; seven eighths of all by default.
    pub peer_connections: Option<usize>,
    /// How long `/readyz` says no, while requests are still taken, before the service stops listening; half a second at the least.
    pub drain: Duration,
    /// Who is let in; everyone if there are none.
    pub keys: Keys,
    /// Origins whose pages may call the service.
    pub origins: Vec<Origin>,
    /// Names that a request may call the service by, where it listens on this machine alone and asks for no key.
    pub hosts: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            body_limit: 8 << 20,
            bodies: 128 << 20,
            max_items: 256,
            max_stream_items: 65_536,
            novelty_threshold: 0.95,
            plain_score: PlainScore::default(),
            compat: None,
            timeout: Duration::from_secs(120),
            header_timeout: Duration::from_secs(10),
            rest: Duration::from_secs(75),
            connections: 512,
            peer_connections: None,
            drain: Duration::ZERO,
            keys: Keys::default(),
            origins: Vec::new(),
            hosts: Vec::new(),
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
    replays: Replays,
    bodies: Bodies,
    adapters: Option<Adapters>,
}

impl App {
    /// Puts the parts together; `metrics` are those the engine reports to, and `adapters` where more may come from.
    pub fn new(engine: Engine, metrics: Arc<Metrics>, config: Config, adapters: Option<Adapters>) -> Self {
        let (replays, bodies) = (Replays::default(), Bodies::new(config.bodies));
        Self { shared: Arc::new(Shared { engine, metrics, config, replays, bodies, adapters }) }
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

    fn replays(&self) -> &Replays {
        &self.shared.replays
    }

    fn bodies(&self) -> &Bodies {
        &self.shared.bodies
    }

    /// Refuses a list that is longer than a request's may be.
    fn bounded(&self, field: &str, items: usize) -> Result<(), ApiError> {
        match self.config().max_items {
            limit if items > limit => Err(ApiError::too_many(field, items, limit)),
            _ => Ok(()),
        }
    }

    /// Refuses a list that is longer than that of a request whose answer is a stream.
    fn bounded_stream(&self, field: &str, items: usize) -> Result<(), ApiError> {
        match self.config().max_stream_items {
            limit if items > limit => Err(ApiError::too_many(field, items, limit)),
            _ => Ok(()),
        }
    }
}

/// Computes where it does not keep the runtime from other requests.
async fn off_runtime<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let span = tracing::Span::current();
    let done = tokio::task::spawn_blocking(move || span.in_scope(work)).await;
    done.unwrap_or_else(|cause| {
        tracing::error!(%cause, "a computation failed");
        Err(Error::Internal("a computation failed".into()))
    })
}

#[derive(utoipa::OpenApi)]
#[openapi(
    info(description = "Rewards of language-model answers, each with its variance."),
    tags(
        (name = "scoring", description = "Rewards and the models that give them"),
        (name = "dialects", description = "The same, in the words of other servers"),
        (name = "operations", description = "Probes and metrics"),
    )
)]
struct Document;

/// Every route with its documentation, but for the metrics.
fn table() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(Document::openapi())
        .merge(native())
        .merge(OpenApiRouter::new().routes(routes!(stream::stream)).route_layer(from_fn(answering::name)))
        .routes(routes!(models::models))
        .routes(routes!(ops::livez))
        .routes(routes!(ops::readyz))
        .merge(dialect::table().route_layer(from_fn(answering::name)))
}

/// The route that may have a port of its own.
fn metrics() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(ops::metrics))
}

/// What scores, and may be asked for again by its key.
fn native() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(rewards::rewards))
        .routes(routes!(compare::compare))
        .routes(routes!(best_of_n::best_of_n))
        .route_layer(from_fn(answering::name))
        .route_layer(from_fn(idempotency::replay))
}

/// Returns the OpenAPI document of the service.
pub fn openapi() -> OpenApi {
    let api = strict(table().merge(metrics()).into_openapi());
    access::document::guarded(terms::document(answering::document(api)))
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

/// Routes and documentation.
fn service() -> Router<App> {
    let docs = Router::<App>::from(
        SwaggerUi::new("/docs")
            .url("/openapi.json", openapi())
            .config(utoipa_swagger_ui::Config::from("/openapi.json").validator_url("none")),
    );
    Router::from(table()).merge(docs.layer(map_response(own_origin_only))).merge(page::router())
}

/// Puts all layers around routes.
fn layered(routes: Router<App>, app: App, is_local: bool) -> Router {
    let guard_hosts = is_local && app.config().keys.is_empty();
    let hosts: Hosts = app.config().hosts.clone().into();
    let layers = ServiceBuilder::new()
        .layer(from_fn(layers::turn))
        .layer(from_fn_with_state(app.clone(), layers::farewell))
        .layer(Extension(app.clone()))
        .layer(from_fn(layers::request_id))
        .layer(from_fn_with_state(app.clone(), layers::observe))
        .layer(from_fn(dialect::envelope))
        .option_layer(cors::layer(&app.config().origins))
        .option_layer(guard_hosts.then(|| from_fn_with_state(hosts, hosts::check)))
        .layer(from_fn_with_state(app.clone(), access::guard))
        .layer(from_fn_with_state(app.clone(), bodies::weigh))
        .layer(CatchPanicLayer::custom(layers::panicked))
        .layer(from_fn_with_state(app.clone(), terms::settle))
        .layer(DefaultBodyLimit::max(app.config().body_limit));
    routes
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

/// Where the service listens.
pub struct Sockets {
    /// For everything.
    pub service: TcpListener,
    /// For `/metrics` alone, which is then nowhere else.
    pub metrics: Option<TcpListener>,
    /// What is shown to clients on both; without it they talk in the clear.
    pub tls: Option<Tls>,
}

impl From<TcpListener> for Sockets {
    fn from(service: TcpListener) -> Self {
        Self { service, metrics: None, tls: None }
    }
}

/// Serves until `shutdown`, then finishes what was accepted. A model that does not warm up, or a worker that
/// fails, ends it with an error.
pub async fn serve(
    sockets: impl Into<Sockets>,
    app: App,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<()> {
    let Sockets { service: listener, metrics: apart, tls } = sockets.into();
    let (engine, config) = (app.engine().clone(), app.config().clone());
    let (stop, _) = watch::channel(false);
    let stopped = || {
        let mut stop = stop.subscribe();
        // An error says that the sender is gone, which is the end too.
        async move { drop(stop.wait_for(|stop| *stop).await) }
    };
    let signal = async {
        shutdown.await;
        tracing::info!("shutting down");
        engine.drain();
        tokio::time::sleep(config.drain.max(LISTEN_ON)).await;
        stop.send_replace(true);
        Ok(())
    };
    let server = async |listener: TcpListener, routes| {
        let is_local = listener.local_addr().is_ok_and(|address| address.ip().to_canonical().is_loopback());
        let listener = Bounded::new(listener, tls.clone(), &config);
        let service = layered(routes, app.clone(), is_local).into_make_service_with_connect_info::<Turns>();
        axum::serve(listener, service).with_graceful_shutdown(stopped()).await
    };
    let servers = async {
        match apart {
            Some(apart) => {
                tokio::try_join!(signal, server(listener, service()), server(apart, metrics().into()))
                    .map(drop)
            }
            None => tokio::try_join!(signal, server(listener, service().merge(metrics()))).map(drop),
        }
    };
    // Requests end by their own timeout; a connection that is silent, or does not read, must not keep the rest.
    let overdue = async {
        stopped().await;
        tokio::time::sleep(config.timeout.saturating_add(LAST_WORDS)).await;
    };
    tokio::select! {
        served = servers => served.map_err(Error::io("listener")),
        () = overdue => Ok(()),
        error = engine.failed() => Err(error),
    }
}

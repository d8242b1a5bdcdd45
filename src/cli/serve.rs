//! `rewarden serve`, and plain `rewarden`: the HTTP service.

use super::model::{BaseArgs, Opened, embedded};
use crate::{
    Error, Result,
    engine::{
        self, Engine,
        registry::{Model, Served},
    },
    http::{self, App},
    telemetry::metrics::Metrics,
};
use std::{net::IpAddr, path::PathBuf, str::FromStr, sync::Arc, time::Duration};
use tokio::net::TcpListener;

/// Name of the embedded adapter's model, and of a base's own head.
const DEFAULT: &str = "default";

#[derive(Debug, Clone, clap::Args)]
pub struct Serve {
    #[command(flatten)]
    base: BaseArgs,
    /// PEFT LoRA folder, served under its name [default: the folder's]; repeatable, the first is the default model
    #[arg(long, value_name = "[NAME=]PATH", env = "REWARDEN_ADAPTER", value_delimiter = ',')]
    adapter: Vec<NamedAdapter>,
    /// Address to listen on; 0.0.0.0 is every interface
    #[arg(long, default_value = "127.0.0.1", env = "REWARDEN_HOST")]
    host: IpAddr,
    /// Port to listen on; 0 takes a free one
    #[arg(long, default_value_t = 8080, env = "REWARDEN_HTTP_PORT")]
    port: u16,
    #[command(flatten)]
    limits: Limits,
}

#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Limits")]
struct Limits {
    /// Longest sequence in tokens [default: the model's]
    #[arg(long, value_name = "TOKENS", env = "REWARDEN_MAX_LENGTH")]
    max_length: Option<usize>,
    /// Most tokens in one batch; a longer sequence runs alone
    #[arg(long, value_name = "TOKENS", default_value_t = 4096, env = "REWARDEN_BATCH_TOKENS")]
    batch_tokens: usize,
    /// Tokens that may wait; past them requests get 503 with Retry-After
    #[arg(long, value_name = "TOKENS", default_value_t = 131_072, env = "REWARDEN_QUEUE_TOKENS")]
    queue_tokens: usize,
    /// Items that may wait
    #[arg(long, value_name = "ITEMS", default_value_t = 4096, env = "REWARDEN_QUEUE_ITEMS")]
    queue_items: usize,
    /// Items of one request
    #[arg(long, value_name = "ITEMS", default_value_t = 256, env = "REWARDEN_MAX_ITEMS")]
    max_items: usize,
    /// Bytes of a request's body
    #[arg(long, value_name = "BYTES", default_value_t = 8 << 20, env = "REWARDEN_BODY_LIMIT")]
    body_limit: usize,
    /// Seconds that a request may take before it gets 504
    #[arg(long, value_name = "SECONDS", default_value_t = 120, env = "REWARDEN_TIMEOUT")]
    timeout: u64,
    /// Seconds between a polite kill and the end of listening, while /readyz says no
    #[arg(long, value_name = "SECONDS", default_value_t = 0, env = "REWARDEN_DRAIN")]
    drain: u64,
}

/// `[NAME=]PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct NamedAdapter {
    name: String,
    path: PathBuf,
}

impl FromStr for NamedAdapter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((name, path)) = text.split_once('=').filter(|(name, _)| !name.contains('/')) {
            return match name.is_empty() || path.is_empty() {
                true => Err("expected NAME=PATH or PATH".into()),
                false => Ok(Self { name: name.into(), path: path.into() }),
            };
        }
        let path = PathBuf::from(text);
        let name =
            path.file_name().map_or_else(|| DEFAULT.into(), |name| name.to_string_lossy().into_owned());
        Ok(Self { name, path })
    }
}

impl Serve {
    pub fn run(self) -> Result<()> {
        let runtime = tokio::runtime::Runtime::new().map_err(Error::io("runtime"))?;
        let models = self.models()?;
        runtime.block_on(self.serve(models))
    }

    async fn serve(self, models: Vec<Model>) -> Result<()> {
        let address = (self.host, self.port);
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(Error::io(format!("{}:{}", self.host, self.port)))?;
        let metrics = Arc::new(Metrics::new().map_err(|e| Error::Internal(format!("metrics: {e}")))?);
        let engine = Engine::start(models, &self.limits.engine(), Arc::clone(&metrics))?;
        if let Ok(address) = listener.local_addr() {
            tracing::info!("listening on http://{address} (documentation under /docs)");
        }
        http::serve(listener, App::new(engine, metrics, self.limits.http()), stop_signal()).await
    }

    /// Opens the base once and puts every adapter on it.
    fn models(&self) -> Result<Vec<Model>> {
        let mut adapters = self.adapter.clone();
        if adapters.is_empty() && self.base.model.is_none() {
            adapters.push(NamedAdapter { name: DEFAULT.into(), path: embedded(super::model::ADAPTER)? });
        }
        let base = self.base.open()?;
        let encoder_of = |opened: &Opened| Arc::clone(&opened.base.encoder);
        let mut models = Vec::new();
        let folders: Vec<_> = match adapters.is_empty() {
            true => vec![(DEFAULT.to_owned(), None)],
            false => adapters.into_iter().map(|adapter| (adapter.name, Some(adapter.path))).collect(),
        };
        for (name, folder) in folders {
            let opened = Opened::new(base.clone(), folder)?;
            let scorer = opened.scorer()?;
            let max_length = self.limits.max_length.unwrap_or(usize::MAX).min(opened.base.config.max_length);
            let has_posterior = scorer.posterior.is_some();
            let served = Served { name, encoder: encoder_of(&opened), max_length, has_posterior };
            models.push(Model { served, scorer: Box::new(scorer) });
        }
        Ok(models)
    }
}

impl Limits {
    fn engine(&self) -> engine::Config {
        engine::Config {
            batch_tokens: self.batch_tokens,
            queue_tokens: self.queue_tokens,
            queue_items: self.queue_items,
        }
    }

    fn http(&self) -> http::Config {
        http::Config {
            body_limit: self.body_limit,
            max_items: self.max_items,
            timeout: Duration::from_secs(self.timeout),
            drain: Duration::from_secs(self.drain),
        }
    }
}

/// Ends with Ctrl-C, or with the signal that container runtimes send.
async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        }
        // Without that signal, Ctrl-C alone; if that cannot be heard either, the service runs on.
        Err(_) if tokio::signal::ctrl_c().await.is_ok() => {}
        Err(_) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_are_named_or_take_their_folders_name() {
        let parse = |text: &str| text.parse::<NamedAdapter>();
        let named = |name: &str, path: &str| Ok(NamedAdapter { name: name.into(), path: path.into() });
        assert_eq!(parse("mine=/a/b"), named("mine", "/a/b"));
        assert_eq!(parse("/a/b"), named("b", "/a/b"));
        assert_eq!(parse("/a=1/b"), named("b", "/a=1/b"));
        assert!(parse("=x").is_err() && parse("x=").is_err());
    }
}

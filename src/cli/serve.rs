//! `rewarden serve`, and plain `rewarden`: the HTTP service.

use super::{
    access::{Access, AccessArgs},
    model::{BaseArgs, NamedAdapter, embedded},
    scoring::ScoringArgs,
};
use crate::{
    Error, Result, digest,
    engine::{Engine, registry::Model},
    http::{
        self, App,
        access::Role,
        adapters::{Adapters, Loaded},
        dialect::{Compat, PlainScore},
    },
    hub::Kind,
    score::rescale::Scale,
    telemetry::metrics::Metrics,
    text::apart,
};
use clap::builder::RangedU64ValueParser;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

mod limits;
mod loader;
mod named;

use limits::Limits;
use loader::Loader;
use named::{NamedEnsemble, NamedScale};

/// Name of the embedded adapter's model, and of a base's own head.
const DEFAULT: &str = "default";

/// The flags of `rewarden serve`.
#[derive(Debug, Clone, clap::Args)]
pub struct Serve {
    #[command(flatten)]
    base: BaseArgs,
    /// PEFT LoRA folder, or one's name on the hub, `org/name[@revision]`, served under its name [default: the folder's or the
    /// repository's]; repeatable, the first is the default model
    #[arg(long, value_name = "[NAME=]PATH|NAME", env = "REWARDEN_ADAPTER", value_delimiter = ',')]
    adapter: Vec<NamedAdapter>,
    /// Several of the adapters as one model, whose variance is the mean of theirs and what their means differ by; repeatable
    #[arg(long, value_name = "NAME=A,B,..", env = "REWARDEN_ENSEMBLE", value_delimiter = ';')]
    ensemble: Vec<NamedEnsemble>,
    /// Another scale for the rewards of a model: f becomes SCALE f + SHIFT, and k means the same for models whose rewards spread
    /// alike; repeatable
    #[arg(long, value_name = "[NAME=]SCALE[,SHIFT]", env = "REWARDEN_RESCALE", value_delimiter = ';')]
    rescale: Vec<NamedScale>,
    #[command(flatten)]
    scoring: ScoringArgs,
    #[command(flatten)]
    access: AccessArgs,
    #[command(flatten)]
    hot: Hot,
    #[command(flatten)]
    answers: Answers,
    #[command(flatten)]
    limits: Limits,
}

#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Adapters that come and go")]
struct Hot {
    /// Folder below which adapters may be loaded while the service runs, by POST to /v1/load_lora_adapter with a key of the role
    /// admin [default: none may]
    #[arg(long, value_name = "FOLDER", env = "REWARDEN_ADAPTER_ROOT")]
    adapter_root: Option<PathBuf>,
    /// MiB that they may take between them; those that were not asked for longest make room for others [default: any]
    #[arg(long, value_name = "MIB", value_parser = RangedU64ValueParser::<u64>::new().range(1..=1 << 24))]
    #[arg(requires = "adapter_root", env = "REWARDEN_ADAPTER_MEMORY")]
    adapter_memory: Option<u64>,
}

#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Answers")]
struct Answers {
    /// Novelty from which on a reward is flagged as `novel`
    #[arg(long, value_name = "0..1", value_parser = share, env = "REWARDEN_NOVELTY_THRESHOLD")]
    #[arg(default_value_t = 0.95)]
    novelty_threshold: f64,
    /// What stands where another server's interface has room for one number
    #[arg(long, value_enum, default_value = "mean", env = "REWARDEN_PLAIN_SCORE")]
    plain_score: PlainScore,
    /// Whose shape /v1/rerank has [default: Cohere's, Jina's and vLLM's]
    #[arg(long, value_enum, env = "REWARDEN_COMPAT")]
    compat: Option<Compat>,
}

/// From 0 to 1.
fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "expected a number from 0 to 1".into())
}

impl Serve {
    /// Serves until it is told to stop.
    pub fn run(self) -> Result<()> {
        let runtime = tokio::runtime::Runtime::new().map_err(Error::io("runtime"))?;
        let access = self.access.clone().read()?;
        if self.hot.adapter_root.is_some() && !access.has(Role::Admin) {
            return Err(Error::Usage(
                "--adapter-root: needs a key with the role `admin` (hint: `--keys FILE`)".into(),
            ));
        }
        // The file itself, also where another one has come in its place.
        let own = PathBuf::from("/proc/self/exe");
        let named = || std::env::current_exe().map_err(Error::io("the program's own file"));
        apart::isolate(if own.exists() { own } else { named()? });
        let (models, adapters) = self.models()?;
        runtime.block_on(self.serve(access, models, adapters))
    }

    async fn serve(self, access: Access, models: Vec<Model>, adapters: Option<Adapters>) -> Result<()> {
        let sockets = access.bind().await?;
        let metrics = Arc::new(Metrics::new().map_err(|e| Error::Internal(format!("metrics: {e}")))?);
        let engine = Engine::start(models, &self.limits.engine(), Arc::clone(&metrics))?;
        let config = access.config(self.http());
        http::serve(sockets, App::new(engine, metrics, config, adapters), stop_signal()).await
    }

    fn http(&self) -> http::Config {
        let Answers { novelty_threshold, plain_score, compat } = self.answers;
        http::Config { novelty_threshold, plain_score, compat, ..self.limits.http() }
    }

    /// Opens the base once and puts every adapter on it; tells how more can be put on it later.
    fn models(&self) -> Result<(Vec<Model>, Option<Adapters>)> {
        let mut adapters = self.adapter.clone();
        if adapters.is_empty() && self.base.model.is_none() {
            let path = embedded(super::model::ADAPTER)?.into();
            adapters.push(NamedAdapter { name: DEFAULT.into(), path });
        }
        if let Some(model) = self.base.cross_encoder(&self.scoring)? {
            if !adapters.is_empty() || !self.ensemble.is_empty() || self.hot.adapter_root.is_some() {
                return Err(Error::Usage("--adapter: a cross-encoder takes none".into()));
            }
            let fingerprint = digest::of_path(&self.base.path()?)?;
            return Ok((vec![Model::of_means(DEFAULT.into(), model).known_by(fingerprint)], None));
        }
        let folder = |NamedAdapter { name, path }| Ok((name, Some(path.path(Kind::Adapter)?)));
        let folders: Vec<(String, Option<PathBuf>)> = match adapters.is_empty() {
            true => vec![(DEFAULT.to_owned(), None)],
            false => adapters.into_iter().map(folder).collect::<Result<_>>()?,
        };
        let loader = Loader::new(&self.base, &self.scoring, self.limits.max_length)?;
        let (mut models, mut scorers) = (Vec::new(), BTreeMap::new());
        for (name, folder) in folders {
            let (model, scorer) = loader.open(&name, folder)?;
            models.push(model);
            scorers.insert(name, scorer);
        }
        for ensemble in &self.ensemble {
            let ensemble = ensemble.of(&scorers, &models)?;
            models.push(ensemble);
        }
        let scales = self.scales(&models)?;
        let models = models.into_iter().map(|model| rescaled(model, &scales)).collect();
        Ok((models, self.hot.adapters(loader, scales)?))
    }

    /// The scale of every model that has one, by its name.
    fn scales(&self, models: &[Model]) -> Result<BTreeMap<String, Scale>> {
        let mut scales = BTreeMap::new();
        for NamedScale { name, scale } in &self.rescale {
            let is_meant = |model: &&Model| name.as_ref().is_none_or(|name| model.served.name == *name);
            let model = models.iter().find(is_meant).ok_or_else(|| {
                Error::Usage(format!("--rescale: no such model: {}", name.as_deref().unwrap_or_default()))
            })?;
            scales.insert(model.served.name.clone(), *scale);
        }
        Ok(scales)
    }
}

/// A model on its scale, where it has one.
fn rescaled(model: Model, scales: &BTreeMap<String, Scale>) -> Model {
    match scales.get(&model.served.name) {
        Some(scale) => model.rescaled(*scale),
        None => model,
    }
}

impl Hot {
    /// Lets adapters come from the root, where there is one.
    fn adapters(&self, loader: Loader, scales: BTreeMap<String, Scale>) -> Result<Option<Adapters>> {
        let Some(root) = &self.adapter_root else { return Ok(None) };
        let load = move |name: &str, folder: &Path| {
            let (model, scorer) = loader.open(name, Some(folder.to_owned()))?;
            let bytes = loader::bytes(&scorer, folder);
            Ok(Loaded { model: rescaled(model, &scales), bytes })
        };
        Adapters::new(root, self.adapter_memory.map(|mib| mib << 20), load).map(Some)
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
    use clap::Parser;
    use std::path::PathBuf;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        serve: Serve,
    }

    #[test]
    fn limits_that_mean_nothing_are_refused() {
        let parse = |flag: &str, value: &str| Line::try_parse_from(["rewarden", flag, value]);
        for flag in [
            "--timeout",
            "--header-timeout",
            "--batch-tokens",
            "--max-length",
            "--connections",
            "--key-concurrency",
            "--key-rate",
        ] {
            assert!(parse(flag, "0").is_err(), "{flag}");
            assert!(parse(flag, "1").is_ok(), "{flag}");
        }
        for flag in ["--timeout", "--header-timeout", "--drain"] {
            assert!(parse(flag, "86400").is_ok(), "{flag}");
            let message = parse(flag, "18446744073709551615").unwrap_err().to_string();
            assert!(message.contains(flag) && message.contains("86400"), "{message}");
        }
    }

    #[test]
    fn defaults_are_those_of_the_library() {
        let Line { serve } = Line::try_parse_from(["rewarden"]).unwrap();
        assert_eq!(
            (serve.limits.engine(), serve.http()),
            (crate::engine::Config::default(), http::Config::default())
        );
    }

    #[test]
    fn adapters_are_named_or_take_their_folders_name() {
        let parse = |text: &str| text.parse::<NamedAdapter>();
        let named =
            |name: &str, path: &str| Ok(NamedAdapter { name: name.into(), path: PathBuf::from(path).into() });
        assert_eq!(parse("mine=/a/b"), named("mine", "/a/b"));
        assert_eq!(parse("/a/b"), named("b", "/a/b"));
        assert_eq!(parse("/a=1/b"), named("b", "/a=1/b"));
        assert_eq!(parse("org/judge@v1"), named("judge", "org/judge@v1"));
        assert_eq!(parse("org/judge=/a/b"), named("org/judge", "/a/b"));
        let folder = tempfile::tempdir().unwrap();
        let strange = folder.path().join("rate=1e-4");
        std::fs::create_dir(&strange).unwrap();
        let strange = strange.to_str().unwrap();
        assert_eq!(parse(strange), named("rate=1e-4", strange));
        assert_eq!(parse("mine=org/judge@v1"), named("mine", "org/judge@v1"));
        assert!(parse("=x").is_err() && parse("x=").is_err());
    }
}

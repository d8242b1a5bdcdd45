//! The service on a free port, with a stand-in for the model that tests can hold, fail and question.

use std::{
    io,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Condvar, LazyLock, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use candle_core::{DType, Device};
use reqwest::{Client, RequestBuilder, Response};
use rewarden::{
    Error, Result, engine,
    engine::{
        Engine,
        registry::{Model, Served},
    },
    evaluate::verdicts::Verdict,
    http::{
        self, App, Sockets,
        adapters::{Adapters, Loaded},
        tls::Tls,
    },
    model::{RewardModel, adapter::Adapter, checkpoint::Checkpoint},
    posterior::{Novelty, Posterior, config::Quantiles, store},
    score::{Embed, Embedding, Estimate, Score, Scorer, Sharing, Want, rule::Calibration},
    telemetry::metrics::Metrics,
    text::{Encoder, TokenSeq},
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle, time::sleep};

/// Ids 0 to 9 of the vocabulary; the last four make the stand-in misbehave.
const WORDS: [&str; 10] = ["<s>", "</s>", "w", "x", "y", "z", "panic", "fail", "nan", "inf"];
const PANIC: u32 = 6;
const FAIL: u32 = 7;
const NAN: u32 = 8;
/// Fails its whole batch, as the model's own check does.
const INFINITE: u32 = 9;

/// Tokens that the stand-in models take.
pub const MAX_LENGTH: usize = 16;

/// What differs between tests.
#[derive(Default)]
pub struct Setup {
    pub engine: engine::Config,
    pub http: http::Config,
    pub hold: Hold,
    /// Quantiles of held-out variances of `bayes`.
    pub quantiles: Vec<(f64, f64)>,
    /// What penalties of `bayes` read.
    pub calibration: Option<Calibration>,
    /// Verdicts of held-out pairs of `bayes`.
    pub verdicts: Vec<Verdict>,
    /// Whether the models fail whatever they are given.
    pub broken: bool,
    pub tls: Option<Tls>,
    /// Whether the metrics have a port of their own.
    pub apart: bool,
    pub adapters: Option<Adapters>,
}

/// Bytes that a stand-in is said to take.
pub const BYTES: u64 = 100 << 20;

/// Lets stand-ins come from below `root`: a folder is one, whose means lie above the others' by what its file `offset` says.
pub fn adapters(root: &Path, most: Option<u64>, hold: &Hold) -> Adapters {
    let hold = hold.clone();
    let load = move |name: &str, folder: &Path| {
        let path = folder.join("offset");
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
        let offset: f64 = text.trim().parse().map_err(|error| Error::file(&path, error))?;
        let served = Served {
            has_posterior: true,
            parent: Some("base".into()),
            fingerprint: format!("v{offset}"),
            ..Served::of_means(name.into(), encoder(), MAX_LENGTH)
        };
        let scorer = StandIn { hold: hold.clone(), offset, broken: offset < 0.0, ..StandIn::default() };
        Ok(Loaded { model: Model { served, scorer: Box::new(scorer) }, bytes: BYTES })
    };
    Adapters::new(root, most, load).unwrap()
}

/// Base, adapter and posterior of the fixtures, as the library reads them: the brute force of tests.
pub struct Fixture {
    pub encoder: Arc<Encoder>,
    pub scorer: Arc<Scorer>,
    pub max_length: usize,
}

impl Fixture {
    /// With the posterior as it is, or as changed.
    pub fn new(change: impl FnOnce(&mut Posterior)) -> Self {
        let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/cases/llama-0");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(store::FILE);
        let mut posterior = Posterior::load(case.join("adapter").join(store::FILE)).unwrap();
        change(&mut posterior);
        posterior.save(&file).unwrap();
        let base = Checkpoint::open(&case.join("base")).unwrap();
        let adapter = Adapter::load(&case.join("adapter"), &base.config).unwrap();
        let model = RewardModel::new(&base, Some(&adapter), DType::F32, &Device::Cpu).unwrap();
        let scorer = Scorer::new(model, Some(Posterior::load(&file).unwrap()), Sharing::Alone);
        let (encoder, max_length) = (Arc::clone(&base.encoder), base.config.max_length);
        Self { encoder, scorer: Arc::new(scorer), max_length }
    }

    /// As it is served.
    pub fn model(&self, name: &str) -> Model {
        Model::new(name.into(), Arc::clone(&self.encoder), self.max_length, Arc::clone(&self.scorer))
    }
}

/// A service under test.
pub struct Service {
    pub client: Client,
    pub hold: Hold,
    /// The ids of every sequence scored, by batch.
    pub batches: Arc<Mutex<Vec<Vec<Vec<u32>>>>>,
    /// How many models have been warmed up.
    pub warmed: Arc<AtomicUsize>,
    pub server: JoinHandle<Result<()>>,
    pub shutdown: Option<oneshot::Sender<()>>,
    pub address: SocketAddr,
    /// Of the metrics, where they have their own.
    pub metrics: Option<SocketAddr>,
}

/// While shut, keeps the stand-in from scoring.
#[derive(Clone, Default)]
pub struct Hold(Arc<(Mutex<bool>, Condvar)>);

impl Hold {
    pub fn shut(&self) {
        *self.0.0.lock().unwrap() = true;
    }

    pub fn open(&self) {
        *self.0.0.lock().unwrap() = false;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        drop(self.0.1.wait_while(self.0.0.lock().unwrap(), |shut| *shut).unwrap());
    }
}

/// The prior variance of the stand-in's rewards: as many tokens as a sequence may have.
pub const PRIOR: f64 = MAX_LENGTH as f64;

/// Quantiles of the stand-in's variances, and of the contractions that go with them.
fn contracted(quantiles: &[(f64, f64)]) -> Quantiles {
    let contraction = quantiles.iter().rev().map(|(p, variance)| (1.0 - p, 1.0 - variance / PRIOR));
    Quantiles { single: quantiles.into(), contraction_single: contraction.collect(), ..Quantiles::default() }
}

/// Means are a tenth of the sum of the ids, variances the number of tokens, prior variances [`PRIOR`].
#[derive(Default)]
struct StandIn {
    hold: Hold,
    offset: f64,
    broken: bool,
    certain: bool,
    batches: Arc<Mutex<Vec<Vec<Vec<u32>>>>>,
    warmed: Arc<AtomicUsize>,
}

impl Score for StandIn {
    fn score(&mut self, batch: &[&TokenSeq], want: Want) -> Result<Vec<Estimate>> {
        self.batches.lock().unwrap().push(batch.iter().map(|sequence| sequence.ids.clone()).collect());
        self.hold.pass();
        let has = |id| batch.iter().any(|sequence| sequence.ids.contains(&id));
        assert!(!has(PANIC), "the stand-in panics");
        if self.broken || has(FAIL) {
            return Err(Error::Usage("the stand-in fails".into()));
        }
        if has(INFINITE) {
            return Err(Error::NotFinite("reward 0 of the batch".into()));
        }
        let estimate = |sequence: &&TokenSeq| {
            let nan = sequence.ids.contains(&NAN);
            let sum = f64::from(sequence.ids.iter().sum::<u32>());
            let mean = if nan { f64::NAN } else { sum / 10.0 + self.offset };
            match want {
                Want::Mean => Estimate::of_mean(mean),
                Want::MeanAndVariance => Estimate::of_variances(mean, sequence.ids.len() as f64, PRIOR),
            }
        };
        Ok(batch.iter().map(estimate).collect())
    }

    fn warm_up(&mut self, sequence: &TokenSeq) -> Result<()> {
        self.warmed.fetch_add(1, Ordering::Relaxed);
        self.score(&[sequence], Want::MeanAndVariance).map(drop)
    }
}

/// The more words two texts share, the more their rewards vary together: vectors of roots of the words' numbers.
impl Embed for StandIn {
    fn embed(&self, batch: &[&TokenSeq]) -> Result<Vec<Embedding>> {
        self.batches.lock().unwrap().push(batch.iter().map(|sequence| sequence.ids.clone()).collect());
        self.hold.pass();
        let embedding = |sequence: &&TokenSeq| {
            let mean = f64::from(sequence.ids.iter().sum::<u32>()) / 10.0 + self.offset;
            let count = |id: u32| sequence.ids.iter().filter(|other| **other == id).count() as f32;
            if self.certain {
                return Embedding::of_mean(mean);
            }
            let vector: Vec<f32> = (0..10).map(|id| count(id).sqrt()).collect();
            let rest = (PRIOR - sequence.ids.len() as f64).sqrt() as f32;
            let prior = vector.iter().copied().chain([rest]).collect();
            Embedding { vector, prior, ..Embedding::of_mean(mean) }
        };
        Ok(batch.iter().map(embedding).collect())
    }

    fn has_variances(&self) -> bool {
        !self.certain
    }
}

fn encoder() -> Arc<Encoder> {
    let folder = tempfile::tempdir().unwrap();
    let vocabulary: serde_json::Map<_, _> =
        WORDS.iter().zip(0..).map(|(word, id)| ((*word).to_owned(), id.into())).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "w"},
    });
    let config = json!({
        "chat_template": "<s>{% for m in messages %}{% if 'no' in [m.role, m.content] %}{{ raise_exception('no') }}\
            {% endif %} {{ m.content }} </s>{% endfor %}",
        "eos_token": "</s>",
    });
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    Arc::new(Encoder::from_folder(folder.path(), None).unwrap().with_vocabulary(WORDS.len()))
}

async fn free() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

/// What the process has logged, as JSON lines.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Starts to log. For the whole process: one for a test's thread alone would miss what other threads are the first to log.
    pub fn start() -> &'static Self {
        static LOG: LazyLock<Log> = LazyLock::new(|| {
            let log = Log::default();
            let writer = log.clone();
            let subscriber = tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
            tracing::subscriber::set_global_default(subscriber).unwrap();
            log
        });
        &LOG
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// The lines about the request with this id.
    pub fn of(&self, id: &str) -> Vec<Value> {
        let text = self.text();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["span"]["id"] == id).collect()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Service {
    /// Starts a service of two models, `bayes` and `plain` without a posterior, and waits until it is ready.
    pub async fn ready() -> Self {
        Self::ready_with(Setup::default()).await
    }

    pub async fn ready_with(setup: Setup) -> Self {
        let service = Self::start(setup).await;
        service.until_ready().await;
        service.batches.lock().unwrap().clear();
        service
    }

    pub async fn start(setup: Setup) -> Self {
        let Setup { engine, http, hold, quantiles, calibration, verdicts, broken, tls, apart, adapters } =
            setup;
        let (batches, warmed) = (Arc::default(), Arc::default());
        let encoder = encoder();
        let model = |name: &str, has_posterior| Model {
            served: Served {
                has_posterior,
                novelty: Novelty::new(&contracted(&quantiles)).filter(|_| has_posterior),
                verdicts: if has_posterior { verdicts.clone().into() } else { [].into() },
                calibration: calibration.clone().filter(|_| has_posterior).unwrap_or_default(),
                parent: Some("base".into()),
                fingerprint: format!("{name}-1"),
                ..Served::of_means(name.into(), Arc::clone(&encoder), MAX_LENGTH)
            },
            scorer: Box::new(StandIn {
                hold: hold.clone(),
                offset: 0.0,
                broken,
                certain: !has_posterior,
                batches: Arc::clone(&batches),
                warmed: Arc::clone(&warmed),
            }),
        };
        let models = vec![model("bayes", true), model("plain", false)];
        let metrics = if apart { Some(free().await) } else { None };
        let sockets = Sockets { service: free().await, metrics, tls };
        let service = Self::serve_on(sockets, models, &engine, http, adapters);
        Self { hold, batches, warmed, ..service }
    }

    /// Starts a service of any models.
    pub async fn serve(models: Vec<Model>, engine: &engine::Config, http: http::Config) -> Self {
        Self::serve_on(free().await.into(), models, engine, http, None)
    }

    fn serve_on(
        sockets: Sockets,
        models: Vec<Model>,
        engine: &engine::Config,
        http: http::Config,
        adapters: Option<Adapters>,
    ) -> Self {
        let metrics = Arc::new(Metrics::new().unwrap());
        let engine = Engine::start(models, engine, Arc::clone(&metrics)).unwrap();
        let address = sockets.service.local_addr().unwrap();
        let apart = sockets.metrics.as_ref().map(|listener| listener.local_addr().unwrap());
        let (shutdown, stop) = oneshot::channel();
        let stop = async { stop.await.unwrap_or_default() };
        let app = App::new(engine, metrics, http, adapters);
        let server = tokio::spawn(http::serve(sockets, app, stop));
        let client = Client::builder().no_proxy().build().unwrap();
        let (hold, batches, warmed) = Default::default();
        Self { client, hold, batches, warmed, server, shutdown: Some(shutdown), address, metrics: apart }
    }

    pub async fn get(&self, path: &str) -> Response {
        self.client.get(format!("http://{}{path}", self.address)).send().await.unwrap()
    }

    pub fn post(&self, path: &str) -> RequestBuilder {
        self.client.post(format!("http://{}{path}", self.address))
    }

    /// Posts to `/v1/rewards`, and returns status and body.
    pub async fn rewards(&self, body: &Value) -> (u16, Value) {
        self.ask("/v1/rewards", body).await
    }

    /// Posts any body to any path, and returns status and body.
    pub async fn ask(&self, path: &str, body: &Value) -> (u16, Value) {
        let response = self.post(path).json(body).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    /// The same of a request that must succeed.
    pub async fn asked(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.ask(path, body).await;
        assert_eq!(status, 200, "{path} {body}: {answer}");
        answer
    }

    /// Posts one text without waiting for the answer.
    pub fn rewards_later(&self, text: &str) -> JoinHandle<Response> {
        let request = self.post("/v1/rewards").json(&json!({"items": [{"text": text}]}));
        tokio::spawn(async { request.send().await.unwrap() })
    }

    /// Reads one metric, written as in the text format: name and labels.
    pub async fn metric(&self, name: &str) -> f64 {
        self.metric_by("", name).await
    }

    /// The same with a key.
    pub async fn metric_by(&self, key: &str, name: &str) -> f64 {
        let request = self.client.get(format!("http://{}/metrics", self.address)).bearer_auth(key);
        let text = request.send().await.unwrap().text().await.unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().unwrap())
    }

    /// Waits until a metric has this value.
    pub async fn until_metric(&self, name: &str, value: f64) {
        self.until(async || self.metric(name).await == value).await;
    }

    /// Waits until `requests` requests in all have been put into the queue, which happens in the same step
    /// in which their tokenising is counted.
    pub async fn until_queued(&self, requests: usize) {
        self.until_metric(r#"rewarden_stage_seconds_count{stage="tokenize"}"#, requests as f64).await;
    }

    pub async fn until_ready(&self) {
        self.until(async || self.get("/readyz").await.status() == 200).await;
    }

    pub async fn until(&self, mut happens: impl AsyncFnMut() -> bool) {
        for _ in 0..2000 {
            if happens().await {
                return;
            }
            sleep(Duration::from_millis(5)).await;
        }
        panic!("waited in vain");
    }

    /// Waits until the worker is in the middle of `batches` batches in all.
    pub async fn until_batches(&self, batches: usize) {
        self.until(async || self.batches.lock().unwrap().len() == batches).await;
    }
}

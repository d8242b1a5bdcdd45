//! Requests become batches: an async handle before a thread that scores.
//!
//! ```text
//! score -> admit (gate: rate, pace, bounds) -> tokenise (threads, fair) -> known? (cache) -> queue (lines, fair)
//!       -> batch by token budget (worker) -> reply (to all who wait)
//! ```
//!
//! A job names the generation of its model, which is a model that never changes; another one under the same name comes into service
//! between two requests. The handle is cheap to clone. The gate is the only place where a request is turned away for load. The
//! worker ends when the last handle is dropped, after it has answered everything that was admitted.

use std::{sync::Arc, thread, time::Instant};

use tokio::sync::{oneshot::Receiver, watch};

use crate::{
    Error, Result,
    item::Placed,
    score::{
        Embedding, Estimate, Want,
        penalty::Penalty,
        select::{Selected, Waves, distinct},
    },
    telemetry::metrics::Metrics,
    text::TokenSeq,
};

mod cache;
mod fair;
mod gate;
pub mod generation;
mod job;
mod pace;
pub mod queue;
pub mod rate;
pub mod registry;
mod reply;
pub mod shares;
mod task;
pub mod terms;
mod threads;
pub mod times;
mod worker;

use cache::{Cache, Flight, Sum};
use gate::{Gate, Ticket};
use job::{Asking, estimated};
pub use job::{Job, Seen, by_size, tokens_of};
use queue::{Load, Work};
use rate::Allowance;
use registry::{Model, Registry};
use reply::{Reply, Way};
use task::{Ask, Asked, Order};
use terms::Terms;
use threads::Threads;
use times::Stage;
use worker::Worker;

/// Batches that a selection may take in one piece: in a larger one, all others would wait for its end.
const PIECE: usize = 4;

/// How much waits, and how much is scored at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Tokens in one batch; a longer sequence runs alone.
    pub batch_tokens: usize,
    /// Tokens that may wait; past them requests are refused as overloaded.
    pub queue_tokens: usize,
    /// Items that may wait.
    pub queue_items: usize,
    /// Bytes of results that are kept; with none, nothing is looked for either.
    pub cache_bytes: usize,
    /// What one client may ask for.
    pub allowance: Allowance,
}

impl Config {
    /// Enough for products at nearly full speed (`rewarden bench` says what that takes), and one pass of the model: the answers
    /// of a batch leave together, so that a larger one keeps its first item waiting for its last.
    pub const BATCH_TOKENS: usize = 512;
}

impl Default for Config {
    fn default() -> Self {
        Self {
            batch_tokens: Self::BATCH_TOKENS,
            queue_tokens: 131_072,
            queue_items: 4096,
            cache_bytes: 0,
            allowance: Allowance::default(),
        }
    }
}

/// Where the engine is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// The models are being warmed up.
    Starting,
    /// Every model has scored once.
    Ready,
    /// What was accepted is finished, but no more should be sent.
    Draining,
    /// The warm-up failed, or the scorer's thread ended, for the reason given.
    Failed(String),
}

/// A handle on the worker.
#[derive(Debug, Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Config,
    registry: Registry,
    gate: Arc<Gate>,
    threads: Threads,
    cache: Option<Arc<Cache<Estimate>>>,
    health: Arc<watch::Sender<Health>>,
    metrics: Arc<Metrics>,
}

/// Ends the worker with the last handle.
impl Drop for Inner {
    fn drop(&mut self) {
        self.gate.close();
    }
}

impl Engine {
    /// Starts the thread that scores, which warms the models up first.
    pub fn start(models: Vec<Model>, config: &Config, metrics: Arc<Metrics>) -> Result<Self> {
        let registry = Registry::new(models)?;
        let bounds = Load { tokens: config.queue_tokens, items: config.queue_items };
        let gate = Gate::new(bounds, config.batch_tokens, config.allowance, Arc::clone(&metrics));
        let gate = Arc::new(gate);
        let cache =
            (config.cache_bytes > 0).then(|| Arc::new(Cache::new(config.cache_bytes, Arc::clone(&metrics))));
        let health = Arc::new(watch::Sender::new(Health::Starting));
        let worker = Worker {
            models: registry.models(),
            gate: Arc::clone(&gate),
            health: Arc::clone(&health),
            metrics: Arc::clone(&metrics),
        };
        thread::Builder::new()
            .name("scorer".into())
            .spawn(move || worker.run())
            .map_err(|e| Error::Internal(format!("the scorer's thread does not start: {e}")))?;
        let (config, threads) = (config.clone(), Threads::start()?);
        Ok(Self { inner: Arc::new(Inner { config, registry, gate, threads, cache, health, metrics }) })
    }

    /// Returns the models that are served.
    pub fn registry(&self) -> &Registry {
        &self.inner.registry
    }

    /// Returns how much may wait, and how much is scored at once.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// Says whether every model has scored once, and the end has not come.
    pub fn ready(&self) -> Result<()> {
        match self.health() {
            Health::Ready => Ok(()),
            Health::Starting | Health::Draining | Health::Failed(_) => Err(Error::NotReady),
        }
    }

    /// Returns what waits.
    pub fn load(&self) -> Load {
        self.inner.gate.load()
    }

    /// Returns where the engine is in its life.
    pub fn health(&self) -> Health {
        self.inner.health.borrow().clone()
    }

    /// Waits for the worker to fail, in its warm-up or later, and returns why; for ever if it does not.
    pub async fn failed(&self) -> Error {
        let mut health = self.inner.health.subscribe();
        let failed = health.wait_for(|health| matches!(health, Health::Failed(_))).await;
        let why = failed.ok().and_then(|health| match &*health {
            Health::Failed(why) => Some(why.clone()),
            _ => None,
        });
        match why {
            Some(why) => Error::Internal(why),
            None => std::future::pending().await,
        }
    }

    /// Marks the engine as no longer ready; requests that still come are answered.
    pub fn drain(&self) {
        self.inner.health.send_if_modified(|health| {
            let failed = matches!(health, Health::Failed(_));
            if !failed {
                *health = Health::Draining;
            }
            !failed
        });
    }

    /// Scores every input of a job, in order, or fails with the first error.
    pub async fn score(&self, job: Job, want: Want) -> Result<Vec<Seen<Estimate>>> {
        let (order, asking) = job.ordered(Work::Estimates(want));
        self.every(&order, asking, self.estimates(&order), Ask::Estimate).await
    }

    /// Says of every input of a job how its reward varies with the others', in order.
    pub async fn embed(&self, job: Job) -> Result<Vec<Seen<Embedding>>> {
        let (order, asking) = job.ordered(Work::Embeddings);
        self.every(&order, asking, |_| Reply::alone(&order.terms), Ask::Embed).await
    }

    /// Scores every input of a job that can be scored; what is wrong with one is its own answer.
    pub async fn score_each(&self, job: Job, want: Want) -> Result<Vec<Result<Seen<Estimate>>>> {
        let (order, asking) = job.ordered(Work::Estimates(want));
        let (mut ticket, sequences) = self.prepared(&order, asking).await?;
        let good: Vec<TokenSeq> = sequences.iter().flatten().cloned().collect();
        let seen = seen(&good);
        let (entries, answers) = order.apart(good, self.estimates(&order), Ask::Estimate);
        ticket.fill(entries);
        let mut scored = awaited(seen, answers).await.into_iter();
        let answer = |sequence: Result<TokenSeq>| sequence.and_then(|_| scored.next().unwrap_or_else(gone));
        Ok(sequences.into_iter().map(answer).collect())
    }

    /// Finds the best of each of several pools, given by their sizes, which follow each other in the job's inputs; and
    /// tells what was seen of every input.
    pub async fn select(
        &self,
        job: Job,
        sizes: &[usize],
        penalty: Penalty,
        top: usize,
    ) -> Result<Vec<(Selected, Vec<Seen<()>>)>> {
        let (order, asking) = job.ordered(Work::Selections);
        let (mut ticket, sequences) = self.prepared(&order, asking).await?;
        let sequences = sequences.into_iter().collect::<Result<Vec<_>>>()?;
        let mut pools = Vec::with_capacity(sizes.len());
        let (mut entries, mut answers) = (Vec::new(), Vec::new());
        for pool in by_size(sequences, sizes) {
            pools.push(seen(&pool));
            if order.tokens_together(&pool) > PIECE * self.inner.config.batch_tokens {
                answers.push(Err(pool));
                continue;
            }
            let (entry, answer) = order.together(pool, penalty, top);
            entries.push(entry);
            answers.push(Ok(answer));
        }
        ticket.fill(entries);
        let mut selected = Vec::with_capacity(pools.len());
        for (pool, answer) in pools.into_iter().zip(answers) {
            let found = match answer {
                Ok(answer) => answer.await.unwrap_or_else(|_| gone())?,
                Err(large) => self.in_waves(&mut ticket, &order, large, penalty, top).await?,
            };
            selected.push((found, pool));
        }
        Ok(selected)
    }

    /// Finds the best of a large pool by estimates of its candidates, each an entry of its own: others have their turns in between.
    async fn in_waves(
        &self,
        ticket: &mut Ticket,
        order: &Order,
        pool: Vec<TokenSeq>,
        penalty: Penalty,
        top: usize,
    ) -> Result<Selected> {
        let all: Vec<&TokenSeq> = pool.iter().collect();
        let some = distinct(&all);
        let candidates: Vec<TokenSeq> = some.of(&all).into_iter().cloned().collect();
        let known = self.estimated(ticket, order, Want::Mean, candidates.clone()).await?;
        let mut waves = Waves::new(known, penalty, top);
        loop {
            let wave = waves.next_wave();
            if wave.is_empty() {
                return Ok(some.spread(waves.selected()?));
            }
            let wanted = wave.iter().map(|index| candidates[*index].clone()).collect();
            let estimates = self.estimated(ticket, order, Want::MeanAndVariance, wanted).await?;
            waves.take(wave, estimates);
        }
    }

    /// Estimates of sequences that were admitted with others.
    async fn estimated(
        &self,
        ticket: &mut Ticket,
        order: &Order,
        want: Want,
        sequences: Vec<TokenSeq>,
    ) -> Result<Vec<Estimate>> {
        let order = Order { work: Work::Estimates(want), ..order.clone() };
        let seen = seen(&sequences);
        let (entries, answers) = order.apart(sequences, self.estimates(&order), Ask::Estimate);
        ticket.fill(entries);
        awaited(seen, answers).await.into_iter().map(|one| Ok(one?.what)).collect()
    }

    /// Computes something of every input without the model, on other threads and on its client's account; `size` is in tokens. Fails
    /// with the first error.
    pub async fn aside<I: Send + 'static, T: Send + 'static>(
        &self,
        terms: &Terms,
        inputs: Vec<I>,
        size: impl Fn(&I) -> usize,
        of: impl Fn(I) -> Result<T> + Send + 'static,
    ) -> Result<Vec<T>> {
        let load =
            Load { tokens: inputs.iter().map(size).fold(0, usize::saturating_add), items: inputs.len() };
        let ticket = self.inner.gate.aside(load, terms)?;
        let _stay = terms.times.enter(Stage::Tokenize);
        let (_ticket, done) =
            self.inner.threads.each(terms, ticket, inputs, move |input, _| of(input)).await?;
        done.into_iter().collect()
    }

    /// Asks something of every input, whose answer comes the `way` that is given, and nothing where one of them is wrong.
    async fn every<T>(
        &self,
        order: &Order,
        asking: Asking,
        way: impl Fn(&TokenSeq) -> Way<T>,
        ask: fn(Asked<T>) -> Ask,
    ) -> Result<Vec<Seen<T>>> {
        let (mut ticket, sequences) = self.prepared(order, asking).await?;
        let sequences = sequences.into_iter().collect::<Result<Vec<_>>>()?;
        let seen = seen(&sequences);
        let (entries, answers) = order.apart(sequences, way, ask);
        ticket.fill(entries);
        awaited(seen, answers).await.into_iter().collect()
    }

    /// The way to an estimate: by the cache, where there is one.
    fn estimates(&self, order: &Order) -> impl Fn(&TokenSeq) -> Way<Estimate> + use<> {
        let (cache, key, terms) = (self.inner.cache.clone(), order.key(), order.terms.clone());
        move |sequence| match &cache {
            Some(cache) => {
                let (sum, priority, client) = (Sum::of(key, sequence), terms.priority, terms.client.clone());
                cache.ask(Flight { sum, priority, client }, &terms)
            }
            None => Reply::alone(&terms),
        }
    }

    /// Admits what is asked and tokenises it; what is wrong with an input is told in its place.
    async fn prepared(&self, order: &Order, asking: Asking) -> Result<(Ticket, Vec<Result<TokenSeq>>)> {
        if matches!(self.health(), Health::Starting | Health::Failed(_)) {
            return Err(Error::NotReady);
        }
        let load = estimated(&asking.inputs, asking.limit.max_length);
        let ticket = self.inner.gate.admit(load, order.key(), &order.terms)?;
        self.tokenise(ticket, order, asking).await
    }

    /// Tokenises on other threads; the ticket goes along, so that its share counts until that has ended.
    async fn tokenise(
        &self,
        ticket: Ticket,
        order: &Order,
        Asking { inputs, limit }: Asking,
    ) -> Result<(Ticket, Vec<Result<TokenSeq>>)> {
        let started = Instant::now();
        let stay = order.terms.times.enter(Stage::Tokenize);
        let encoder = Arc::clone(&order.model.encoder);
        let encode = move |Placed { input, place }: Placed, live: &dyn Fn() -> bool| {
            encoder.encode_while(&input, &limit, live).map_err(|e| match e {
                Error::Deadline => e,
                wrong => place.blame(wrong),
            })
        };
        let result = self.inner.threads.each(&order.terms, ticket, inputs, encode).await?;
        drop(stay);
        let stage = self.inner.metrics.stage_seconds.with_label_values(&["tokenize"]);
        stage.observe(started.elapsed().as_secs_f64());
        Ok(result)
    }
}

/// What clients are told of sequences beside their rewards.
fn seen(sequences: &[TokenSeq]) -> Vec<Seen<()>> {
    let of = |s: &TokenSeq| Seen { what: (), tokens: s.ids.len(), truncated: s.truncated };
    sequences.iter().map(of).collect()
}

/// Waits for every answer.
async fn awaited<T>(seen: Vec<Seen<()>>, answers: Vec<Receiver<Result<T>>>) -> Vec<Result<Seen<T>>> {
    let mut all = Vec::with_capacity(answers.len());
    for (Seen { tokens, truncated, .. }, answer) in seen.into_iter().zip(answers) {
        let answer = answer.await.unwrap_or_else(|_| gone());
        all.push(answer.map(|what| Seen { what, tokens, truncated }));
    }
    all
}

fn gone<T>() -> Result<T> {
    Err(Error::Internal("the scorer has gone".into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Encoder;

    /// An encoder of two words, without a chat template.
    pub fn encoder() -> Arc<Encoder> {
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
            "model": {"type": "WordLevel", "vocab": {"x": 0, "y": 1}, "unk_token": "x"},
        });
        std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        Arc::new(Encoder::from_folder(folder.path(), None).unwrap())
    }
}

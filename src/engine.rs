//! Requests become batches: an async handle before a thread that owns the models.
//!
//! ```text
//! score -> admit (gate) -> tokenise (blocking pool) -> queue -> batch by token budget (worker) -> reply
//! ```
//!
//! The handle is cheap to clone. The gate is the only place where a request is turned away for load. The
//! worker ends when the last handle is dropped, after it has answered everything that was admitted.

use std::{sync::Arc, thread, time::Instant};

use tokio::{
    sync::{oneshot, watch},
    task::spawn_blocking,
};
use tracing::Span;

use crate::{
    Error, Result,
    item::{Input, Message},
    nn::pack::own_tokens,
    score::{Estimate, Want},
    telemetry::{drift::Drift, metrics::Metrics},
    text::{Limit, TokenSeq, Truncation},
};

mod gate;
pub mod queue;
pub mod registry;
mod worker;

use gate::{Gate, Ticket, Waiting};
use queue::{Entry, Key, Load, Queue};
use registry::{Model, Registry, Served};
use worker::Worker;

/// Bytes of text taken for one token until it is tokenised.
const BYTES_PER_TOKEN: usize = 4;

/// How much waits, and how much is scored at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Tokens in one batch; a longer sequence runs alone.
    pub batch_tokens: usize,
    /// Tokens that may wait; past them requests are refused as overloaded.
    pub queue_tokens: usize,
    /// Items that may wait.
    pub queue_items: usize,
}

impl Config {
    /// Enough for products at nearly full speed (`rewarden bench` says what that takes), and one pass of the model: the answers
    /// of a batch leave together, so that a larger one keeps its first item waiting for its last.
    pub const BATCH_TOKENS: usize = 512;
}

impl Default for Config {
    fn default() -> Self {
        Self { batch_tokens: Self::BATCH_TOKENS, queue_tokens: 131_072, queue_items: 4096 }
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

/// One request's sequences, to be scored by one model.
#[derive(Debug)]
pub struct Job {
    /// Index of the model in the registry.
    pub model: usize,
    /// What is to be scored.
    pub inputs: Vec<Input>,
    /// What is cut from inputs that are too long.
    pub truncation: Option<Truncation>,
    /// Whether variances are wanted.
    pub want: Want,
    /// What is not being scored by then is dropped.
    pub deadline: Instant,
}

/// One input's score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scored {
    /// Finite, and with a variance where one was wanted.
    pub estimate: Estimate,
    /// Percentile of the variance among those of the pairs that the fit held out, where there is one and were some.
    pub novelty: Option<f64>,
    /// Tokens that were scored.
    pub tokens: usize,
    /// Whether tokens were cut to fit the limit.
    pub truncated: bool,
}

/// A handle on the worker.
#[derive(Debug, Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    registry: Registry,
    gate: Arc<Gate>,
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
    /// Moves the models to a thread of their own, which warms them up.
    pub fn start(models: Vec<Model>, config: &Config, metrics: Arc<Metrics>) -> Result<Self> {
        let registry = Registry::new(models.iter().map(|model| model.served.clone()).collect())?;
        let bounds = Load { tokens: config.queue_tokens, items: config.queue_items };
        let gate = Arc::new(Gate::new(Queue::new(bounds, config.batch_tokens), Arc::clone(&metrics)));
        let health = Arc::new(watch::Sender::new(Health::Starting));
        let drifts = models.iter().map(|model| model.served.novelty.as_ref().map(Drift::new)).collect();
        let worker = Worker {
            models,
            drifts,
            gate: Arc::clone(&gate),
            health: Arc::clone(&health),
            metrics: Arc::clone(&metrics),
        };
        thread::Builder::new()
            .name("scorer".into())
            .spawn(move || worker.run())
            .map_err(|e| Error::Internal(format!("the scorer's thread does not start: {e}")))?;
        Ok(Self { inner: Arc::new(Inner { registry, gate, health, metrics }) })
    }

    /// Returns the models that are served.
    pub fn registry(&self) -> &Registry {
        &self.inner.registry
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
    pub async fn score(&self, job: Job) -> Result<Vec<Scored>> {
        let Job { model, inputs, truncation, want, deadline } = job;
        if matches!(self.health(), Health::Starting | Health::Failed(_)) {
            return Err(Error::NotReady);
        }
        let served = self.served(model)?;
        let limit = Limit { max_length: served.max_length, truncation };
        let ticket = self.inner.gate.admit(estimated(&inputs, limit.max_length))?;
        let (ticket, sequences) = self.tokenise(ticket, served, inputs, limit).await?;
        let mut replies = Vec::with_capacity(sequences.len());
        let since = Instant::now();
        let own = own_tokens(&sequences.iter().collect::<Vec<_>>());
        let entries = sequences.into_iter().zip(own).map(|(sequence, own)| {
            let (reply, answer) = oneshot::channel();
            let (tokens, truncated) = (sequence.ids.len(), sequence.truncated);
            replies.push((tokens, truncated, answer));
            let payload = Waiting { sequence, since, reply };
            Entry { key: Key { model, want }, tokens, own, deadline, payload }
        });
        ticket.fill(entries.collect());
        let mut scored = Vec::with_capacity(replies.len());
        for (tokens, truncated, answer) in replies {
            let gone = |_| Error::Internal("the scorer has gone".into());
            let estimate = answer.await.map_err(gone)??;
            let novelty = estimate.novelty(served.novelty.as_ref());
            scored.push(Scored { estimate, novelty, tokens, truncated });
        }
        Ok(scored)
    }

    fn served(&self, model: usize) -> Result<&Served> {
        let served = self.inner.registry.models().get(model);
        served.ok_or_else(|| Error::Internal(format!("no model has the index {model}")))
    }

    /// Tokenises off the runtime; the ticket goes along, so that its share counts until that has ended.
    async fn tokenise(
        &self,
        ticket: Ticket,
        served: &Served,
        inputs: Vec<Input>,
        limit: Limit,
    ) -> Result<(Ticket, Vec<TokenSeq>)> {
        let encoder = Arc::clone(&served.encoder);
        let started = Instant::now();
        let span = Span::current();
        let tokenised = spawn_blocking(move || {
            let _entered = span.enter();
            let encode = |(index, input)| encoder.encode(input, &limit).map_err(|e| e.in_item(index));
            let encoded = inputs.iter().enumerate().map(encode);
            encoded.collect::<Result<Vec<_>>>().map(|sequences| (ticket, sequences))
        });
        let result = tokenised.await.map_err(|e| {
            tracing::error!(cause = %e, "tokenising failed");
            Error::Internal("tokenising failed".into())
        })?;
        let stage = self.inner.metrics.stage_seconds.with_label_values(&["tokenize"]);
        stage.observe(started.elapsed().as_secs_f64());
        result
    }
}

/// Guesses the load of inputs that are not tokenised yet, from their bytes.
fn estimated(inputs: &[Input], max_length: usize) -> Load {
    let said = |message: &Message| message.content.text().len();
    let tokens = |input: &Input| {
        let bytes = match input {
            Input::Pair { prompt, response } => prompt.len() + response.len(),
            Input::Answer { prompt, response } => prompt.iter().map(said).sum::<usize>() + response.len(),
            Input::Messages(messages) => messages.iter().map(said).sum(),
            Input::Text(text) => text.len(),
            Input::Ids(ids) => return ids.len().min(max_length),
        };
        (bytes / BYTES_PER_TOKEN + 1).min(max_length)
    };
    Load { tokens: inputs.iter().map(tokens).sum(), items: inputs.len() }
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

    #[test]
    fn the_load_is_guessed_from_bytes_and_counted_for_ids() {
        let text = |bytes| Input::Text("x".repeat(bytes));
        let pair = Input::Pair { prompt: "x".repeat(6), response: "x".repeat(6) };
        let messages = vec![Message::new("user", "x".repeat(8)), Message::new("user", "xxxx")];
        let answer = Input::Answer { prompt: messages.clone(), response: "x".repeat(8) };
        let table = [
            (vec![text(0)], 1),
            (vec![text(8)], 3),
            (vec![text(8), pair], 7),
            (vec![Input::Messages(messages)], 4),
            (vec![answer], 6),
            (vec![text(1000)], 100),
            (vec![Input::Ids(vec![1; 7])], 7),
            (vec![Input::Ids(vec![1; 700])], 100),
        ];
        for (inputs, tokens) in table {
            assert_eq!(estimated(&inputs, 100), Load { tokens, items: inputs.len() }, "{inputs:?}");
        }
    }
}

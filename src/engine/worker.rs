//! The thread that owns the models.
//!
//! It warms every model up with a real forward and backward, then takes batches from the gate until that is
//! closed. A failure or a panic while scoring fails its batch, is logged once, and the thread goes on; a
//! number that is not finite fails its item. Should the thread itself panic, the engine has failed, and says so.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Instant,
};

use tokio::sync::watch;
use tracing::{debug, error, info};

use super::{
    Health,
    gate::{Gate, Waiting},
    queue::{Batch, Entry, Key},
    registry::Model,
};
use crate::{
    Error, Result,
    score::{Estimate, Score, Want},
    telemetry::{drift::Drift, metrics::Metrics},
    text::TokenSeq,
};

/// Tokens of the warm-up sequence; its values do not matter.
const WARM_UP: usize = 8;

/// The models and everything the thread shares with the handle.
pub struct Worker {
    /// In the order of the registry.
    pub models: Vec<Model>,
    /// Of each model whose variances can be held against those of its fit.
    pub drifts: Vec<Option<Drift>>,
    /// Where batches come from.
    pub gate: Arc<Gate>,
    /// What the handle says of the thread.
    pub health: Arc<watch::Sender<Health>>,
    /// What the thread reports to.
    pub metrics: Arc<Metrics>,
}

impl Worker {
    /// Warms up, then answers batches until the gate is closed.
    pub fn run(mut self) {
        let health = Arc::clone(&self.health);
        if let Err(cause) = caught(|| self.live()) {
            error!(%cause, "the scorer's thread has ended");
            health.send_replace(Health::Failed(cause.to_string()));
        }
    }

    fn live(&mut self) -> Result<()> {
        self.warm_up()?;
        self.health.send_if_modified(|health| {
            let starting = *health == Health::Starting;
            if starting {
                *health = Health::Ready;
            }
            starting
        });
        while let Some(Batch { entries, gone, late }) = self.gate.next_batch() {
            for (reason, dropped) in [("gone", &gone), ("late", &late)] {
                self.metrics.dropped_items.with_label_values(&[reason]).inc_by(dropped.len() as u64);
            }
            for entry in late {
                answer(entry, Err(Error::Deadline));
            }
            if let Some(key) = entries.first().map(|first| first.key) {
                let waited = self.metrics.stage_seconds.with_label_values(&["queue"]);
                for entry in &entries {
                    waited.observe(entry.payload.since.elapsed().as_secs_f64());
                }
                self.score(key, entries);
            }
        }
        Ok(())
    }

    fn warm_up(&mut self) -> Result<()> {
        for model in &mut self.models {
            let served = &model.served;
            let started = Instant::now();
            let tokens = WARM_UP.min(served.max_length).max(1);
            let sequence = TokenSeq { ids: vec![0; tokens], pooled: tokens - 1, truncated: false };
            caught(|| model.scorer.warm_up(&sequence))
                .map_err(|e| Error::Internal(format!("warm-up of model `{}`: {e}", served.name)))?;
            let seconds = started.elapsed().as_secs_f64();
            info!(model = served.name, posterior = served.has_posterior, seconds, "model is warm");
        }
        Ok(())
    }

    /// Scores entries of one key and answers each.
    fn score(&mut self, key: Key, entries: Vec<Entry<Waiting>>) {
        let Key { model, want } = key;
        let tokens: usize = entries.iter().map(|entry| entry.tokens).sum();
        let started = Instant::now();
        let model = &mut self.models[model];
        let batch: Vec<&TokenSeq> = entries.iter().map(|entry| &entry.payload.sequence).collect();
        let scored = score_caught(model.scorer.as_mut(), &batch, want);
        let seconds = started.elapsed().as_secs_f64();
        self.metrics.stage_seconds.with_label_values(&["score"]).observe(seconds);
        self.metrics.batch_tokens.observe(tokens as f64);
        let (name, items) = (&model.served.name, entries.len());
        match scored {
            Ok(estimates) => {
                debug!(model = name, ?want, items, tokens, seconds, "scored");
                self.metrics.scored_items.inc_by(items as u64);
                self.metrics.scored_tokens.inc_by(tokens as u64);
                let finite: Vec<_> = estimates.into_iter().map(|estimate| estimate.finite(want)).collect();
                self.follow(key.model, finite.iter().flatten());
                for (entry, estimate) in entries.into_iter().zip(finite) {
                    answer(entry, estimate);
                }
            }
            // The model does not say whose number it was: alone, each sequence answers for itself.
            Err(Error::NotFinite(_)) if items > 1 => {
                entries.into_iter().for_each(|entry| self.score(key, vec![entry]));
            }
            Err(cause) => {
                error!(model = name, ?want, items, tokens, %cause, "scoring failed");
                for entry in entries {
                    answer(entry, Err(failed(&cause)));
                }
            }
        }
    }

    /// Reports how far a model's variances have moved by now.
    fn follow<'a>(&mut self, model: usize, estimates: impl Iterator<Item = &'a Estimate>) {
        let Some(drift) = &mut self.drifts[model] else { return };
        estimates.filter_map(|estimate| estimate.variance).for_each(|variance| drift.add(variance));
        if let Some(index) = drift.index() {
            let name = self.models[model].served.name.as_str();
            self.metrics.drift.with_label_values(&[name]).set(index);
        }
    }
}

/// What a client is told of a batch that failed.
fn failed(cause: &Error) -> Error {
    match cause {
        Error::NotFinite(what) => Error::NotFinite(what.clone()),
        _ => Error::Internal("scoring failed".into()),
    }
}

/// Answers an entry; that the client has gone by now is nobody's fault.
fn answer(entry: Entry<Waiting>, result: Result<Estimate>) {
    let _ = entry.payload.reply.send(result);
}

/// Scores a batch; a wrong number of estimates becomes an error.
fn score_caught(scorer: &mut dyn Score, batch: &[&TokenSeq], want: Want) -> Result<Vec<Estimate>> {
    let estimates = caught(|| scorer.score(batch, want))?;
    if estimates.len() != batch.len() {
        let (got, want) = (estimates.len(), batch.len());
        return Err(Error::Internal(format!("{got} estimates for {want} sequences")));
    }
    Ok(estimates)
}

/// Runs `work`; a panic becomes an error.
fn caught<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(Error::Internal(format!("panic: {}", panic_message(&*panic)))))
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

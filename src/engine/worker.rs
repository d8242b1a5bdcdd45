//! The thread that scores.
//!
//! It warms every model of the start up with a real forward and backward, then takes batches from the gate until that is
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
    gate::Gate,
    generation::Generation,
    queue::{Batch, Entry, Work},
    reply::told,
    task::{Ask, Asked, Choice, Task},
};
use crate::{
    Error, Result,
    score::{Embedding, Estimate, Judge, Want},
    telemetry::metrics::Metrics,
    text::TokenSeq,
};

/// Everything the thread shares with the handle.
pub struct Worker {
    /// What is warmed up at the start; the thread forgets it then.
    pub models: Vec<Arc<Generation>>,
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
        while let Some(Batch { mut entries, gone, late }) = self.gate.next_batch() {
            for (reason, dropped) in [("gone", &gone), ("late", &late)] {
                self.metrics.dropped_items.with_label_values(&[reason]).inc_by(dropped.len() as u64);
            }
            late.into_iter().for_each(|entry| entry.payload.refuse(Error::Deadline));
            if let Some(first) = entries.first() {
                let (model, work) = (Arc::clone(&first.payload.model), first.key.work);
                let waited = self.metrics.stage_seconds.with_label_values(&["queue"]);
                for entry in &mut entries {
                    entry.payload.begin();
                    waited.observe(entry.since.elapsed().as_secs_f64());
                }
                self.work(&model, work, entries);
            }
        }
        Ok(())
    }

    fn warm_up(&mut self) -> Result<()> {
        for model in std::mem::take(&mut self.models) {
            let started = Instant::now();
            caught(|| model.compute(|judge| judge.warm_up(&model.warming())))
                .map_err(|e| Error::Internal(format!("warm-up of model `{}`: {e}", model.name)))?;
            let seconds = started.elapsed().as_secs_f64();
            info!(model = model.name, posterior = model.has_posterior, seconds, "model is warm");
        }
        Ok(())
    }

    /// Does what the entries of one batch ask for.
    fn work(&self, model: &Generation, work: Work, entries: Vec<Entry<Task>>) {
        let (mut estimates, mut embeddings) = (Vec::new(), Vec::new());
        for entry in entries {
            match entry.payload.ask {
                Ask::Estimate(asked) => estimates.push(asked),
                Ask::Embed(asked) => embeddings.push(asked),
                Ask::Select(choice) => self.select(model, choice),
            }
        }
        if let Work::Estimates(want) = work {
            let finite = |estimate: &Estimate| estimate.finite(want);
            self.batch((model, work), estimates, |judge, batch| judge.score(batch, want), finite);
        }
        let finite = |embedding: &Embedding| embedding.estimate().finite(Want::Mean);
        self.batch((model, work), embeddings, |judge, batch| judge.embed(batch), finite);
    }

    /// Computes something of every sequence in one batch, and answers each; its estimate must be finite.
    fn batch<T: Clone>(
        &self,
        whose: (&Generation, Work),
        asked: Vec<Asked<T>>,
        compute: impl Fn(&mut dyn Judge, &[&TokenSeq]) -> Result<Vec<T>> + Copy,
        finite: impl Fn(&T) -> Result<Estimate> + Copy,
    ) {
        if asked.is_empty() {
            return;
        }
        let batch: Vec<&TokenSeq> = asked.iter().map(|asked| &asked.sequence).collect();
        let computed = self.measured(whose, &batch, |judge| {
            let computed = compute(judge, &batch)?;
            match computed.len() == batch.len() {
                true => Ok(computed),
                false => Err(Error::Internal(format!("{} for {} sequences", computed.len(), batch.len()))),
            }
        });
        match computed {
            Ok(computed) => {
                let estimates: Vec<Result<Estimate>> = computed.iter().map(finite).collect();
                whose.0.follow(estimates.iter().flatten().copied(), &self.metrics);
                for ((asked, computed), estimate) in asked.into_iter().zip(computed).zip(estimates) {
                    asked.reply.send(estimate.map(|_| computed));
                }
            }
            // The model does not say whose number it was: alone, each sequence answers for itself.
            Err(Error::NotFinite(_)) if asked.len() > 1 => {
                asked.into_iter().for_each(|asked| self.batch(whose, vec![asked], compute, finite));
            }
            Err(cause) => {
                for asked in asked {
                    asked.reply.send(Err(told(&cause)));
                }
            }
        }
    }

    /// Finds the best of several, and answers.
    fn select(&self, model: &Generation, choice: Choice) {
        let Choice { sequences, penalty, top, reply } = choice;
        let batch: Vec<&TokenSeq> = sequences.iter().collect();
        let whose = (model, Work::Selections);
        let selected = self.measured(whose, &batch, |judge| judge.best_of(&batch, penalty, top));
        if let Ok(selected) = &selected {
            model.follow(selected.known.iter().copied(), &self.metrics);
        }
        // What is wrong with the penalty shows only beside the variances, and is the client's to know.
        let answer = selected.map_err(|cause| match cause {
            Error::Field { field, message } => Error::Field { field, message },
            cause => told(&cause),
        });
        reply.send(answer);
    }

    /// Runs a computation on a batch and reports it; a panic becomes an error.
    fn measured<T>(
        &self,
        (model, work): (&Generation, Work),
        batch: &[&TokenSeq],
        compute: impl FnOnce(&mut dyn Judge) -> Result<T>,
    ) -> Result<T> {
        let (items, tokens) = (batch.len(), batch.iter().map(|sequence| sequence.ids.len()).sum::<usize>());
        let started = Instant::now();
        let computed = caught(|| model.compute(compute));
        let seconds = started.elapsed().as_secs_f64();
        self.metrics.stage_seconds.with_label_values(&["score"]).observe(seconds);
        self.metrics.batch_tokens.observe(tokens as f64);
        let name = &model.name;
        match &computed {
            Ok(_) => {
                debug!(model = name, ?work, items, tokens, seconds, "scored");
                self.metrics.scored_items.inc_by(items as u64);
                self.metrics.scored_tokens.inc_by(tokens as u64);
            }
            Err(Error::NotFinite(_)) if items > 1 => {}
            // It is the client's.
            Err(Error::Field { .. }) => {}
            Err(cause) => error!(model = name, ?work, items, tokens, %cause, "scoring failed"),
        }
        computed
    }
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

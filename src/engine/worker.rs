//! The thread that owns the models.
//!
//! It warms every model up with a real forward (and backward, where there is a posterior), then takes
//! batches from the gate until that is closed. A failure or a panic while scoring fails its batch, is
//! logged once, and the thread goes on; a number that is not finite fails its item.

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
    queue::{Entry, Key, Want},
    registry::Model,
};
use crate::{
    Error, Result,
    score::{Estimate, Score},
    telemetry::metrics::Metrics,
    text::TokenSeq,
};

/// Tokens of the warm-up sequence; its values do not matter.
const WARM_UP: usize = 8;

/// The models and everything the thread shares with the handle.
pub struct Worker {
    pub models: Vec<Model>,
    pub gate: Arc<Gate>,
    pub health: Arc<watch::Sender<Health>>,
    pub metrics: Arc<Metrics>,
}

impl Worker {
    /// Warms up, then answers batches until the gate is closed.
    pub fn run(mut self) {
        if let Err(error) = self.warm_up() {
            self.health.send_replace(Health::Failed(error.to_string()));
            return;
        }
        self.health.send_if_modified(|health| {
            let starting = *health == Health::Starting;
            if starting {
                *health = Health::Ready;
            }
            starting
        });
        while let Some(batch) = self.gate.next_batch() {
            for (reason, dropped) in [("gone", &batch.gone), ("late", &batch.late)] {
                self.metrics.dropped_items.with_label_values(&[reason]).inc_by(dropped.len() as u64);
            }
            for entry in batch.late {
                answer(entry, Err(Error::Deadline));
            }
            if !batch.entries.is_empty() {
                self.score(batch.entries);
            }
        }
    }

    fn warm_up(&mut self) -> Result<()> {
        for model in &mut self.models {
            let served = &model.served;
            let started = Instant::now();
            let tokens = WARM_UP.min(served.max_length).max(1);
            let sequence = TokenSeq { ids: vec![0; tokens], pooled: tokens - 1, truncated: false };
            let want = if served.has_posterior { Want::Variance } else { Want::Mean };
            score_caught(model.scorer.as_mut(), &[&sequence], want)
                .and_then(|estimates| finite(estimates[0], want))
                .map_err(|e| Error::Internal(format!("warm-up of model `{}`: {e}", served.name)))?;
            let seconds = started.elapsed().as_secs_f64();
            info!(model = served.name, posterior = served.has_posterior, seconds, "model is warm");
        }
        Ok(())
    }

    /// Scores entries of one key and answers each.
    fn score(&mut self, entries: Vec<Entry<Waiting>>) {
        let Key { model, want } = entries[0].key;
        let tokens: usize = entries.iter().map(|entry| entry.tokens).sum();
        let started = Instant::now();
        let queued = self.metrics.stage_seconds.with_label_values(&["queue"]);
        for entry in &entries {
            queued.observe((started - entry.payload.since).as_secs_f64());
        }
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
                for (entry, estimate) in entries.into_iter().zip(estimates) {
                    answer(entry, finite(estimate, want));
                }
            }
            Err(cause) => {
                error!(model = name, ?want, items, tokens, %cause, "scoring failed");
                for entry in entries {
                    answer(entry, Err(Error::Internal("scoring failed".into())));
                }
            }
        }
    }
}

/// Answers an entry; that the client has gone by now is nobody's fault.
fn answer(entry: Entry<Waiting>, result: Result<Estimate>) {
    let _ = entry.payload.reply.send(result);
}

/// Scores a batch; a panic becomes an error, as does a wrong number of estimates.
fn score_caught(scorer: &mut dyn Score, batch: &[&TokenSeq], want: Want) -> Result<Vec<Estimate>> {
    let estimates = catch_unwind(AssertUnwindSafe(|| scorer.score(batch, want == Want::Variance)))
        .unwrap_or_else(|panic| Err(Error::Internal(format!("panic: {}", panic_message(&*panic)))))?;
    if estimates.len() != batch.len() {
        let (got, want) = (estimates.len(), batch.len());
        return Err(Error::Internal(format!("{got} estimates for {want} sequences")));
    }
    Ok(estimates)
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

/// Refuses an estimate that is not a number, or whose variance is negative or missing.
fn finite(estimate: Estimate, want: Want) -> Result<Estimate> {
    let variance = match (estimate.variance, want) {
        (None, Want::Variance) => return Err(Error::NotFinite("variance: missing".into())),
        (variance, _) => variance.unwrap_or_default(),
    };
    if !estimate.mean.is_finite() {
        return Err(Error::NotFinite(format!("mean: {}", estimate.mean)));
    }
    if !variance.is_finite() || variance < 0.0 {
        return Err(Error::NotFinite(format!("variance: {variance}")));
    }
    Ok(estimate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_finite_estimates_pass() {
        let table = [
            (1.0, Some(0.5), Want::Variance, true),
            (1.0, None, Want::Mean, true),
            (1.0, None, Want::Variance, false),
            (f64::NAN, Some(0.5), Want::Variance, false),
            (f64::INFINITY, None, Want::Mean, false),
            (1.0, Some(f64::NAN), Want::Variance, false),
            (1.0, Some(-1e-9), Want::Variance, false),
        ];
        for (mean, variance, want, passes) in table {
            assert_eq!(
                finite(Estimate { mean, variance }, want).is_ok(),
                passes,
                "{mean} {variance:?} {want:?}"
            );
        }
    }
}

//! A model in service: what requests know of it and what scores for it, as one that never changes.
//!
//! A request holds the generation that it found, from admission to its answer, and scores with nothing else: adapter, head,
//! posterior, template and scale cannot be mixed. Another model under the same name is another generation; the one before it
//! ends with the last request that holds it. A number stands for a generation wherever entries are compared: in batches, in the
//! lines of fairness, in the cache.

use std::{
    ops::Deref,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use super::registry::{Model, Served};
use crate::{
    Result,
    score::{Estimate, Judge},
    telemetry::{drift::Drift, metrics::Metrics},
};

/// A model, from when it came into service.
pub struct Generation {
    served: Served,
    number: u64,
    created: u64,
    used: AtomicU64,
    seat: Mutex<Seat>,
}

/// What only the scorer's thread touches once the model is in service.
struct Seat {
    scorer: Box<dyn Judge>,
    drift: Option<Drift>,
}

impl std::fmt::Debug for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generation").field("served", &self.served).field("number", &self.number).finish()
    }
}

/// What requests know of it.
impl Deref for Generation {
    type Target = Served;

    fn deref(&self) -> &Served {
        &self.served
    }
}

impl Generation {
    /// Takes a model into service under a number that no other has had.
    pub fn new(Model { served, scorer }: Model, number: u64) -> Arc<Self> {
        let drift = served.novelty.as_ref().and_then(Drift::new);
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let seat = Mutex::new(Seat { scorer, drift });
        Arc::new(Self { served, number, created, used: AtomicU64::new(0), seat })
    }

    /// What stands for it.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Seconds since 1970, when it came into service.
    pub fn created(&self) -> u64 {
        self.created
    }

    /// When it was last asked for, in uses of any model.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Notes that it is asked for.
    pub(super) fn use_at(&self, now: u64) {
        self.used.fetch_max(now, Ordering::Relaxed);
    }

    /// Computes with the scorer. After a panic it goes on as it was: what scores has no state between batches.
    pub(super) fn compute<T>(&self, compute: impl FnOnce(&mut dyn Judge) -> Result<T>) -> Result<T> {
        compute(self.seat.lock().unwrap_or_else(PoisonError::into_inner).scorer.as_mut())
    }

    /// Reports how far the contractions have moved by now.
    pub(super) fn follow(&self, estimates: impl Iterator<Item = Estimate>, metrics: &Metrics) {
        let mut seat = self.seat.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(drift) = &mut seat.drift else { return };
        estimates
            .filter_map(|estimate| estimate.contraction)
            .for_each(|contraction| drift.add(1.0 - contraction));
        if let Some(index) = drift.index() {
            metrics.drift.with_label_values(&[&self.served.name]).set(index);
        }
    }
}

//! The one admission point: the queue behind a lock, shared by the requests and the worker.
//!
//! A request takes a [`Ticket`] before it is tokenised and trades it for entries afterwards; a ticket that
//! is dropped on the way, because the input was wrong or the client left, gives its share back. The lock
//! is held for moves of a few pointers, never while anything is computed.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::{
    pace::Pace,
    queue::{Batch, Entry, Load, Queue, Work},
    task::Waiting,
    terms::Terms,
};
use crate::{Error, Result, telemetry::metrics::Metrics};

/// The shared queue; the worker sleeps on it while it is empty.
#[derive(Debug)]
pub struct Gate {
    state: Mutex<State>,
    filled: Condvar,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct State {
    queue: Queue<Waiting>,
    /// From one batch to the next.
    pace: Pace,
    closed: bool,
}

/// A share of the queue's bounds, given back when dropped.
#[derive(Debug)]
pub struct Ticket {
    gate: Arc<Gate>,
    load: Load,
}

impl Gate {
    /// Puts a queue behind a lock.
    pub fn new(queue: Queue<Waiting>, metrics: Arc<Metrics>) -> Self {
        Self {
            state: Mutex::new(State { queue, pace: Pace::default(), closed: false }),
            filled: Condvar::new(),
            metrics,
        }
    }

    /// Admits a request of this load, or says why it had better come later: the queue is full, or the request's time would run
    /// out in it.
    pub fn admit(self: &Arc<Self>, load: Load, work: Work, terms: &Terms) -> Result<Ticket> {
        let mut state = self.lock();
        let State { queue, pace, .. } = &mut *state;
        let now = Instant::now();
        let wait = queue.wait(work, pace).saturating_add(pace.rest(now));
        let left = terms.deadline.saturating_duration_since(now);
        if wait > left {
            return Err(Error::Hopeless { wait, retry: wait.saturating_sub(terms.timeout) });
        }
        queue.reserve(load).map_err(|excess| Error::Overloaded { retry: pace.of(work, excess.tokens) })?;
        self.report(queue);
        Ok(Ticket { gate: Arc::clone(self), load })
    }

    /// What counts against the bounds.
    pub fn load(&self) -> Load {
        self.lock().queue.load()
    }

    /// Waits for entries and takes a batch; `None` once the gate is closed and everything was taken.
    pub fn next_batch(&self) -> Option<Batch<Waiting>> {
        let mut state = self.lock();
        state.pace.end(Instant::now());
        while state.queue.is_empty() {
            if state.closed {
                return None;
            }
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let now = Instant::now();
        let batch = state.queue.next_batch(now, |waiting| waiting.task.is_gone());
        if let Some(first) = batch.entries.first() {
            let tokens = batch.entries.iter().map(|entry| entry.tokens).sum();
            state.pace.begin(first.key.work, tokens, now);
        }
        self.report(&state.queue);
        Some(batch)
    }

    /// Lets the worker end once it has taken everything.
    pub fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_all();
    }

    fn change<R>(&self, change: impl FnOnce(&mut Queue<Waiting>) -> R) -> R {
        let mut state = self.lock();
        let result = change(&mut state.queue);
        self.report(&state.queue);
        result
    }

    fn report(&self, queue: &Queue<Waiting>) {
        let Load { tokens, items } = queue.load();
        self.metrics.queue_tokens.set(i64::try_from(tokens).unwrap_or(i64::MAX));
        self.metrics.queue_items.set(i64::try_from(items).unwrap_or(i64::MAX));
    }

    /// The queue is whole between any two of its methods, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// Trades the share for entries and wakes the worker.
    pub fn fill(mut self, entries: Vec<Entry<Waiting>>) {
        let reserved = std::mem::take(&mut self.load);
        self.gate.change(|queue| queue.fill(reserved, entries));
        self.gate.filled.notify_one();
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.load != Load::default() {
            self.gate.change(|queue| queue.release(self.load));
        }
    }
}

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
    queue::{Batch, Entry, Load, Queue},
    task::Waiting,
};
use crate::{Result, telemetry::metrics::Metrics};

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
        Self { state: Mutex::new(State { queue, closed: false }), filled: Condvar::new(), metrics }
    }

    /// Admits a request of this load, or says that the queue is full.
    pub fn admit(self: &Arc<Self>, load: Load) -> Result<Ticket> {
        self.change(|queue| queue.reserve(load))?;
        Ok(Ticket { gate: Arc::clone(self), load })
    }

    /// What counts against the bounds.
    pub fn load(&self) -> Load {
        self.lock().queue.load()
    }

    /// Waits for entries and takes a batch; `None` once the gate is closed and everything was taken.
    pub fn next_batch(&self) -> Option<Batch<Waiting>> {
        let mut state = self.lock();
        while state.queue.is_empty() {
            if state.closed {
                return None;
            }
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let batch = state.queue.next_batch(Instant::now(), |waiting| waiting.task.is_gone());
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

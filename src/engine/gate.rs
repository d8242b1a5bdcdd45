//! The one admission point: the queue behind a lock, shared by the requests and the worker.
//!
//! A request takes a [`Ticket`] before it is tokenised and trades it for entries afterwards, which it keeps until
//! they are answered; one that is dropped on the way, because the input was wrong or the client left, gives its share back. The lock
//! is held for moves of a few pointers, never while anything is computed.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::{
    fair::Whose,
    pace::Pace,
    queue::{Batch, Entry, Key, Load, Queue, load_of},
    rate::{Accounts, Allowance},
    task::Task,
    terms::{Client, Terms},
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
    queue: Queue<Task>,
    /// From one batch to the next.
    pace: Pace,
    accounts: Accounts,
    closed: bool,
}

/// A share of the queue's bounds, and a place among the requests of its client; given back when dropped.
#[derive(Debug)]
pub struct Ticket {
    gate: Arc<Gate>,
    client: Client,
    load: Load,
}

impl Gate {
    /// Puts a queue behind a lock.
    pub fn new(queue: Queue<Task>, allowance: Allowance, metrics: Arc<Metrics>) -> Self {
        let (pace, accounts) = (Pace::default(), Accounts::new(allowance));
        let state = State { queue, pace, accounts, closed: false };
        Self { state: Mutex::new(state), filled: Condvar::new(), metrics }
    }

    /// Admits a request of this load, or says why it had better come later.
    pub fn admit(self: &Arc<Self>, load: Load, key: Key, terms: &Terms) -> Result<Ticket> {
        let mut state = self.lock();
        state.admit(load, key, terms, Instant::now())?;
        self.report(&state.queue);
        Ok(Ticket { gate: Arc::clone(self), client: terms.client.clone(), load })
    }

    /// What counts against the bounds.
    pub fn load(&self) -> Load {
        self.lock().queue.load()
    }

    /// Waits for entries and takes a batch; `None` once the gate is closed and everything was taken.
    pub fn next_batch(&self) -> Option<Batch<Task>> {
        let mut state = self.lock();
        state.pace.end(Instant::now());
        while state.queue.is_empty() {
            if state.closed {
                return None;
            }
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let now = Instant::now();
        let batch = state.queue.next_batch(now, |task| task.fate(now));
        if let Some(first) = batch.entries.first() {
            state.pace.begin(first.key.work, load_of(&batch.entries).tokens, now);
        }
        self.report(&state.queue);
        Some(batch)
    }

    /// Lets the worker end once it has taken everything.
    pub fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_all();
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        self.report(&state.queue);
    }

    fn report(&self, queue: &Queue<Task>) {
        let Load { tokens, items } = queue.load();
        self.metrics.queue_tokens.set(i64::try_from(tokens).unwrap_or(i64::MAX));
        self.metrics.queue_items.set(i64::try_from(items).unwrap_or(i64::MAX));
    }

    /// The queue is whole between any two of its methods, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Admits a request unless its client has enough under way, its time would run out in the queue, or that is full.
    fn admit(&mut self, load: Load, key: Key, terms: &Terms, now: Instant) -> Result<()> {
        let Self { queue, pace, accounts, .. } = self;
        let Terms { client, priority, deadline, timeout, .. } = terms.clone();
        accounts.check(&client, now)?;
        let whose = Whose { priority, client, model: key.model };
        let wait = queue.wait(&whose, key.work, load.tokens, pace).saturating_add(pace.rest(now));
        if wait > deadline.saturating_duration_since(now) {
            return Err(Error::Hopeless { wait, retry: wait.saturating_sub(timeout) });
        }
        queue
            .reserve(load)
            .map_err(|excess| Error::Overloaded { retry: pace.of(key.work, excess.tokens) })?;
        accounts.enter(&whose.client, load, now);
        Ok(())
    }
}

impl Ticket {
    /// Trades the share for entries and wakes the worker; the place stays until the ticket is dropped. What the cache knows, or
    /// somebody else has computed, is not charged.
    pub fn fill(&mut self, entries: Vec<Entry<Task>>) {
        let reserved = std::mem::take(&mut self.load);
        self.gate.change(|state| {
            state.accounts.settle(&self.client, reserved, load_of(&entries), Instant::now());
            state.queue.fill(reserved, entries);
        });
        self.gate.filled.notify_one();
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.gate.change(|state| {
            state.accounts.leave(&self.client, Instant::now());
            state.queue.release(self.load);
        });
    }
}

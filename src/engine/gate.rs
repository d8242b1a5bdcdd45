//! The one admission point: the queue behind a lock, shared by the requests and the worker.
//!
//! A request takes a [`Ticket`] before it is tokenised and trades it for entries afterwards, which it keeps until
//! they are answered; one that is dropped on the way, because the input was wrong or the client left, gives its share back. The lock
//! is held for moves of a few pointers, never while anything is computed.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    fair::Whose,
    pace::Pace,
    queue::{Batch, Entry, Key, Load, Queue, load_of},
    rate::{Accounts, Allowance},
    shares::Shares,
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
    /// What is computed without the model.
    aside: Shares,
    /// From one batch to the next.
    pace: Pace,
    accounts: Accounts,
    closed: bool,
}

/// A share of the queue's bounds, and a place among the requests of its client; given back when dropped.
#[derive(Debug)]
pub struct Ticket {
    gate: Arc<Gate>,
    whose: Whose,
    /// What its client was charged.
    charged: Load,
    /// What is reserved in the queue.
    reserved: Load,
}

impl Gate {
    /// Makes an empty queue behind a lock, and as much room for what is computed without the model.
    pub fn new(bounds: Load, batch_tokens: usize, allowance: Allowance, metrics: Arc<Metrics>) -> Self {
        let (queue, aside) = (Queue::new(bounds, batch_tokens), Shares::new(bounds));
        let (pace, accounts) = (Pace::default(), Accounts::new(allowance));
        let state = State { queue, aside, pace, accounts, closed: false };
        Self { state: Mutex::new(state), filled: Condvar::new(), metrics }
    }

    /// Admits a request of this load, or says why it had better come later.
    pub fn admit(self: &Arc<Self>, load: Load, key: Key, terms: &Terms) -> Result<Ticket> {
        let Terms { client, priority, .. } = terms.clone();
        let whose = Whose { priority, client, model: key.model };
        let mut state = self.lock();
        let reserved = state.admit(load, &whose, key, terms, Instant::now())?;
        self.report(&state.queue);
        Ok(Ticket { gate: Arc::clone(self), whose, charged: load, reserved })
    }

    /// Admits work of this load that is not the model's, or says why it had better come later.
    pub fn aside(self: &Arc<Self>, load: Load, terms: &Terms) -> Result<Aside> {
        let (client, now) = (&terms.client, Instant::now());
        let mut state = self.lock();
        state.accounts.check(client, now)?;
        let counted =
            state.aside.take(client, load).map_err(|_| Error::Overloaded { retry: Duration::ZERO })?;
        state.accounts.enter(client, load, now);
        Ok(Aside { gate: Arc::clone(self), client: client.clone(), counted })
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
    /// Admits a request unless its client has enough under way, its time would run out in the queue, or its share of that is used
    /// up; and tells what is reserved.
    fn admit(&mut self, load: Load, whose: &Whose, key: Key, terms: &Terms, now: Instant) -> Result<Load> {
        let Self { queue, pace, accounts, .. } = self;
        accounts.check(&whose.client, now)?;
        let wait = queue.wait(whose, key.work, load.tokens, pace).saturating_add(pace.rest(now));
        if wait > terms.deadline.saturating_duration_since(now) {
            return Err(Error::Hopeless { wait, retry: wait.saturating_sub(terms.timeout) });
        }
        let reserved = queue
            .reserve(whose, load)
            .map_err(|excess| Error::Overloaded { retry: pace.of(key.work, excess.tokens) })?;
        accounts.enter(&whose.client, load, now);
        Ok(reserved)
    }
}

impl Ticket {
    /// Trades the share for entries and wakes the worker; the place stays until the ticket is dropped. What the cache knows, or
    /// somebody else has computed, is not charged. More entries may follow, which are charged as they come.
    pub fn fill(&mut self, entries: Vec<Entry<Task>>) {
        let (reserved, charged) = (std::mem::take(&mut self.reserved), std::mem::take(&mut self.charged));
        self.gate.change(|state| {
            state.accounts.settle(&self.whose.client, charged, load_of(&entries), Instant::now());
            state.queue.fill(&self.whose, reserved, entries);
        });
        self.gate.filled.notify_one();
    }
}

/// A share of what is computed without the model; given back when dropped.
#[derive(Debug)]
pub struct Aside {
    gate: Arc<Gate>,
    client: Client,
    counted: Load,
}

impl Drop for Aside {
    fn drop(&mut self) {
        self.gate.change(|state| {
            state.accounts.leave(&self.client, Instant::now());
            state.aside.give_back(&self.client, self.counted);
        });
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.gate.change(|state| {
            state.accounts.leave(&self.whose.client, Instant::now());
            state.queue.release(&self.whose, self.reserved);
        });
    }
}

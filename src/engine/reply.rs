//! The way back from a computation to those who wait for it.

use std::{sync::Arc, time::Instant};

use tokio::sync::oneshot::{Receiver, Sender, channel};

use super::{
    cache::{Cache, Flight},
    queue::Fate,
    terms::Terms,
    times::{Stage, Stay},
};
use crate::{Error, Result};

/// Where an answer goes.
#[derive(Debug)]
pub enum Reply<T> {
    /// To one client.
    One(Waiter<T>),
    /// To the cache, and to all who wait there.
    Shared(Arc<Cache<T>>, Flight),
}

/// A client that waits until its deadline, or until it leaves.
#[derive(Debug)]
pub struct Waiter<T> {
    reply: Sender<Result<T>>,
    deadline: Instant,
    stay: Stay,
}

/// How an answer comes back, unless somebody computes it already, and where it will be.
pub type Way<T> = (Option<Reply<T>>, Receiver<Result<T>>);

impl<T: Clone> Reply<T> {
    /// The way to an answer that is computed for one client.
    pub fn alone(terms: &Terms) -> Way<T> {
        let (waiter, answer) = Waiter::new(terms);
        (Some(Self::One(waiter)), answer)
    }

    /// Whether somebody still waits.
    pub fn fate(&self, now: Instant) -> Fate {
        match self {
            Self::One(waiter) => waiter.fate(now),
            Self::Shared(cache, flight) => cache.fate(flight, now),
        }
    }

    /// Tells all who wait that it is being computed.
    pub fn begin(&mut self) {
        match self {
            Self::One(waiter) => waiter.begin(),
            Self::Shared(cache, flight) => cache.begin(flight),
        }
    }

    /// Answers.
    pub fn send(self, answer: Result<T>) {
        match self {
            Self::One(waiter) => waiter.answer(answer),
            Self::Shared(cache, flight) => cache.answer(&flight, answer),
        }
    }
}

impl<T> Waiter<T> {
    /// Somebody who waits, and where the answer will be.
    pub fn new(terms: &Terms) -> (Self, Receiver<Result<T>>) {
        let (reply, answer) = channel();
        (Self { reply, deadline: terms.deadline, stay: terms.times.enter(Stage::Queue) }, answer)
    }

    /// What it waits for is being computed.
    pub fn begin(&mut self) {
        self.stay.go(Stage::Score);
    }

    /// Whether it still waits.
    pub fn fate(&self, now: Instant) -> Fate {
        match self.reply.is_closed() {
            true => Fate::Gone,
            false if self.deadline <= now => Fate::Late,
            false => Fate::Live,
        }
    }

    /// Answers; that the client has gone by now is nobody's fault.
    pub fn answer(self, answer: Result<T>) {
        let Self { reply, stay, .. } = self;
        // The time is counted before the client can ask for it.
        drop(stay);
        drop(reply.send(answer));
    }
}

/// An answer that is there already.
pub fn known<T>(answer: T) -> Receiver<Result<T>> {
    let (reply, receiver) = channel();
    drop(reply.send(Ok(answer)));
    receiver
}

/// What a client is told of a computation that failed; the reason has been logged.
pub fn told(cause: &Error) -> Error {
    match cause {
        Error::NotFinite(what) => Error::NotFinite(what.clone()),
        _ => Error::Internal("scoring failed".into()),
    }
}

//! On what terms a request is served: until when, for whom, and how urgently.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Deserialize;

use super::times::Times;

/// A bound on what a request may take, past which a moment could not be represented.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// What is settled of a request before it is read.
#[derive(Debug, Clone)]
pub struct Terms {
    /// How long it may take.
    pub timeout: Duration,
    /// When that is over: what is not being scored by then is dropped.
    pub deadline: Instant,
    /// Whose it is.
    pub client: Client,
    /// Before whose it comes.
    pub priority: Priority,
    /// What its time goes into.
    pub times: Times,
}

/// The name of the key that was shown; everyone without one is the same client.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Client(pub Option<Arc<str>>);

/// How urgent a request is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Before all others.
    High,
    /// What a request is that does not say.
    #[default]
    Normal,
    /// After all others.
    Low,
}

impl Priority {
    /// The most urgent first.
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];

    /// Returns the name that requests give.
    pub fn name(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }

    /// Finds a priority by its name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|priority| priority.name() == name)
    }
}

impl Terms {
    /// Starts a request's time.
    pub fn new(timeout: Duration, client: Client, priority: Priority) -> Self {
        let timeout = timeout.min(LONGEST);
        Self { timeout, deadline: Instant::now() + timeout, client, priority, times: Times::start() }
    }

    /// The same with the whole time before it.
    pub fn again(&self) -> Self {
        Self { deadline: Instant::now() + self.timeout, ..self.clone() }
    }
}

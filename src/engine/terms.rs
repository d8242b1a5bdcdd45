//! On what terms a request is served.

use std::time::{Duration, Instant};

/// A bound on what a request may take, past which a moment could not be represented.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// What is settled of a request before it is read.
#[derive(Debug, Clone)]
pub struct Terms {
    /// How long it may take.
    pub timeout: Duration,
    /// When that is over: what is not being scored by then is dropped.
    pub deadline: Instant,
}

impl Terms {
    /// Starts a request's time.
    pub fn new(timeout: Duration) -> Self {
        let timeout = timeout.min(LONGEST);
        Self { timeout, deadline: Instant::now() + timeout }
    }

    /// The same with the whole time before it.
    pub fn again(&self) -> Self {
        Self { deadline: Instant::now() + self.timeout, ..self.clone() }
    }
}

//! What the time of a request goes into: tokenising, waiting, and being computed.
//!
//! Each of its sequences stays in one stage at a time, and the request is in the last stage that any of them is in. Its stages
//! do not overlap, so that their times add up to no more than the whole. Each is a span below the request's.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tracing::{Span, info_span};

/// What a request is waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// That its texts become tokens.
    Tokenize,
    /// Its turn; or that what somebody else has asked for already is computed.
    Queue,
    /// That a batch with some of its sequences is computed.
    Score,
}

impl Stage {
    /// In the order in which a sequence passes them.
    pub const ALL: [Self; 3] = [Self::Tokenize, Self::Queue, Self::Score];

    /// Returns the name in traces and headers, which is that in the metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tokenize => "tokenize",
            Self::Queue => "queue",
            Self::Score => "score",
        }
    }

    /// A span's name is fixed where it is written.
    fn span(self, request: &Span) -> Span {
        match self {
            Self::Tokenize => info_span!(parent: request, "tokenize"),
            Self::Queue => info_span!(parent: request, "queue"),
            Self::Score => info_span!(parent: request, "score"),
        }
    }
}

/// The times of one request, shared by all that work on it.
#[derive(Debug, Clone)]
pub struct Times(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    started: Instant,
    request: Span,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// How many sequences are in each stage.
    staying: [usize; 3],
    spent: [Duration; 3],
    /// The stage that the request is in, and since when.
    stage: Option<Stage>,
    since: Instant,
    /// Open while the request is in the stage.
    span: Span,
}

/// How long a request was in each stage, and in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spent {
    stages: [Duration; 3],
    /// From its beginning, reading it included.
    pub total: Duration,
}

/// A sequence in a stage, which it leaves when this is dropped.
#[derive(Debug)]
pub struct Stay {
    times: Times,
    stage: Stage,
}

impl Times {
    /// Begins a request's time, in the span that is open.
    pub fn start() -> Self {
        let now = Instant::now();
        let state = Mutex::new(State::new(now));
        Self(Arc::new(Shared { started: now, request: Span::current(), state }))
    }

    /// Lets a sequence, or all of them together, enter a stage.
    pub fn enter(&self, stage: Stage) -> Stay {
        self.change(|staying| staying[stage as usize] += 1);
        Stay { times: self.clone(), stage }
    }

    /// Returns what has been spent until now.
    pub fn spent(&self) -> Spent {
        let stages = self.change(|_| {});
        Spent { stages, total: self.0.started.elapsed() }
    }

    fn change(&self, change: impl FnOnce(&mut [usize; 3])) -> [Duration; 3] {
        // The counts are whole after every change, so that a panic elsewhere does not spoil them.
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.change(Instant::now(), &self.0.request, change);
        state.spent
    }
}

impl State {
    fn new(since: Instant) -> Self {
        Self { staying: [0; 3], spent: [Duration::ZERO; 3], stage: None, since, span: Span::none() }
    }

    /// Counts the time until now, and finds the stage that the request is in by what has changed.
    fn change(&mut self, now: Instant, request: &Span, change: impl FnOnce(&mut [usize; 3])) {
        if let Some(stage) = self.stage {
            self.spent[stage as usize] += now.saturating_duration_since(self.since);
        }
        self.since = now;
        change(&mut self.staying);
        let stage = Stage::ALL.into_iter().rev().find(|stage| self.staying[*stage as usize] > 0);
        if stage != self.stage {
            self.stage = stage;
            self.span = stage.map_or_else(Span::none, |stage| stage.span(request));
        }
    }
}

impl Stay {
    /// Goes on to another stage.
    pub fn go(&mut self, stage: Stage) {
        let from = std::mem::replace(&mut self.stage, stage);
        self.times.change(|staying| {
            staying[from as usize] -= 1;
            staying[stage as usize] += 1;
        });
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.times.change(|staying| staying[self.stage as usize] -= 1);
    }
}

impl Spent {
    /// Returns the time in one stage.
    pub fn of(&self, stage: Stage) -> Duration {
        self.stages[stage as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_in_the_last_stage_that_one_of_its_sequences_is_in() {
        let start = Instant::now();
        let mut state = State::new(start);
        // After so many milliseconds, how many sequences are in each stage from then on; and what was spent until then.
        for (at, staying, spent) in [
            (5, [1, 0, 0], [0, 0, 0]),
            (7, [0, 0, 0], [2, 0, 0]),
            (8, [0, 3, 0], [2, 0, 0]),
            (20, [0, 1, 2], [2, 12, 0]),
            // One of a batch has been answered, then the other; the third waits, and is computed.
            (50, [0, 1, 1], [2, 12, 30]),
            (60, [0, 1, 0], [2, 12, 40]),
            (75, [0, 0, 1], [2, 27, 40]),
            (90, [0, 0, 0], [2, 27, 55]),
            (200, [0, 0, 0], [2, 27, 55]),
        ] {
            state.change(start + Duration::from_millis(at), &Span::none(), |counts| *counts = staying);
            assert_eq!(state.spent, spent.map(Duration::from_millis), "{at}");
        }
    }

    #[test]
    fn a_sequence_leaves_where_it_was() {
        let times = Times::start();
        let staying = || times.0.state.lock().unwrap().staying;
        let mut one = times.enter(Stage::Queue);
        let other = times.enter(Stage::Queue);
        one.go(Stage::Score);
        assert_eq!(staying(), [0, 1, 1]);
        drop(one);
        assert_eq!(staying(), [0, 1, 0]);
        drop(other);
        assert_eq!(staying(), [0, 0, 0]);
        let Spent { stages, total } = times.spent();
        assert!(stages[1] > Duration::ZERO && stages.iter().sum::<Duration>() <= total);
    }
}

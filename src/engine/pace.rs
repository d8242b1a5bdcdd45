//! How fast the worker is, so that it can be told how long something will wait.
//!
//! Tokens a second, by what is computed of them: an exponential average over the time that was spent on it, in which a long
//! batch weighs more than a short one. What was never measured is taken to cost nothing: nobody is turned away on a guess.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::queue::Work;

/// Seconds of compute after which a measurement weighs half.
const HALF_LIFE: f64 = 5.0;

/// What was measured, and the batch that is being computed.
#[derive(Debug, Default)]
pub struct Pace {
    measured: HashMap<Work, Measured>,
    under_way: Option<UnderWay>,
}

#[derive(Debug, Default)]
struct Measured {
    tokens: f64,
    seconds: f64,
}

#[derive(Debug)]
struct UnderWay {
    work: Work,
    tokens: usize,
    since: Instant,
}

impl Pace {
    /// The worker takes a batch.
    pub fn begin(&mut self, work: Work, tokens: usize, now: Instant) {
        self.under_way = Some(UnderWay { work, tokens, since: now });
    }

    /// The worker is done with its batch, if it had one.
    pub fn end(&mut self, now: Instant) {
        let Some(UnderWay { work, tokens, since }) = self.under_way.take() else { return };
        let seconds = now.saturating_duration_since(since).as_secs_f64();
        let kept = 0.5_f64.powf(seconds / HALF_LIFE);
        let measured = self.measured.entry(work).or_default();
        measured.tokens = kept * measured.tokens + tokens as f64;
        measured.seconds = kept * measured.seconds + seconds;
    }

    /// How long it takes to compute this of so many tokens.
    pub fn of(&self, work: Work, tokens: usize) -> Duration {
        let measured = self.measured.get(&work).filter(|measured| measured.tokens > 0.0);
        let each = measured.map_or(0.0, |measured| measured.seconds / measured.tokens);
        Duration::try_from_secs_f64(each * tokens as f64).unwrap_or(Duration::MAX)
    }

    /// How long the batch that is being computed still takes.
    pub fn rest(&self, now: Instant) -> Duration {
        self.under_way.as_ref().map_or(Duration::ZERO, |UnderWay { work, tokens, since }| {
            self.of(*work, *tokens).saturating_sub(now.saturating_duration_since(*since))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::score::Want;

    const MEANS: Work = Work::Estimates(Want::Mean);

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    fn near(got: Duration, want: f64) -> bool {
        (got.as_secs_f64() - want).abs() < 1e-6
    }

    #[test]
    fn each_kind_has_its_pace_and_none_before_it_is_measured() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.end(now);
        assert_eq!(pace.of(MEANS, 100), Duration::ZERO);
        pace.begin(MEANS, 100, now);
        pace.end(now + seconds(2.0));
        pace.begin(Work::Selections, 100, now);
        pace.end(now + seconds(4.0));
        assert!(near(pace.of(MEANS, 50), 1.0) && near(pace.of(Work::Selections, 50), 2.0), "{pace:?}");
        assert_eq!(pace.of(Work::Embeddings, 50), Duration::ZERO);
    }

    #[test]
    fn a_pace_follows_what_was_computed_last() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.begin(MEANS, 100, now);
        pace.end(now + seconds(1.0));
        pace.begin(MEANS, 100, now);
        pace.end(now + seconds(HALF_LIFE));
        // The first weighs half by now: 5.5 s for 150 tokens.
        assert!(near(pace.of(MEANS, 150), 5.5), "{pace:?}");
    }

    #[test]
    fn of_a_batch_under_way_counts_what_is_left() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.begin(MEANS, 10, now);
        assert_eq!(pace.rest(now), Duration::ZERO);
        pace.end(now + seconds(1.0));
        pace.begin(MEANS, 20, now);
        assert!(near(pace.rest(now + seconds(0.5)), 1.5));
        assert_eq!(pace.rest(now + seconds(3.0)), Duration::ZERO);
        pace.end(now + seconds(2.0));
        assert_eq!(pace.rest(now), Duration::ZERO);
    }
}

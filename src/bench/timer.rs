//! Seconds of one run of something.

use crate::Result;
use std::time::{Duration, Instant};

/// Runs at least, of what is short.
const LEAST: usize = 3;

/// Times work that may be repeated.
#[derive(Debug, Clone, Copy)]
pub struct Timer {
    /// Runs begin until so much time has passed.
    budget: Duration,
}

impl Timer {
    /// Spends about `seconds` on each measurement.
    pub fn new(seconds: f64) -> Self {
        Self { budget: Duration::try_from_secs_f64(seconds).unwrap_or(Duration::ZERO) }
    }

    /// Returns the seconds of one run.
    pub fn once(work: impl FnOnce() -> Result<()>) -> Result<f64> {
        let started = Instant::now();
        work()?;
        Ok(started.elapsed().as_secs_f64())
    }

    /// Returns the median seconds of a run: after one that is not counted, as many as fit into the time; at least three, or
    /// one where a single run takes more than all of it.
    pub fn seconds(&self, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
        let started = Instant::now();
        work()?;
        let least = if started.elapsed() > self.budget { 1 } else { LEAST };
        let (started, mut runs) = (Instant::now(), Vec::new());
        while runs.len() < least || started.elapsed() < self.budget {
            let run = Instant::now();
            work()?;
            runs.push(run.elapsed().as_secs_f64());
        }
        Ok(median(&mut runs))
    }
}

/// The middle of some numbers, 0 of none.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let (upper, lower) = (values.len() / 2, values.len().saturating_sub(1) / 2);
    // A clock that did not move is no speed without bounds.
    values.get(lower).zip(values.get(upper)).map_or(0.0, |(a, b)| (a + b) / 2.0).max(1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn short_work_is_repeated_and_long_work_is_not() {
        let runs = |seconds, pause| {
            let mut count = 0;
            let work = || {
                count += 1;
                std::thread::sleep(Duration::from_millis(pause));
                Ok(())
            };
            Timer::new(seconds).seconds(work).unwrap();
            count
        };
        assert_eq!(runs(0.0, 2), 2);
        assert!(runs(0.05, 0) > 4);
    }
}

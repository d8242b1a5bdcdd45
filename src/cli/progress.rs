//! How far long work has come, on standard error: a bar where that is a terminal, elsewhere a line now and then.

use indicatif::{ProgressBar, ProgressStyle};
use std::time::{Duration, Instant};

/// Between two lines, where there is no terminal.
const EVERY: Duration = Duration::from_secs(30);

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Tokens,
    Bytes,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Tokens => "tokens",
            Self::Bytes => "bytes",
        }
    }

    fn template(self) -> &'static str {
        match self {
            Self::Tokens => "{bar:30} {human_pos}/{human_len} tokens, {per_sec}, {eta} left {msg}",
            Self::Bytes => {
                "{bar:30} {binary_bytes}/{binary_total_bytes}, {binary_bytes_per_sec}, {eta} left {msg}"
            }
        }
    }
}

/// Progress in tokens or bytes.
#[derive(Debug)]
pub struct Progress {
    unit: Unit,
    bar: ProgressBar,
    started: Instant,
    /// What was there at the start: it says nothing about the speed.
    before: usize,
    done: usize,
    all: usize,
    message: String,
    /// When the last line was written; `None` where a bar is shown.
    line: Option<Instant>,
}

impl Progress {
    /// Of `all` tokens or bytes, `before` of them from an earlier run.
    pub fn new(unit: Unit, before: usize, all: usize) -> Self {
        let style = ProgressStyle::with_template(unit.template());
        let bar = ProgressBar::new(all as u64).with_position(before as u64);
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.reset_eta();
        let started = Instant::now();
        let line = bar.is_hidden().then_some(started);
        Self { unit, bar, started, before, done: before, all, message: String::new(), line }
    }

    /// So much more is done.
    pub fn add(&mut self, more: usize) {
        self.set(self.done + more, String::new());
    }

    /// So much was done in an earlier run.
    pub fn skip(&mut self, more: usize) {
        self.before += more;
        self.add(more);
        self.bar.reset_eta();
    }

    /// So much is done in all; `message` says more, a step or a loss.
    pub fn set(&mut self, done: usize, message: String) {
        (self.done, self.message) = (done, message);
        self.bar.set_position(done as u64);
        self.bar.set_message(self.message.clone());
        if self.line.is_some_and(|last| last.elapsed() >= EVERY) {
            self.line = Some(Instant::now());
            eprintln!("{}", self.describe(self.started.elapsed()));
        }
    }

    /// Leaves the bar as it is.
    pub fn finish(&self) {
        self.bar.abandon();
    }

    fn describe(&self, elapsed: Duration) -> String {
        let per_second = (self.done - self.before) as f64 / elapsed.as_secs_f64().max(1e-9);
        let left = self.all.saturating_sub(self.done) as f64 / per_second.max(1e-9);
        let message = match self.message.is_empty() {
            true => String::new(),
            false => format!("{}, ", self.message),
        };
        let (done, all, unit, left) = (self.done, self.all, self.unit.name(), time(left));
        format!("{message}{done}/{all} {unit}, {per_second:.0} {unit}/s, {left} left")
    }
}

fn time(seconds: f64) -> String {
    match seconds {
        s if s < 99.5 => format!("{s:.0} s"),
        s if s < 99.5 * 60.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_and_how_long() {
        let mut progress = Progress::new(Unit::Tokens, 100, 1000);
        progress.set(300, "step 3/10, loss 0.5".into());
        let line = progress.describe(Duration::from_secs(4));
        assert_eq!(line, "step 3/10, loss 0.5, 300/1000 tokens, 50 tokens/s, 14 s left");
        progress.skip(200);
        progress.add(50);
        assert_eq!(progress.describe(Duration::from_secs(5)), "550/1000 tokens, 50 tokens/s, 9 s left");
        assert_eq!((time(600.0), time(36_000.0)), ("10 min".into(), "10.0 h".into()));
    }

    #[test]
    fn nothing_done_is_no_division_by_zero() {
        assert!(Progress::new(Unit::Bytes, 0, 10).describe(Duration::ZERO).contains("0/10 bytes, 0 bytes/s"));
    }
}

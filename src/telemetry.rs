//! Logs, metrics and traces.
//!
//! Logs go to stderr as text or as JSON lines, one for each request, with route, status, latency and
//! sizes. What is scored is never logged, at any level. Lines are written by a thread of their own: where nobody reads them, they are lost,
//! and no request waits for that. A request's spans can be exported, where the program was built for it.

use std::io::{self, IsTerminal};

use clap::ValueEnum;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

use crate::{Error, Result};

pub mod drift;
pub mod metrics;
#[cfg(feature = "otlp")]
mod otlp;
pub mod trace;

/// Lines that wait to be written.
const LINES: usize = 8192;

/// How log lines are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people; coloured on a terminal.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging; `filter` is a level or a list like `info,rewarden=debug`. Once a process: a second call
/// is an error. Spans are exported until what is returned is dropped.
pub fn init(format: Format, filter: &str) -> Result<Telemetry> {
    let filter =
        EnvFilter::try_new(filter).map_err(|e| Error::Usage(format!("log filter `{filter}`: {e}")))?;
    let builder = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(LINES).thread_name("logs");
    let (writer, lines_writer) = builder.finish(io::stderr());
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    let lines = match format {
        Format::Text => layer.with_ansi(io::stderr().is_terminal()).boxed(),
        Format::Json => layer.json().flatten_event(true).with_current_span(true).boxed(),
    };
    // Quiet logs do not make for fewer spans.
    let subscriber = tracing_subscriber::registry().with(lines.with_filter(filter));
    #[cfg(feature = "otlp")]
    let (subscriber, exporter) = {
        let (spans, exporter) = otlp::open()?.unzip();
        (subscriber.with(spans), exporter)
    };
    subscriber.try_init().map_err(|e| Error::Usage(format!("logging: {e}")))?;
    Ok(Telemetry {
        _lines: lines_writer,
        #[cfg(feature = "otlp")]
        _exporter: exporter,
    })
}

/// What must be kept until the program ends.
#[derive(Debug)]
pub struct Telemetry {
    /// Writes what is left at its end.
    _lines: WorkerGuard,
    #[cfg(feature = "otlp")]
    _exporter: Option<otlp::Exporter>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_is_wrong_is_named_and_logging_starts_once() {
        let message = init(Format::Text, "rewarden=loud").unwrap_err().to_string();
        assert!(message.starts_with("log filter `rewarden=loud`"), "{message}");
        init(Format::Json, "info,rewarden=debug").unwrap();
        assert!(init(Format::Text, "info").is_err());
    }
}

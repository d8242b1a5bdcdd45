//! The closed set of things that can go wrong, each naming its file, line or field.
//!
//! The enum does not know HTTP: `http/error.rs` holds the only table from variant to status.
//! Messages are lowercase, without a full stop, and end in a `hint:` where there is a remedy.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// What can fail, with the one error of the program.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused a file.
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    /// A file was read but what it holds is wrong; the message names the tensor, key or value.
    #[error("{}: {message}", path.display())]
    File { path: PathBuf, message: String },
    /// A line (counted from 1) of a JSONL file, or a row of a Parquet file, is wrong.
    #[error("{}:{line}: {message}", path.display())]
    Line { path: PathBuf, line: usize, message: String },
    /// A model on the hub, `org/name@revision`, or a file of it, cannot be had.
    #[error("{name}: {message}")]
    Hub { name: String, message: String },
    /// A field of a request or item is missing or invalid.
    #[error("{field}: {message}")]
    Field { field: String, message: String },
    /// One of several inputs is wrong, the one at this place.
    #[error("{place}: {source}")]
    At { place: String, source: Box<Error> },
    /// More tokens than the model, or the limit given, allows.
    #[error("input has {}{tokens} tokens, more than the limit of {limit} (hint: set `truncation`)", if *more { "more than " } else { "" })]
    TooLong {
        tokens: usize,
        /// Whether there are more, which were not counted.
        more: bool,
        limit: usize,
    },
    /// A command-line value is wrong, or two do not go together.
    #[error("{0}")]
    Usage(String),
    /// No model is served under this name.
    #[error("unknown model: {0}")]
    UnknownModel(String),
    /// The queue is full; it will probably have room after this time.
    #[error("overloaded: the queue is full (hint: retry later)")]
    Overloaded { retry: Duration },
    /// The request's time would run out in the queue; it probably would not, if it came after `retry`.
    #[error("overloaded: the request's time would run out in the queue, which takes about {:.1} s (hint: retry later, or allow more time)", wait.as_secs_f64())]
    Hopeless { wait: Duration, retry: Duration },
    /// A client has as much under way as it may.
    #[error("too many {what} (hint: retry later)")]
    Limited { what: &'static str, retry: Duration },
    /// The service is starting or shutting down.
    #[error("not ready")]
    NotReady,
    /// The request's time ran out before it was scored.
    #[error("deadline exceeded")]
    Deadline,
    /// A score or a loss came out as NaN or infinite.
    #[error("not a finite number: {0}")]
    NotFinite(String),
    /// A tensor operation failed; internal, never shown to a client.
    #[error("compute: {0}")]
    Compute(#[from] candle_core::Error),
    /// Something failed that has been logged where it happened; never shown to a client.
    #[error("internal: {0}")]
    Internal(String),
}

impl Error {
    /// Makes, of what the operating system says, an error about `path`.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { path, source }
    }

    /// Makes an error about what a file holds.
    pub fn file(path: impl AsRef<Path>, message: impl std::fmt::Display) -> Self {
        Self::File { path: path.as_ref().to_path_buf(), message: message.to_string() }
    }

    /// Makes an error about one field of a request or item.
    pub fn field(field: impl Into<String>, message: impl std::fmt::Display) -> Self {
        Self::Field { field: field.into(), message: message.to_string() }
    }

    /// Puts another field's name in the place of the one that was found wrong.
    pub fn renamed(self, field: &str) -> Self {
        match self {
            Self::Field { message, .. } => Self::field(field, message),
            other => other,
        }
    }
}

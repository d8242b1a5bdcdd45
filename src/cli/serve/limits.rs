//! How much the service takes on.

use std::time::Duration;

use clap::builder::RangedU64ValueParser;

use crate::{
    engine::{
        self,
        rate::{Allowance, Rate},
    },
    http,
};

/// Flags about bounds.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Limits")]
pub struct Limits {
    /// Longest sequence in tokens [default: the model's]. A variance takes about 0.7 MB of memory for each token of a
    /// batch with the embedded model, in general 4 bytes x layers x (4 hidden + 2 key-value + 2 intermediate sizes); a
    /// mean takes a layer's share of it
    #[arg(long, value_name = "TOKENS", value_parser = count(), env = "REWARDEN_MAX_LENGTH")]
    pub max_length: Option<usize>,
    /// Most tokens in one batch; a longer sequence runs alone
    #[arg(long, value_name = "TOKENS", value_parser = count(), env = "REWARDEN_BATCH_TOKENS")]
    #[arg(default_value_t = engine::Config::BATCH_TOKENS)]
    batch_tokens: usize,
    /// Tokens that may wait; past them requests get 503 with Retry-After
    #[arg(long, value_name = "TOKENS", value_parser = count(), env = "REWARDEN_QUEUE_TOKENS")]
    #[arg(default_value_t = 131_072)]
    queue_tokens: usize,
    /// Items that may wait
    #[arg(long, value_name = "ITEMS", value_parser = count(), default_value_t = 4096, env = "REWARDEN_QUEUE_ITEMS")]
    queue_items: usize,
    /// Megabytes of results that are kept, and given to whoever asks for the same tokens again; equal ones that come at once are then
    /// computed once. 0 computes everything: how fast an answer comes would tell clients what others have asked for, and a load test
    /// that repeats itself would measure the cache
    #[arg(long, value_name = "MIB", value_parser = mebibytes(), default_value_t = 0, env = "REWARDEN_CACHE_MIB")]
    cache_mib: usize,
    /// Requests of one key that are answered at once; more get 429 with Retry-After. Without keys all clients are one [default: any]
    #[arg(long, value_name = "REQUESTS", value_parser = count(), env = "REWARDEN_KEY_CONCURRENCY")]
    key_concurrency: Option<usize>,
    /// Tokens a second that one key may ask for, or items with `items` behind the number; more get 429 with Retry-After [default: any]
    #[arg(long, value_name = "TOKENS|Nitems", env = "REWARDEN_KEY_RATE")]
    key_rate: Option<Rate>,
    /// Items of one request
    #[arg(long, value_name = "ITEMS", value_parser = count(), default_value_t = 256, env = "REWARDEN_MAX_ITEMS")]
    max_items: usize,
    /// Items of one request whose answer is a stream
    #[arg(long, value_name = "ITEMS", value_parser = count(), env = "REWARDEN_MAX_STREAM_ITEMS")]
    #[arg(default_value_t = 65_536)]
    max_stream_items: usize,
    /// Bytes of a request's body
    #[arg(long, value_name = "BYTES", value_parser = count(), default_value_t = 8 << 20, env = "REWARDEN_BODY_LIMIT")]
    body_limit: usize,
    /// Megabytes of the bodies of all requests under way, of which one key may have four fifths; past them requests get 503.
    /// A parsed request takes several times its body's bytes
    #[arg(long, value_name = "MIB", value_parser = mebibytes(), default_value_t = 128, env = "REWARDEN_BODIES_MIB")]
    bodies_mib: usize,
    /// Connections that are open at once; a further one takes the place of the longest idle one, or waits for one to end
    #[arg(long, value_parser = count(), default_value_t = 512, env = "REWARDEN_CONNECTIONS")]
    connections: usize,
    /// Connections of one address; more are hung up on. Set it to that of --connections where all clients come through one proxy
    /// [default: seven eighths of --connections]
    #[arg(long, value_parser = count(), env = "REWARDEN_PEER_CONNECTIONS")]
    peer_connections: Option<usize>,
    /// Seconds that a client may take to send a request's headers before it is hung up on
    #[arg(long, value_name = "SECONDS", value_parser = seconds(1), env = "REWARDEN_HEADER_TIMEOUT")]
    #[arg(default_value_t = 10)]
    header_timeout: u64,
    /// Seconds that a request may take, from the end of its headers, before it gets 504
    #[arg(long, value_name = "SECONDS", value_parser = seconds(1), default_value_t = 120, env = "REWARDEN_TIMEOUT")]
    timeout: u64,
    /// Seconds between a polite kill and the end of listening, while /readyz says no; never less than a half
    #[arg(long, value_name = "SECONDS", value_parser = seconds(0), default_value_t = 0, env = "REWARDEN_DRAIN")]
    drain: u64,
}

impl Limits {
    /// What the engine is bounded by.
    pub fn engine(&self) -> engine::Config {
        engine::Config {
            batch_tokens: self.batch_tokens,
            queue_tokens: self.queue_tokens,
            queue_items: self.queue_items,
            cache_bytes: self.cache_mib << 20,
            allowance: Allowance { concurrency: self.key_concurrency, rate: self.key_rate },
        }
    }

    /// What clients are bounded by; the rest of the settings is the default.
    pub fn http(&self) -> http::Config {
        http::Config {
            body_limit: self.body_limit,
            bodies: self.bodies_mib << 20,
            max_items: self.max_items,
            max_stream_items: self.max_stream_items,
            timeout: Duration::from_secs(self.timeout),
            header_timeout: Duration::from_secs(self.header_timeout),
            connections: self.connections,
            peer_connections: self.peer_connections,
            drain: Duration::from_secs(self.drain),
            ..http::Config::default()
        }
    }
}

/// At least one.
fn count() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..)
}

/// Up to a terabyte.
fn mebibytes() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(0..=1 << 20)
}

/// At least `least`, at most a day: what is longer is a mistake.
fn seconds(least: u64) -> RangedU64ValueParser {
    RangedU64ValueParser::new().range(least..=24 * 3600)
}

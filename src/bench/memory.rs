//! Memory: bytes of the weights, and the peak of the process where the system says it.

use super::products::linear_weights;
use crate::{model::config::Config, nn::cpu::int8::GROUP};
use serde::Serialize;
use std::fs;

/// Bytes of a number.
const F32: u64 = 4;

/// Bytes that a model's frozen weights take.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Weights {
    /// The linear layers' weights in f32 and one order: what a forward reads, and a backward again.
    pub pass_bytes: u64,
    /// All that is kept: the linear layers in one order for means, in both for variances, and the embedding.
    pub kept_bytes: u64,
}

impl Weights {
    /// Of a model that goes forward, in eight bits if `int8`, and with `backward` back.
    pub fn of(config: &Config, int8: bool, backward: bool) -> Self {
        let linear: usize = linear_weights(config).iter().map(|(rows, columns)| rows * columns).sum();
        let numbers = (linear * config.layers) as u64;
        let pass_bytes = F32 * numbers;
        let embedding = F32 * (config.vocab_size * config.hidden_size) as u64;
        // A byte, and a scale for each group.
        let forward = if int8 { numbers + F32 * numbers / GROUP as u64 } else { pass_bytes };
        let backward = if backward { pass_bytes } else { 0 };
        Self { pass_bytes, kept_bytes: forward + backward + embedding }
    }
}

/// Lets the next [`peak`] count from now on, where the system can (Linux); elsewhere it counts from the start.
pub fn reset_peak() {
    // A system that refuses gives a peak that is too large, never one that is too small.
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// Most bytes of main memory that the process has held at once; `None` on systems without `/proc/self/status`.
pub fn peak() -> Option<u64> {
    high_water(&fs::read_to_string("/proc/self/status").ok()?)
}

/// The line `VmHWM:   1234 kB`, in bytes.
fn high_water(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_high_water_mark_is_read_in_bytes() {
        assert_eq!(high_water("Name:\tx\nVmHWM:\t    20 kB\nVmRSS:\t 1 kB\n"), Some(20 << 10));
        assert_eq!(high_water("Name:\tx\n"), None);
    }
}

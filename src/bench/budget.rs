//! The recommended token budget: the smallest batch that is about as fast as the fastest.

use super::grid::{Cell, Side};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Share of the best rate that is enough.
const ENOUGH: f64 = 0.97;

/// Recommended tokens of a batch; `None` where nothing was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Budgets {
    pub mean: Option<usize>,
    pub variance: Option<usize>,
}

impl Budgets {
    /// Of the cells of a grid.
    pub fn of(cells: &[Cell]) -> Self {
        Self { mean: of(cells, |cell| Some(&cell.mean)), variance: of(cells, |cell| cell.variance.as_ref()) }
    }

    /// For a service: what variances need, or else means.
    pub fn recommended(&self) -> Option<usize> {
        self.variance.or(self.mean)
    }
}

/// The smallest batch that is as efficient as the most efficient one, to 97 %. Lengths that only one batch was measured with do
/// not count.
fn of(cells: &[Cell], side: impl Fn(&Cell) -> Option<&Side>) -> Option<usize> {
    let mut rates: BTreeMap<usize, BTreeMap<usize, f64>> = BTreeMap::new();
    for cell in cells {
        if let Some(side) = side(cell) {
            rates.entry(cell.length).or_default().insert(cell.batch_tokens, side.tokens_per_second);
        }
    }
    if rates.values().any(|of_length| of_length.len() > 1) {
        rates.retain(|_, of_length| of_length.len() > 1);
    }
    let batches: BTreeSet<usize> = rates.values().flat_map(BTreeMap::keys).copied().collect();
    let best = batches.iter().map(|batch| efficiency(&rates, *batch)).fold(0.0, f64::max);
    batches.into_iter().find(|batch| efficiency(&rates, *batch) >= ENOUGH * best)
}

/// Geometric mean, over the lengths that were measured with this batch, of its rate over their best.
fn efficiency(rates: &BTreeMap<usize, BTreeMap<usize, f64>>, batch: usize) -> f64 {
    let of_length = |of_length: &BTreeMap<usize, f64>| {
        let best = of_length.values().copied().fold(f64::MIN_POSITIVE, f64::max);
        Some((of_length.get(&batch)? / best).ln())
    };
    let logarithms: Vec<f64> = rates.values().filter_map(of_length).collect();
    (logarithms.iter().sum::<f64>() / logarithms.len().max(1) as f64).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(length: usize, batch_tokens: usize, tokens_per_second: f64) -> Cell {
        let mean = Side {
            seconds: 1.0,
            tokens_per_second,
            products_seconds: 1.0,
            share: 1.0,
            gflops: 1.0,
            products_gflops: 1.0,
            operations_floor_seconds: 1.0,
            bytes_floor_seconds: 1.0,
            peak_bytes: None,
        };
        Cell {
            length,
            sequences: batch_tokens / length,
            tokens: batch_tokens,
            batch_tokens,
            mean,
            variance: None,
        }
    }

    #[test]
    fn the_smallest_that_is_fast_enough_is_recommended() {
        let cells = [
            cell(64, 64, 50.0),
            cell(64, 128, 90.0),
            cell(64, 256, 98.0),
            cell(64, 512, 100.0),
            cell(256, 256, 97.0),
            cell(256, 512, 100.0),
            // Slower than the others, but that is its length.
            cell(512, 512, 10.0),
        ];
        let budgets = Budgets::of(&cells);
        assert_eq!(budgets, Budgets { mean: Some(256), variance: None });
        assert_eq!(budgets.recommended(), Some(256));
        assert_eq!(Budgets::of(&[]).recommended(), None);
        assert_eq!(Budgets::of(&cells[..1]).recommended(), Some(64));
        // None is the best for all lengths.
        let cells = [cell(64, 64, 50.0), cell(64, 128, 100.0), cell(32, 64, 100.0), cell(32, 128, 60.0)];
        assert_eq!(Budgets::of(&cells).recommended(), Some(128));
    }
}

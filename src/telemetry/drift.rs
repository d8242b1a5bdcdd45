//! How far the uncertainties that a model gives of late, 1 - contraction, have moved from those that its fit held out.

use std::collections::VecDeque;

use crate::{
    evaluate::stability::{bin, stability_index},
    posterior::Novelty,
};

/// Values that count: so many of the latest.
pub const WINDOW: usize = 1024;

/// Values without which nothing is said. Among n that have not moved at all, m quantiles make the index about m / n: with
/// the 13 of `fit`, that is 0.05 here.
pub const LEAST: usize = 256;

/// The latest values of 1 - contraction, by the bins between the quantiles.
#[derive(Debug)]
pub struct Drift {
    quantiles: Vec<(f64, f64)>,
    recent: VecDeque<usize>,
    counts: Vec<u64>,
}

impl Drift {
    /// Starts without a value; `None` where the fit stored no quantiles.
    pub fn new(novelty: &Novelty) -> Option<Self> {
        let quantiles = novelty.uncontracted();
        (!quantiles.is_empty()).then(|| Self::from(quantiles.to_vec()))
    }

    fn from(mut quantiles: Vec<(f64, f64)>) -> Self {
        // Between equal quantiles no value can be, and an empty bin would count as a change.
        quantiles.dedup_by(|next, kept| {
            let equal = next.1 == kept.1;
            if equal {
                kept.0 = next.0;
            }
            equal
        });
        let counts = vec![0; quantiles.len() + 1];
        Self { quantiles, recent: VecDeque::with_capacity(WINDOW), counts }
    }

    /// Takes a value in, and the oldest out where the window is full.
    pub fn add(&mut self, value: f64) {
        if self.recent.len() == WINDOW
            && let Some(oldest) = self.recent.pop_front()
        {
            self.counts[oldest] -= 1;
        }
        let bin = bin(&self.quantiles, value);
        self.recent.push_back(bin);
        self.counts[bin] += 1;
    }

    /// Returns the population stability index of the window; `None` while it holds too few.
    pub fn index(&self) -> Option<f64> {
        (self.recent.len() >= LEAST).then(|| stability_index(&self.quantiles, &self.counts)).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUARTILES: [(f64, f64); 3] = [(0.25, 1.0), (0.5, 2.0), (0.75, 3.0)];

    fn drift(quantiles: &[(f64, f64)]) -> Drift {
        Drift::from(quantiles.to_vec())
    }

    /// Adds values by turns, `count` in all.
    fn add(drift: &mut Drift, variances: &[f64], count: usize) {
        variances.iter().cycle().take(count).for_each(|variance| drift.add(*variance));
    }

    #[test]
    fn a_few_values_say_nothing() {
        let mut drift = drift(&QUARTILES);
        add(&mut drift, &[9.0], LEAST - 1);
        assert_eq!(drift.index(), None);
        add(&mut drift, &[9.0], 1);
        assert!(drift.index().unwrap() > 1.0);
    }

    #[test]
    fn values_as_held_out_are_no_drift() {
        let mut drift = drift(&QUARTILES);
        add(&mut drift, &[0.5, 1.5, 2.5, 3.5], LEAST);
        assert_eq!(drift.index(), Some(0.0));
    }

    #[test]
    fn the_index_is_that_of_the_window() {
        let mut drift = drift(&QUARTILES);
        let mut all = Vec::new();
        for i in 0..3 * WINDOW {
            // A change in the middle, and no end of the window at a multiple of the period.
            let variance = (i % 7) as f64 * if i < WINDOW { 0.5 } else { 0.6 };
            drift.add(variance);
            all.push(variance);
            let window = &all[all.len().saturating_sub(WINDOW)..];
            let mut counts = [0; 4];
            window.iter().for_each(|variance| counts[bin(&QUARTILES, *variance)] += 1);
            assert_eq!(drift.counts, counts, "{i}");
        }
        assert_eq!(drift.index(), stability_index(&QUARTILES, &drift.counts));
    }

    #[test]
    fn what_was_long_ago_is_forgotten() {
        let mut drift = drift(&QUARTILES);
        add(&mut drift, &[9.0], 10 * WINDOW);
        let changed = drift.index().unwrap();
        add(&mut drift, &[0.5, 1.5, 2.5, 3.5], WINDOW / 2);
        assert!(drift.index().unwrap() < changed);
        add(&mut drift, &[0.5, 1.5, 2.5, 3.5], WINDOW / 2);
        assert_eq!(drift.index(), Some(0.0));
    }

    #[test]
    fn equal_quantiles_are_one() {
        let mut drift = drift(&[(0.1, 1.0), (0.5, 1.0), (0.75, 2.0), (0.9, 2.0)]);
        add(&mut drift, &[0.5, 0.5, 0.5, 0.5, 0.5, 1.5, 1.5, 1.5, 1.5, 2.5], 10 * LEAST);
        assert!(drift.index().unwrap() < 1e-4);
    }
}

//! Whether probabilities come true as often as they say.
//!
//! A pair has no first and second answer by itself, so that each is counted twice: as it is, where the preferred answer
//! won with probability p = sigma(logit), and flipped, where an answer that lost had 1 - p. The diagram is symmetric
//! about one half, and a model that always says one half is calibrated.

use crate::train::loss::sigmoid;
use serde::Serialize;

/// Bins of equal width.
const BINS: usize = 20;

/// One bar of the reliability diagram (DeGroot and Fienberg, 1983).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bin {
    /// Its probabilities, from `low` on and below `high`; the last bin holds 1 too.
    pub low: f64,
    pub high: f64,
    /// Mean of the probabilities in it.
    pub confidence: f64,
    /// Share of them that came true.
    pub frequency: f64,
    /// How many fell into it, of two a pair.
    pub count: usize,
}

/// The bins that hold anything, ascending, of the pairs' logits.
pub fn reliability(logits: &[f64]) -> Vec<Bin> {
    let sums = Sums::of(logits.iter().map(|logit| Sides::of(*logit)));
    let edge = |i: usize| i as f64 / BINS as f64;
    let bin = |(i, sums): (usize, &Sums)| {
        let share = |sum: f64| sum / sums.count as f64;
        Bin {
            low: edge(i),
            high: edge(i + 1),
            confidence: share(sums.probability),
            frequency: share(sums.came_true),
            count: sums.count,
        }
    };
    sums.iter().enumerate().filter(|(_, sums)| sums.count > 0).map(bin).collect()
}

/// Expected calibration error (Naeini et al., 2015; Guo et al., 2017, eq. 3) over 20 equal bins:
/// sum over bins of count / total |frequency - confidence|. NaN of no pairs.
pub fn ece(logits: &[f64]) -> f64 {
    ece_of(logits.iter().map(|logit| Sides::of(*logit)))
}

/// The same from pairs that are already placed in their bins.
pub(super) fn ece_of(pairs: impl Iterator<Item = Sides>) -> f64 {
    let sums = Sums::of(pairs);
    let count: usize = sums.iter().map(|bin| bin.count).sum();
    sums.iter().map(|bin| (bin.came_true - bin.probability).abs()).sum::<f64>() / count as f64
}

/// The two sides of a pair: the preferred answer, and the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sides([Side; 2]);

#[derive(Debug, Clone, Copy)]
struct Side {
    bin: usize,
    probability: f64,
    came_true: f64,
}

impl Sides {
    pub(super) fn of(logit: f64) -> Self {
        let side = |(logit, came_true)| {
            let probability = sigmoid(logit);
            Side { bin: ((probability * BINS as f64) as usize).min(BINS - 1), probability, came_true }
        };
        Self([(logit, 1.0), (-logit, 0.0)].map(side))
    }
}

/// What fell into one bin.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    probability: f64,
    came_true: f64,
    count: usize,
}

impl Sums {
    fn of(pairs: impl Iterator<Item = Sides>) -> [Self; BINS] {
        let mut bins = [Self::default(); BINS];
        for side in pairs.flat_map(|Sides(sides)| sides) {
            let bin = &mut bins[side.bin];
            bin.probability += side.probability;
            bin.came_true += side.came_true;
            bin.count += 1;
        }
        bins
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::fixture::{assert_close, read};
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Fixture {
        logits: Vec<f64>,
        confidence: Vec<f64>,
        frequency: Vec<f64>,
        count: Vec<usize>,
        ece: f64,
    }

    #[test]
    fn the_diagram_and_its_error_equal_scikit_learn() {
        let fixture: Fixture = read("calibration");
        let bins = reliability(&fixture.logits);
        let of = |part: fn(&Bin) -> f64| bins.iter().map(part).collect::<Vec<_>>();
        assert_close(&of(|bin| bin.confidence), &fixture.confidence, 1e-12);
        assert_close(&of(|bin| bin.frequency), &fixture.frequency, 1e-12);
        assert_eq!(bins.iter().map(|bin| bin.count).collect::<Vec<_>>(), fixture.count);
        assert!((ece(&fixture.logits) - fixture.ece).abs() < 1e-12);
    }

    #[test]
    fn the_diagram_is_symmetric() {
        let bins = reliability(&[0.3, -0.4, 1.7, 2.2, -3.0]);
        for (a, b) in bins.iter().zip(bins.iter().rev()) {
            assert!((a.low + b.high - 1.0).abs() < 1e-15 && a.count == b.count);
            assert!((a.confidence + b.confidence - 1.0).abs() < 1e-12);
            assert!((a.frequency + b.frequency - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn extremes_fall_into_the_outer_bins() {
        assert_eq!(ece(&[0.0; 10]), 0.0);
        assert_eq!(ece(&[1e3]), 0.0);
        assert_eq!(ece(&[-1e3]), 1.0);
        assert_eq!(reliability(&[1e3]).iter().map(|bin| bin.low).collect::<Vec<_>>(), [0.0, 0.95]);
        assert!(reliability(&[]).is_empty() && ece(&[]).is_nan());
    }
}

//! Intervals by resampling (Efron, 1979): the percentiles of a statistic over samples drawn with replacement.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Ends of the 95 % interval, as probabilities.
const ENDS: [f64; 2] = [0.025, 0.975];

/// The 95 % percentile interval of a statistic of `count` items, from at least one resample.
///
/// `statistic` is given the indices of a resample, `count` of them, some of them more than once. Equal seeds draw
/// equal resamples.
pub fn bootstrap(
    count: usize,
    resamples: usize,
    seed: u64,
    mut statistic: impl FnMut(&[usize]) -> f64,
) -> [f64; 2] {
    crossed([count], resamples, seed, |[indices]| statistic(indices))
}

/// The same of a statistic of items of several kinds, each resampled on its own (the pigeonhole bootstrap; Owen, 2007).
pub fn crossed<const K: usize>(
    counts: [usize; K],
    resamples: usize,
    seed: u64,
    mut statistic: impl FnMut(&[Vec<usize>; K]) -> f64,
) -> [f64; 2] {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut indices = counts.map(|count| vec![0; count]);
    let mut resample = || {
        for (indices, count) in indices.iter_mut().zip(counts) {
            indices.fill_with(|| rng.random_range(0..count));
        }
        statistic(&indices)
    };
    let mut sorted: Vec<f64> = (0..resamples).map(|_| resample()).collect();
    sorted.sort_by(f64::total_cmp);
    ENDS.map(|probability| quantile(&sorted, probability))
}

/// The quantile of ascending values, linear between them (definition 7 of Hyndman and Fan, 1996).
pub(super) fn quantile(sorted: &[f64], probability: f64) -> f64 {
    let place = probability * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    low + (high - low) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::{
        fixture::{assert_close, read},
        mean,
    };
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Fixture {
        values: Vec<f64>,
        quantiles: [f64; 2],
        interval_of_mean: [f64; 2],
        interval_of_deviation: [f64; 2],
    }

    fn deviation(values: &[f64]) -> f64 {
        let centre = mean(values);
        (values.iter().map(|v| (v - centre).powi(2)).sum::<f64>() / values.len() as f64).sqrt()
    }

    #[test]
    fn quantiles_equal_numpy() {
        let mut fixture: Fixture = read("bootstrap");
        fixture.values.sort_by(f64::total_cmp);
        assert_close(&ENDS.map(|p| quantile(&fixture.values, p)), &fixture.quantiles, 1e-14);
        assert_eq!(quantile(&[7.0], 0.3), 7.0);
    }

    #[test]
    fn intervals_are_those_of_scipy_up_to_the_draw() {
        let Fixture { values, interval_of_mean, interval_of_deviation, .. } = read("bootstrap");
        for (statistic, want) in
            [(mean as fn(&[f64]) -> f64, interval_of_mean), (deviation, interval_of_deviation)]
        {
            let of = |indices: &[usize]| statistic(&indices.iter().map(|i| values[*i]).collect::<Vec<_>>());
            let got = bootstrap(values.len(), 4000, 1, of);
            assert_close(&got, &want, 0.05 * (want[1] - want[0]));
        }
    }

    #[test]
    fn the_seed_decides_the_draw() {
        let sum = |indices: &[usize]| indices.iter().sum::<usize>() as f64;
        assert_eq!(bootstrap(50, 100, 3, sum), bootstrap(50, 100, 3, sum));
        assert_ne!(bootstrap(50, 100, 3, sum), bootstrap(50, 100, 4, sum));
        assert_eq!(bootstrap(50, 100, 3, |_| 2.5), [2.5, 2.5]);
    }

    #[test]
    fn a_resample_is_of_as_many_items() {
        bootstrap(7, 20, 0, |indices| {
            assert!(indices.len() == 7 && indices.iter().all(|i| *i < 7));
            0.0
        });
    }
}

//! Mean differences with a paired bootstrap interval over prompts.

use std::collections::HashMap;

use serde::Serialize;

use crate::evaluate::bootstrap::bootstrap;

/// Resamples of an interval.
const RESAMPLES: usize = 2000;
const SEED: u64 = 0;

/// A mean difference between two rules on the same items.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Difference {
    pub mean: f64,
    /// 95 % percentile interval over resampled prompts.
    pub interval: [f64; 2],
}

/// Sum and number of the differences of one prompt.
type Cluster = (f64, usize);

impl Difference {
    /// Averages the items' differences, each given with the prompt of the item; `None` without items.
    ///
    /// Items of one prompt are not independent, so a resample draws them together (the cluster bootstrap; Davison and
    /// Hinkley, 1997, section 3.8).
    pub(super) fn of<'a>(items: impl IntoIterator<Item = (&'a str, f64)>) -> Option<Self> {
        let clusters = clusters(items);
        let mean_of = |drawn: &mut dyn Iterator<Item = &Cluster>| {
            let (sum, count) = drawn.fold((0.0, 0), |(sum, n), (value, count)| (sum + value, n + count));
            sum / count as f64
        };
        (!clusters.is_empty()).then(|| Self {
            mean: mean_of(&mut clusters.iter()),
            interval: bootstrap(clusters.len(), RESAMPLES, SEED, |indices| {
                mean_of(&mut indices.iter().map(|index| &clusters[*index]))
            }),
        })
    }
}

/// Sums the items by prompt, in the order in which the prompts first occur.
fn clusters<'a>(items: impl IntoIterator<Item = (&'a str, f64)>) -> Vec<Cluster> {
    let mut places = HashMap::new();
    let mut clusters: Vec<Cluster> = Vec::new();
    for (key, value) in items {
        let place = *places.entry(key).or_insert(clusters.len());
        if place == clusters.len() {
            clusters.push((0.0, 0));
        }
        clusters[place].0 += value;
        clusters[place].1 += 1;
    }
    clusters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_is_over_items_and_the_resample_over_prompts() {
        let items = [("a", 1.0), ("b", 0.0), ("a", 0.0), ("a", 1.0)];
        assert_eq!(clusters(items), [(2.0, 3), (0.0, 1)]);
        let got = Difference::of(items).unwrap();
        // A resample is {a, a}, {a, b} or {b, b}, of means 2/3, 1/2 and 0, and of chances 1/4, 1/2 and 1/4.
        assert_eq!(got, Difference { mean: 0.5, interval: [0.0, 2.0 / 3.0] });
    }

    #[test]
    fn without_items_there_is_no_difference() {
        assert_eq!(Difference::of([]), None);
        assert_eq!(Difference::of([("a", 2.0)]), Some(Difference { mean: 2.0, interval: [2.0; 2] }));
    }

    /// Of many independent values the interval is the normal one of their mean.
    #[test]
    fn the_interval_of_single_items_is_that_of_the_mean() {
        let values: Vec<f64> = (0..400).map(|at| f64::from(at % 4 == 0)).collect();
        let keys: Vec<String> = (0..400).map(|at| at.to_string()).collect();
        let got = Difference::of(keys.iter().map(String::as_str).zip(values)).unwrap();
        let half = 1.96 * (0.25_f64 * 0.75 / 400.0).sqrt();
        crate::evaluate::fixture::assert_close(&got.interval, &[0.25 - half, 0.25 + half], 0.004);
    }
}

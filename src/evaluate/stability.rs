//! Variances against those seen at fitting, which are known by some of their quantiles.
//!
//! Quantiles are (probability, value) with both ascending: p_1, ..., p_m and v_1, ..., v_m. Values are not negative.

/// How far observed values have moved: the population stability index sum_j (o_j - e_j) ln(o_j / e_j), in nats.
///
/// e are the shares that the quantiles promise to the m + 1 bins between them ([`bin`]), o those of the counts. It is the
/// symmetric divergence of Jeffreys (1946) and in use for scorecards (Siddiqi, 2006): by convention (Lewis, 1994) below 0.1
/// little has changed, and above 0.25 much. If nothing has, it is on average about m / n for n observed values, the
/// quantiles being exact (Yurdakul and Naranjo, 2020). A share below that of half an observation is raised to it, as
/// otherwise one empty bin would make it infinite. `None` if there are no counts.
///
/// # Panics
///
/// Unless there are m + 1 counts.
pub fn stability_index(quantiles: &[(f64, f64)], counts: &[u64]) -> Option<f64> {
    assert_eq!(counts.len(), quantiles.len() + 1, "counts of the bins");
    let total = counts.iter().sum::<u64>() as f64;
    let floor = 0.5 / total;
    let term = |(expected, count): (f64, &u64)| {
        let (expected, observed) = (expected.max(floor), (*count as f64 / total).max(floor));
        (observed - expected) * (observed / expected).ln()
    };
    (total > 0.0).then(|| shares(quantiles).zip(counts).map(term).sum())
}

/// The bin of a value, from 0 to m: bin j holds values above the j-th quantile, up to and with the next.
pub fn bin(quantiles: &[(f64, f64)], value: f64) -> usize {
    quantiles.partition_point(|(_, quantile)| *quantile < value)
}

fn shares(quantiles: &[(f64, f64)]) -> impl Iterator<Item = f64> {
    let ends = quantiles.iter().map(|(probability, _)| *probability).chain([1.0]);
    let starts = [0.0].into_iter().chain(quantiles.iter().map(|(probability, _)| *probability));
    ends.zip(starts).map(|(end, start)| end - start)
}

/// The share of fitted values that are not above `x`, in [0, 1]: linear between the quantiles.
///
/// Below the first it falls in proportion to 0 at x = 0. Above the last no more is known than that it is at least p_m,
/// which is returned; without any quantile that is 0.
pub fn percentile(quantiles: &[(f64, f64)], x: f64) -> f64 {
    let after = quantiles.partition_point(|(_, value)| *value <= x);
    let (p, v) = after.checked_sub(1).map_or((0.0, 0.0), |before| quantiles[before]);
    match quantiles.get(after) {
        Some((next_p, next_v)) if x > v => p + (next_p - p) * (x - v) / (next_v - v),
        _ => p,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::fixture::{assert_close, read};
    use proptest::prelude::*;
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Fixture {
        quantiles: Vec<(f64, f64)>,
        values: Vec<f64>,
        percentiles: Vec<f64>,
        counts: Vec<u64>,
        index: f64,
    }

    #[test]
    fn percentiles_bins_and_index_equal_numpy_and_scipy() {
        let want: Fixture = read("stability");
        let got: Vec<f64> = want.values.iter().map(|x| percentile(&want.quantiles, *x)).collect();
        assert_close(&got, &want.percentiles, 1e-12);
        let mut counts = vec![0; want.quantiles.len() + 1];
        want.values.iter().for_each(|x| counts[bin(&want.quantiles, *x)] += 1);
        assert_eq!(counts, want.counts);
        let index = stability_index(&want.quantiles, &want.counts).unwrap();
        assert!((index - want.index).abs() < 1e-12);
    }

    #[test]
    fn percentiles_beyond_the_quantiles() {
        let quantiles = [(0.1, 2.0), (0.5, 4.0), (0.9, 8.0)];
        for (x, want) in
            [(-1.0, 0.0), (0.0, 0.0), (1.0, 0.05), (2.0, 0.1), (6.0, 0.7), (8.0, 0.9), (1e9, 0.9)]
        {
            assert!((percentile(&quantiles, x) - want).abs() < 1e-15, "{x}");
        }
        assert_eq!(percentile(&[], 3.0), 0.0);
        assert_eq!(percentile(&[(0.1, 0.0), (0.2, 0.0), (0.4, 1.0)], 0.0), 0.2);
    }

    #[test]
    fn the_index_is_of_shares_and_finite() {
        let quantiles = [(0.25, 1.0), (0.5, 2.0), (0.75, 3.0)];
        assert_eq!(stability_index(&quantiles, &[5; 4]), Some(0.0));
        assert!(stability_index(&quantiles, &[0, 0, 0, 100]).unwrap() > 2.0);
        assert_eq!(stability_index(&quantiles, &[0; 4]), None);
        assert_eq!(stability_index(&[(0.0, 1.0), (1.0, 2.0)], &[0, 9, 0]), Some(0.0));
    }

    proptest! {
        #[test]
        fn percentiles_rise_with_the_value(mut x in prop::collection::vec(-1.0..10.0, 2)) {
            let quantiles = [(0.05, 0.5), (0.5, 0.5), (0.6, 3.0), (0.99, 7.0)];
            x.sort_by(f64::total_cmp);
            let [low, high] = [x[0], x[1]].map(|x| percentile(&quantiles, x));
            prop_assert!(0.0 <= low && low <= high && high <= 0.99);
        }
    }
}

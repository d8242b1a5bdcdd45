//! What the best of n answers is worth, estimated from a pool of N for every n at once.
//!
//! A random n of the N answers contain the i-th of them by ascending selecting score, and none above it, with probability
//! C(i-1, n-1) / C(N, n). So the mean over all subsets of the value of their best is (Nakano et al., 2021, appendix I)
//!
//! ```text
//! R_n = sum_{i>=n} C(i-1, n-1) / C(N, n) value_(i)
//! ```
//!
//! which is unbiased for a pool of independent answers. The value is a gold reward, the selecting score itself, or any
//! other. Where scores are equal, one of the best is chosen at random: each order of them is equally likely, and since R is
//! linear, values at the mean of their tie give the expectation.

use super::rank::groups;

/// The weights C(i-1, n-1) / C(N, n) of a pool of N, for some n.
#[derive(Debug, Clone, PartialEq)]
pub struct Weights {
    answers: usize,
    /// One row for each n, of the weights of i = N, N-1, ..., n.
    rows: Vec<Vec<f64>>,
}

impl Weights {
    /// For a pool of `answers` and each n of `sizes`, from 1 to `answers`.
    pub fn new(answers: usize, sizes: &[usize]) -> Self {
        Self { answers, rows: sizes.iter().map(|n| row(answers, *n)).collect() }
    }

    /// Estimates of R_n, one for each n, of a pool whose answers have a selecting score and a value: O(N) each.
    ///
    /// # Panics
    ///
    /// Unless there are as many answers as the weights are for.
    pub fn estimates(&self, scores: &[f64], values: &[f64]) -> Vec<f64> {
        assert_eq!((scores.len(), values.len()), (self.answers, self.answers), "answers of the pool");
        let mut sorted = Vec::with_capacity(self.answers);
        for group in groups(scores) {
            let mean = group.iter().map(|i| values[*i]).sum::<f64>() / group.len() as f64;
            sorted.extend(group.iter().map(|_| mean));
        }
        let estimate = |row: &Vec<f64>| row.iter().zip(sorted.iter().rev()).map(|(w, value)| w * value).sum();
        self.rows.iter().map(estimate).collect()
    }
}

/// From i = N down: n / N, and then each times (i - n) / (i - 1). Nothing grows, so that nothing overflows.
fn row(answers: usize, n: usize) -> Vec<f64> {
    let first = n as f64 / answers as f64;
    let next =
        |(weight, i): &(f64, usize)| (*i > n).then(|| (weight * (i - n) as f64 / (i - 1) as f64, i - 1));
    std::iter::successors(Some((first, answers)), next).map(|(weight, _)| weight).collect()
}

/// The n to report for a pool: the powers of two up to its size, and its size.
pub fn sizes(answers: usize) -> Vec<usize> {
    let powers = std::iter::successors(Some(1usize), |n| n.checked_mul(2)).take_while(|n| *n < answers);
    powers.chain((answers > 0).then_some(answers)).collect()
}

/// KL divergence of the best of n answers from one, in nats: ln n - (n - 1) / n (Stiennon et al., 2020, appendix G.3).
///
/// An upper bound where answers can be equal (Beirami et al., 2024).
pub fn kl(n: usize) -> f64 {
    let n = n as f64;
    n.ln() - (n - 1.0) / n
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
    struct Large {
        sizes: Vec<usize>,
        estimates: Vec<f64>,
    }

    /// The mean over all subsets of n of the mean value of their best.
    fn enumerated(scores: &[f64], values: &[f64], n: usize) -> f64 {
        let of_subset = |mask: u32| {
            let members: Vec<usize> = (0..scores.len()).filter(|i| mask >> i & 1 == 1).collect();
            let best = members.iter().map(|i| scores[*i]).fold(f64::NEG_INFINITY, f64::max);
            mean(&members.iter().filter(|i| scores[**i] == best).map(|i| values[*i]).collect::<Vec<_>>())
        };
        let subsets = (0..1u32 << scores.len()).filter(|mask| mask.count_ones() as usize == n);
        mean(&subsets.map(of_subset).collect::<Vec<_>>())
    }

    #[test]
    fn estimates_equal_the_mean_over_all_subsets() {
        let values = [0.3, -1.2, 2.5, 0.9, 0.1, -0.7, 1.4, 3.3];
        let distinct = [0.4, 0.1, 0.9, -0.3, 1.5, 0.2, 0.8, 0.7];
        let tied = [1.0, 0.0, 1.0, 1.0, 0.0, 2.0, 2.0, 1.0];
        let all: Vec<usize> = (1..=8).collect();
        for scores in [distinct, tied, [0.0; 8]] {
            let want: Vec<f64> = all.iter().map(|n| enumerated(&scores, &values, *n)).collect();
            assert_close(&Weights::new(8, &all).estimates(&scores, &values), &want, 1e-12);
        }
    }

    #[test]
    fn a_large_pool_equals_exact_fractions() {
        let want: Large = read("best_of_n");
        let scores: Vec<f64> = (0..1024).map(|i| (i * 389 % 512) as f64).collect();
        let values: Vec<f64> = (0..1024).map(|i| (i * i % 97) as f64).collect();
        assert_eq!(sizes(1024), want.sizes);
        assert_close(&Weights::new(1024, &want.sizes).estimates(&scores, &values), &want.estimates, 1e-11);
    }

    #[test]
    fn weights_of_every_n_add_up_to_one() {
        let all: Vec<usize> = (1..=1024).collect();
        for row in Weights::new(1024, &all).rows {
            assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn one_is_the_mean_and_all_the_best() {
        let (scores, values) = ([0.2, 0.9, 0.5], [5.0, 1.0, 3.0]);
        assert_close(&Weights::new(3, &[1, 3]).estimates(&scores, &values), &[3.0, 1.0], 1e-15);
    }

    #[test]
    fn sizes_end_with_the_pool() {
        for (answers, want) in [(0, &[][..]), (1, &[1]), (8, &[1, 2, 4, 8]), (12, &[1, 2, 4, 8, 12])] {
            assert_eq!(sizes(answers), want);
        }
    }

    #[test]
    fn divergence_is_that_of_the_density_of_the_best() {
        // The quantile u of the best has density n u^(n-1) on [0, 1].
        for n in [1, 2, 7] {
            let density = |u: f64| n as f64 * u.powi(n - 1);
            let steps = 100_000;
            let middle = |i: usize| density((i as f64 + 0.5) / steps as f64);
            let integral = (0..steps).map(middle).map(|d| d * d.ln()).sum::<f64>() / steps as f64;
            assert!((kl(n as usize) - integral).abs() < 1e-6);
        }
    }
}

//! How close one posterior's variances are to the exact ones.

use serde::Serialize;

use crate::evaluate::{bootstrap::bootstrap, mean, rank::spearman};

/// Resamples of an interval.
const RESAMPLES: usize = 1000;

/// How one posterior's variances compare with the exact ones.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Closeness {
    /// Spearman's correlation.
    pub rank_correlation: Option<f64>,
    /// Mean of the one over the mean of the other.
    pub ratio: f64,
    /// Mean of |log ratio|.
    pub log_ratio: f64,
    /// 95 % intervals, test pairs resampled.
    pub intervals: Intervals,
}

/// Of a closeness.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Intervals {
    pub rank_correlation: Option<[f64; 2]>,
    pub ratio: [f64; 2],
    pub log_ratio: [f64; 2],
}

impl Closeness {
    /// Of variances that come from `pairs` pairs, as many from each, in their order.
    pub(super) fn of(got: &[f64], exact: &[f64], pairs: usize) -> Self {
        let each = got.len() / pairs;
        let interval = |statistic: fn(&[f64], &[f64]) -> f64| {
            bootstrap(pairs, RESAMPLES, 0, |drawn| {
                let items = || drawn.iter().flat_map(|pair| each * pair..each * (pair + 1));
                let pick = |values: &[f64]| items().map(|item| values[item]).collect::<Vec<_>>();
                statistic(&pick(got), &pick(exact))
            })
        };
        let rank_correlation = spearman(got, exact);
        let intervals = Intervals {
            // A resample of a single pair has no ranks.
            rank_correlation: rank_correlation.map(|_| interval(|a, b| spearman(a, b).unwrap_or(0.0))),
            ratio: interval(ratio),
            log_ratio: interval(log_ratio),
        };
        Self { rank_correlation, ratio: ratio(got, exact), log_ratio: log_ratio(got, exact), intervals }
    }
}

fn ratio(got: &[f64], exact: &[f64]) -> f64 {
    mean(got) / mean(exact)
}

/// Two answers that are cut to the same tokens differ by nothing, of which there is no ratio.
fn log_ratio(got: &[f64], exact: &[f64]) -> f64 {
    let ratios = got.iter().zip(exact).filter(|(_, exact)| **exact > 0.0);
    mean(&ratios.map(|(a, b)| (a / b).ln().abs()).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_by_nothing_has_no_ratio() {
        let (got, exact) = ([2.0, 0.0, 4.0, 1.0], [1.0, 0.0, 4.0, 2.0]);
        let Closeness { rank_correlation, ratio, log_ratio, intervals } = Closeness::of(&got, &exact, 4);
        assert!((log_ratio - 2.0 * 2f64.ln() / 3.0).abs() < 1e-15, "{log_ratio}");
        assert_eq!((ratio, rank_correlation), (1.0, Some(0.8)));
        assert!(intervals.ratio[0] <= ratio && ratio <= intervals.ratio[1]);
    }

    #[test]
    fn pairs_are_resampled_whole() {
        // Both rewards of a pair are wrong by the same factor, so that every pair has the same ratio.
        let exact = [1.0, 3.0, 2.0, 6.0];
        let Closeness { intervals, .. } = Closeness::of(&exact.map(|v| v * 2.0), &exact, 2);
        assert_eq!(intervals.ratio, [2.0, 2.0]);
        assert!(intervals.log_ratio.iter().all(|end| (end - 2f64.ln()).abs() < 1e-15));
    }
}

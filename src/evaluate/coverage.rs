//! Risk and coverage: how many pairs are wrong among those that the model is surest of.
//!
//! In ascending order of uncertainty, with losses l = 1 - right, the risk at coverage k / n is r_k = 1/k sum_{i<=k} l_(i),
//! and the area under the curve 1/n sum_k r_k (AURC; Geifman and El-Yaniv, 2017). Pairs of equal uncertainty come in no
//! order: r is linear in the losses, so that each of them taken at their mean gives the expectation over all orders.

use super::{mean, rank::groups};
use serde::Serialize;

/// One point of the curve.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Point {
    /// Share of the pairs that are answered, above 0.
    pub coverage: f64,
    /// Share of those that are wrong.
    pub risk: f64,
}

/// The curve in three numbers: smaller is better for each.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Areas {
    /// Under the curve.
    pub aurc: f64,
    /// Under that of an oracle, which puts what is right first.
    pub oracle: f64,
    /// Between the two (E-AURC; Geifman et al., 2019): what the order costs, whatever the accuracy.
    pub excess: f64,
}

impl Areas {
    /// From the arguments of [`curve`]; `None` if there are no pairs.
    pub fn of(uncertainties: &[f64], right: &[f64]) -> Option<Self> {
        if right.is_empty() {
            return None;
        }
        let losses: Vec<f64> = right.iter().map(|right| 1.0 - right).collect();
        let (aurc, oracle) = (area(&curve(uncertainties, right)), area(&curve(&losses, right)));
        Some(Self { aurc, oracle, excess: aurc - oracle })
    }
}

/// A point for every number of pairs, from the surest alone to all.
///
/// Each pair has an uncertainty, ascending from sure to unsure, and is right (1), wrong (0) or a tie (0.5).
pub fn curve(uncertainties: &[f64], right: &[f64]) -> Vec<Point> {
    let mut points = Vec::with_capacity(right.len());
    let mut wrong = 0.0;
    for group in groups(uncertainties) {
        let loss = group.iter().map(|i| 1.0 - right[*i]).sum::<f64>() / group.len() as f64;
        for _ in group {
            wrong += loss;
            let answered = (points.len() + 1) as f64;
            points.push(Point { coverage: answered / right.len() as f64, risk: wrong / answered });
        }
    }
    points
}

/// About `most` of the points, evenly spaced, the last among them.
pub fn thin(points: &[Point], most: usize) -> Vec<Point> {
    let step = points.len().div_ceil(most).max(1);
    let mut kept: Vec<Point> = points.iter().rev().step_by(step).copied().collect();
    kept.reverse();
    kept
}

fn area(points: &[Point]) -> f64 {
    mean(&points.iter().map(|point| point.risk).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::fixture::{assert_close, read};
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Case {
        uncertainties: Vec<f64>,
        right: Vec<f64>,
        risks: Vec<f64>,
        aurc: f64,
        oracle: f64,
    }

    #[test]
    fn curve_and_areas_equal_numpy_over_all_orders_of_ties() {
        for case in read::<Vec<Case>>("coverage") {
            let risks: Vec<f64> =
                curve(&case.uncertainties, &case.right).iter().map(|point| point.risk).collect();
            assert_close(&risks, &case.risks, 1e-12);
            let areas = Areas::of(&case.uncertainties, &case.right).unwrap();
            let want = [case.aurc, case.oracle, case.aurc - case.oracle];
            assert_close(&[areas.aurc, areas.oracle, areas.excess], &want, 1e-12);
        }
    }

    #[test]
    fn coverage_ends_with_all_and_their_risk() {
        let points = curve(&[0.3, 0.1, 0.2, 0.4], &[1.0, 1.0, 0.5, 0.0]);
        let coverages: Vec<f64> = points.iter().map(|point| point.coverage).collect();
        assert_eq!(coverages, [0.25, 0.5, 0.75, 1.0]);
        assert_eq!(points[3].risk, 0.375);
    }

    #[test]
    fn a_thin_curve_is_evenly_spaced_and_ends_with_all() {
        let points = curve(&[0.0; 1001], &[1.0; 1001]);
        let thin = thin(&points, 200);
        assert!((150..=200).contains(&thin.len()));
        assert_eq!((thin[0], thin.last()), (points[4], points.last()));
        assert_eq!((super::thin(&points, 5000), super::thin(&[], 5)), (points, Vec::new()));
    }

    #[test]
    fn an_oracle_has_no_excess_and_one_uncertainty_for_all_the_mean_risk() {
        let right = [0.0, 1.0, 0.5, 1.0, 0.0];
        assert_eq!(Areas::of(&right.map(|r| 1.0 - r), &right).unwrap().excess, 0.0);
        assert!((Areas::of(&[1.0; 5], &right).unwrap().aurc - 0.5).abs() < 1e-15);
        assert_eq!(Areas::of(&[], &[]), None);
    }
}

//! Area under the receiver operating characteristic: how well a score separates two kinds of items.

use super::{Z, mean, rank::ranks};
use serde::Serialize;

/// The area, and how sure it is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Auroc {
    /// P(positive > negative) + P(positive = negative) / 2, for one of each drawn at random.
    pub area: f64,
    /// 95 % interval: the normal one of DeLong's variance, within [0, 1].
    ///
    /// It has no width where the kinds are separated without an exception.
    pub interval: [f64; 2],
}

impl Auroc {
    /// From the scores of both kinds, the positives being those that should score higher; `None` if either is empty.
    ///
    /// With m positives, n negatives and average ranks (Mann and Whitney, 1947), the share of the negatives that lie below
    /// a positive is V_i = (rank in all - rank among positives) / n, and the area the mean of V. Its variance is
    /// var(V) / m + var(W) / n (DeLong et al., 1988; by ranks, Sun and Xu, 2014), with W_j the share of the positives that
    /// lie below a negative; equal scores count one half.
    pub fn of(positives: &[f64], negatives: &[f64]) -> Option<Self> {
        Self::of_groups([positives], negatives)
    }

    /// The mean of the areas of groups of positives against the same negatives; empty groups have no part in it.
    ///
    /// With G groups, each its own V_g and W_g, the variance of the mean is sum_g var(V_g) / m_g / G^2 + var(mean_g W_g) / n: groups
    /// are drawn on their own, and the negatives once.
    pub fn of_groups<'a>(groups: impl IntoIterator<Item = &'a [f64]>, negatives: &[f64]) -> Option<Self> {
        let groups: Vec<&[f64]> = groups.into_iter().filter(|group| !group.is_empty()).collect();
        if groups.is_empty() || negatives.is_empty() {
            return None;
        }
        let count = groups.len() as f64;
        let (mut area, mut variance, mut w) = (0.0, 0.0, vec![0.0; negatives.len()]);
        for positives in groups {
            let all = ranks(&[positives, negatives].concat());
            let (of_positives, of_negatives) = all.split_at(positives.len());
            let v = shares(of_positives, &ranks(positives), negatives.len());
            area += mean(&v) / count;
            variance += variance_of_mean(&v) / (count * count);
            let shares = shares(of_negatives, &ranks(negatives), positives.len());
            w.iter_mut().zip(shares).for_each(|(w, share)| *w += share / count);
        }
        let half = Z * (variance + variance_of_mean(&w)).sqrt();
        Some(Self { area, interval: [area - half, area + half].map(|end| end.clamp(0.0, 1.0)) })
    }
}

/// Share of the other kind that lies below each item.
fn shares(in_all: &[f64], among_own: &[f64], others: usize) -> Vec<f64> {
    in_all.iter().zip(among_own).map(|(all, own)| (all - own) / others as f64).collect()
}

/// Unbiased; 0 for a single value, which shows no spread.
fn variance_of_mean(values: &[f64]) -> f64 {
    let (centre, count) = (mean(values), values.len());
    let squares: f64 = values.iter().map(|value| (value - centre).powi(2)).sum();
    squares / (count * (count - 1).max(1)) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::fixture::{assert_close, read};
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;
    use rand_distr::StandardNormal;
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Fixture {
        positives: Vec<f64>,
        negatives: Vec<f64>,
        area: f64,
        interval: [f64; 2],
    }

    #[test]
    fn area_equals_scikit_learn_and_interval_its_definition() {
        let want: Fixture = read("auroc");
        let got = Auroc::of(&want.positives, &want.negatives).unwrap();
        assert!((got.area - want.area).abs() < 1e-12);
        assert_close(&got.interval, &want.interval, 1e-12);
    }

    #[test]
    fn area_is_the_share_of_ordered_couples() {
        let (positives, negatives) = ([1.0, 2.0, 2.0, 5.0], [0.0, 2.0, 3.0]);
        let couples = positives.iter().flat_map(|p| negatives.iter().map(move |n| (p, n)));
        let wins: f64 = couples
            .map(|(p, n)| {
                if p > n {
                    1.0
                } else if p == n {
                    0.5
                } else {
                    0.0
                }
            })
            .sum();
        assert!((Auroc::of(&positives, &negatives).unwrap().area - wins / 12.0).abs() < 1e-15);
    }

    #[test]
    fn exchanged_kinds_have_the_rest() {
        let (a, b) = ([0.3, 0.9, 0.4, 0.4], [0.4, 0.1, 0.2]);
        let (ab, ba) = (Auroc::of(&a, &b).unwrap(), Auroc::of(&b, &a).unwrap());
        assert_close(&[ab.area, ab.interval[0]], &[1.0 - ba.area, 1.0 - ba.interval[1]], 1e-12);
    }

    #[test]
    fn the_mean_of_areas_varies_as_it_does_over_samples() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let mut draw = |count: usize, shift: f64| -> Vec<f64> {
            (0..count).map(|_| shift + rng.sample::<f64, _>(StandardNormal)).collect()
        };
        let (mut areas, mut halves) = (Vec::new(), Vec::new());
        for _ in 0..4000 {
            let (a, b, negatives) = (draw(8, 0.2), draw(20, 0.6), draw(15, 0.0));
            let [one, other] = [&a, &b].map(|group| Auroc::of(group, &negatives).unwrap().area);
            let both = Auroc::of_groups([&a[..], &[], &b], &negatives).unwrap();
            assert!((both.area - (one + other) / 2.0).abs() < 1e-12);
            areas.push(both.area);
            halves.push((both.interval[1] - both.interval[0]) / 2.0 / Z);
        }
        let spread = |values: &[f64]| {
            (values.iter().map(|v| (v - mean(values)).powi(2)).sum::<f64>() / values.len() as f64).sqrt()
        };
        assert!((mean(&halves) / spread(&areas) - 1.0).abs() < 0.05, "{} {}", mean(&halves), spread(&areas));
    }

    #[test]
    fn ends_of_the_scale() {
        assert_eq!(Auroc::of(&[2.0, 3.0], &[1.0]), Some(Auroc { area: 1.0, interval: [1.0, 1.0] }));
        assert_eq!(Auroc::of(&[1.0; 3], &[1.0; 2]).unwrap().area, 0.5);
        assert_eq!((Auroc::of(&[], &[1.0]), Auroc::of(&[1.0], &[])), (None, None));
    }
}

//! Ranks, and the correlation of two orders.

use super::mean;

/// The indices of values in ascending order, in groups of equal values.
pub(super) fn groups(values: &[f64]) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    order.chunk_by(|a, b| values[*a] == values[*b]).map(<[usize]>::to_vec).collect()
}

/// Ascending ranks from 1; equal values share the mean of theirs.
pub fn ranks(values: &[f64]) -> Vec<f64> {
    let mut ranks = vec![0.0; values.len()];
    let mut before = 0;
    for group in groups(values) {
        let shared = before as f64 + (group.len() + 1) as f64 / 2.0;
        before += group.len();
        group.into_iter().for_each(|i| ranks[i] = shared);
    }
    ranks
}

/// Rank correlation (Spearman, 1904): that of Pearson between the ranks, which holds with ties too.
///
/// Of two slices of one length; `None` where either has no two different values.
pub fn spearman(a: &[f64], b: &[f64]) -> Option<f64> {
    let (a, b) = (centred(ranks(a)), centred(ranks(b)));
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    let scale = (dot(&a, &a) * dot(&b, &b)).sqrt();
    (scale > 0.0).then(|| dot(&a, &b) / scale)
}

fn centred(mut values: Vec<f64>) -> Vec<f64> {
    let centre = mean(&values);
    values.iter_mut().for_each(|value| *value -= centre);
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::fixture::read;
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Fixture {
        a: Vec<f64>,
        b: Vec<f64>,
        ranks_of_a: Vec<f64>,
        spearman: f64,
    }

    #[test]
    fn ranks_and_correlation_equal_scipy() {
        let want: Fixture = read("rank");
        assert_eq!(ranks(&want.a), want.ranks_of_a);
        assert!((spearman(&want.a, &want.b).unwrap() - want.spearman).abs() < 1e-12);
    }

    #[test]
    fn ranks_are_counts_of_smaller_and_equal_values() {
        let values = [0.0, 3.0, -1.0, 3.0, -0.0, 3.0];
        for (value, rank) in values.iter().zip(ranks(&values)) {
            let count = |f: fn(&f64, &f64) -> bool| values.iter().filter(|other| f(other, value)).count();
            let (smaller, equal) = (count(|a, b| a < b), count(|a, b| a == b));
            assert_eq!(rank, smaller as f64 + (equal + 1) as f64 / 2.0);
        }
    }

    #[test]
    fn correlation_is_of_the_order_alone() {
        let a = [0.1, 0.7, 0.2, 5.0];
        assert_eq!(spearman(&a, &a.map(f64::exp)), Some(1.0));
        assert_eq!(spearman(&a, &a.map(|x| -x)), Some(-1.0));
        for (a, b) in [(&[][..], &[][..]), (&[1.0], &[2.0]), (&[1.0, 1.0], &[1.0, 2.0])] {
            assert_eq!(spearman(a, b), None);
        }
    }
}

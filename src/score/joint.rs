//! Rewards of one prompt's candidates beside each other: what can be said of their differences (maths.md, section 4).
//!
//! ```text
//! f ~ N(mean, C)        C_ab = <y_a, y_b>        C' = Z C Z,  Z = I - 11^T / M        contraction = 1 - v / v0
//! P(a preferred)        sigma(mu / sqrt(1 + pi v / 8)),  mu = f_a - f_b,  v = |y_a - y_b|^2
//! P(a is best), regret  share of draws in which f_a is the highest; mean of max f - f_a
//! ```
//!
//! Draws are of N(mean, C'): the shift that all candidates share changes neither who is best nor by how much. Half of them
//! are the other half mirrored at the mean. C' is singular, and so is its factor; no jitter is needed.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use rayon::prelude::*;

use super::{Embedding, Estimate, Want, embedding::relative_estimates};
use crate::{Error, Result, evaluate::pairs::mackay, train::loss::sigmoid};

/// Pairs of mirrored draws behind a probability: its standard error is below 0.004.
const DRAWS: usize = 8192;

/// Seed of the draws behind probabilities, so that equal requests have equal answers.
const SEED: u64 = 0;

/// Pivots up to this share of the largest variance are rounding.
const ROUNDING: f64 = 1e-12;

/// The posterior of several rewards.
#[derive(Debug, Clone)]
pub struct Joint {
    embeddings: Vec<Embedding>,
    /// M x M.
    covariance: Vec<Vec<f64>>,
}

/// What is expected of each candidate, if all were drawn from the posterior.
#[derive(Debug, Clone, PartialEq)]
pub struct Prospects {
    /// Of being the best.
    pub probability: Vec<f64>,
    /// How far it lies below the best.
    pub regret: Vec<f64>,
}

impl Joint {
    /// Takes embeddings of candidates whose numbers are all finite, or refuses them.
    pub fn new(embeddings: Vec<Embedding>) -> Result<Self> {
        embeddings.iter().try_for_each(|e| e.estimate().finite(Want::Mean).map(drop))?;
        if embeddings.windows(2).any(|two| two[0].vector.len() != two[1].vector.len()) {
            return Err(Error::Internal("vectors of different lengths".into()));
        }
        let covariance = pairs(&embeddings, Embedding::covariance);
        Ok(Self { embeddings, covariance })
    }

    /// Mean and variance of each.
    pub fn estimates(&self) -> Vec<Estimate> {
        self.embeddings.iter().map(Embedding::estimate).collect()
    }

    /// M x M covariances.
    pub fn covariance(&self) -> &[Vec<f64>] {
        &self.covariance
    }

    /// M x M differences of the means, row less column.
    pub fn mean_difference(&self) -> Vec<Vec<f64>> {
        pairs(&self.embeddings, |a, b| a.mean - b.mean)
    }

    /// M x M variances of the differences.
    pub fn difference_variance(&self) -> Vec<Vec<f64>> {
        pairs(&self.embeddings, Embedding::difference_variance)
    }

    /// M x M probabilities that the row is preferred to the column.
    pub fn preference_probability(&self) -> Vec<Vec<f64>> {
        pairs(&self.embeddings, |a, b| sigmoid(mackay(a.mean - b.mean, a.difference_variance(b))))
    }

    /// M x M contractions of the differences; `None` where the prior knows a difference exactly.
    pub fn difference_contraction(&self) -> Vec<Vec<Option<f64>>> {
        pairs(&self.embeddings, Embedding::difference_contraction)
    }

    /// Mean, and variance and contraction of the difference to the mean of all.
    pub fn relative_estimates(&self) -> Vec<Estimate> {
        relative_estimates(&self.embeddings)
    }

    /// Probability and regret of each.
    pub fn prospects(&self) -> Prospects {
        let (means, factor) = (self.means(), self.factor());
        let mut rng = ChaCha8Rng::seed_from_u64(SEED);
        let count = means.len();
        let (mut wins, mut highest) = (vec![0.0; count], 0.0);
        for _ in 0..DRAWS {
            let deviations = deviations(&factor, &mut rng);
            for sign in [1.0, -1.0] {
                let drawn = means.iter().zip(&deviations).map(|(mean, deviation)| mean + sign * deviation);
                let (best, value) = largest(drawn);
                wins[best] += 1.0;
                highest += value;
            }
        }
        let draws = (2 * DRAWS) as f64;
        let probability = wins.into_iter().map(|wins| wins / draws).collect();
        // Rounding may leave the regret of a certain winner below 0.
        let regret = means.iter().map(|mean| (highest / draws - mean).max(0.0)).collect();
        Prospects { probability, regret }
    }

    /// The best of one draw from the posterior (Thompson, 1933); `stream` tells draws of one seed apart.
    pub fn thompson(&self, seed: u64, stream: u64) -> usize {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream);
        let deviations = deviations(&self.factor(), &mut rng);
        largest(self.means().iter().zip(deviations).map(|(mean, deviation)| mean + deviation)).0
    }

    fn means(&self) -> Vec<f64> {
        self.embeddings.iter().map(|embedding| embedding.mean).collect()
    }

    /// Lower-triangular L with L L^T = C', by rows.
    fn factor(&self) -> Vec<Vec<f64>> {
        let count = self.covariance.len() as f64;
        let levels: Vec<f64> = self.covariance.iter().map(|row| row.iter().sum::<f64>() / count).collect();
        let grand = levels.iter().sum::<f64>() / count;
        let centred = |(i, row): (usize, &Vec<f64>)| -> Vec<f64> {
            row[..=i].iter().zip(&levels).map(|(c, level)| c - level - levels[i] + grand).collect()
        };
        let lower = self.covariance.iter().enumerate().map(centred).collect();
        let largest = self.covariance.iter().flatten().copied().fold(0.0, f64::max);
        cholesky(lower, ROUNDING * largest)
    }
}

/// Something of every two.
fn pairs<T: Send>(embeddings: &[Embedding], of: impl Fn(&Embedding, &Embedding) -> T + Sync) -> Vec<Vec<T>> {
    let row = |a: &Embedding| embeddings.iter().map(|b| of(a, b)).collect();
    embeddings.par_iter().map(row).collect()
}

/// L with L L^T = `lower`, a positive semidefinite matrix by the rows of its lower triangle. A pivot up to `rounding` is 0, and so
/// is its column: what is left of the matrix there is rounding too.
fn cholesky(mut lower: Vec<Vec<f64>>, rounding: f64) -> Vec<Vec<f64>> {
    for i in 0..lower.len() {
        let (above, rest) = lower.split_at_mut(i);
        let row = &mut rest[0];
        for (j, other) in above.iter().enumerate() {
            let pivot = other[j];
            row[j] = if pivot > 0.0 { (row[j] - dot(&row[..j], &other[..j])) / pivot } else { 0.0 };
        }
        let pivot = row[i] - dot(&row[..i], &row[..i]);
        row[i] = if pivot > rounding { pivot.sqrt() } else { 0.0 };
    }
    lower
}

/// L z, z of independent standard normal numbers.
fn deviations(factor: &[Vec<f64>], rng: &mut ChaCha8Rng) -> Vec<f64> {
    let normal: Vec<f64> = StandardNormal.sample_iter(rng).take(factor.len()).collect();
    factor.iter().map(|row| dot(row, &normal)).collect()
}

/// Over the shorter of two.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The first of the largest values, with its place.
fn largest(values: impl Iterator<Item = f64>) -> (usize, f64) {
    let first = (0, f64::NEG_INFINITY);
    values.enumerate().fold(first, |best, next| if next.1 > best.1 { next } else { best })
}

#[cfg(test)]
mod tests {
    use std::f64::consts::SQRT_2;

    use super::*;

    fn joint(all: &[(f64, &[f32])]) -> Joint {
        let embedding = |(mean, vector): &(f64, &[f32])| Embedding {
            vector: vector.to_vec(),
            prior: vector.iter().map(|y| 2.0 * y).collect(),
            ..Embedding::of_mean(*mean)
        };
        Joint::new(all.iter().map(embedding).collect()).unwrap()
    }

    /// Of a standard normal number, by the trapezoidal rule.
    fn integral(f: impl Fn(f64) -> f64) -> f64 {
        let step = 1e-3;
        let density = |x: f64| (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
        (-9000..=9000).map(|i| f64::from(i) * step).map(|x| f(x) * density(x) * step).sum()
    }

    #[test]
    fn a_factor_gives_the_matrix_back_even_if_it_is_singular() {
        let vectors: [&[f64]; 4] = [&[1.0, 2.0], &[0.5, -1.0], &[2.0, 4.0], &[0.0, 0.0]];
        let lower =
            (0..4).map(|i| vectors[..=i].iter().map(|other| dot(vectors[i], other)).collect()).collect();
        let factor = cholesky(lower, 1e-12);
        for (i, a) in factor.iter().enumerate() {
            for (j, b) in factor.iter().enumerate() {
                assert!((dot(a, b) - dot(vectors[i], vectors[j])).abs() < 1e-12, "{i} {j}");
            }
        }
    }

    #[test]
    fn of_two_the_prospects_are_known() {
        // mu = 0.5, v = 1 + 4.
        let joint = joint(&[(1.5, &[1.0, 0.0, 7.0]), (1.0, &[0.0, 2.0, 7.0])]);
        let Prospects { probability, regret } = joint.prospects();
        let (mu, std) = (0.5, 5f64.sqrt());
        assert!((probability[0] - normal_cdf(mu / std)).abs() < 0.015, "{probability:?}");
        assert!((probability.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        let want = [-1.0, 1.0].map(|sign| integral(|z| (sign * (mu + std * z)).max(0.0)));
        for (regret, want) in regret.iter().zip(want) {
            assert!((regret - want).abs() < 0.03, "{regret} {want}");
        }
    }

    #[test]
    fn of_independent_ones_the_probabilities_are_those_of_quadrature() {
        let means = [0.0, 0.3, 0.6];
        let joint = joint(&[(0.0, &[2.0, 0.0, 0.0]), (0.3, &[0.0, 1.0, 0.0]), (0.6, &[0.0, 0.0, 0.5])]);
        let stds = [2.0, 1.0, 0.5];
        let probability = joint.prospects().probability;
        for (best, got) in probability.iter().enumerate() {
            let others = (0..3).filter(|i| *i != best);
            let below =
                |x: f64| others.clone().map(|i| normal_cdf((x - means[i]) / stds[i])).product::<f64>();
            let want = integral(|z| below(means[best] + stds[best] * z));
            assert!((got - want).abs() < 0.015, "{best}: {probability:?} {want}");
        }
    }

    /// Phi by the error function's continued fraction and series, good to 1e-7 (Abramowitz and Stegun, 7.1.26).
    fn normal_cdf(x: f64) -> f64 {
        let z = x.abs() / SQRT_2;
        let t = 1.0 / (1.0 + 0.327_591_1 * z);
        let series = [1.061_405_429, -1.453_152_027, 1.421_413_741, -0.284_496_736, 0.254_829_592];
        let tail = series.iter().fold(0.0, |sum, c| (sum + c) * t) * (-z * z).exp() / 2.0;
        if x < 0.0 { tail } else { 1.0 - tail }
    }

    #[test]
    fn what_is_certain_is_certain() {
        let joint = joint(&[(1.0, &[3.0]), (2.0, &[3.0]), (0.0, &[3.0])]);
        let Prospects { probability, regret } = joint.prospects();
        assert_eq!(probability, [0.0, 1.0, 0.0]);
        assert!(
            regret.iter().zip([1.0, 0.0, 2.0]).all(|(got, want)| (got - want).abs() < 1e-9),
            "{regret:?}"
        );
        assert_eq!((0..9).map(|stream| joint.thompson(7, stream)).collect::<Vec<_>>(), [1; 9]);
    }

    #[test]
    fn thompsons_picks_are_as_frequent_as_the_candidates_are_best() {
        let joint = joint(&[(0.0, &[1.0, 0.0]), (0.5, &[0.0, 1.0])]);
        let picks: Vec<usize> = (0..4000).map(|stream| joint.thompson(1, stream)).collect();
        let share = picks.iter().sum::<usize>() as f64 / 4000.0;
        assert!((share - normal_cdf(0.5 / SQRT_2)).abs() < 0.03, "{share}");
        assert_eq!(joint.thompson(1, 5), picks[5]);
    }

    #[test]
    fn preferences_are_shrunk_by_the_variance_of_the_difference_alone() {
        let joint = joint(&[(1.0, &[1.0, 0.5]), (0.0, &[1.0, 0.5]), (0.0, &[1.0, 2.5])]);
        let probability = joint.preference_probability();
        assert_eq!(probability[0][1], sigmoid(1.0));
        assert_eq!(probability[0][2], sigmoid(mackay(1.0, 4.0)));
        assert!((probability[2][0] + probability[0][2] - 1.0).abs() < 1e-15);
        assert_eq!(joint.covariance()[0][2], 2.25);
        assert_eq!(joint.difference_variance()[0], [0.0, 0.0, 4.0]);
        let relative = joint.relative_estimates();
        for (got, want) in relative.iter().zip([4.0 / 9.0, 4.0 / 9.0, 16.0 / 9.0]) {
            assert!((got.variance.unwrap() - want).abs() < 1e-12, "{relative:?}");
            assert!((got.contraction.unwrap() - 0.75).abs() < 1e-12, "{relative:?}");
        }
        let contraction = joint.difference_contraction();
        assert_eq!((contraction[0][1], contraction[0][2]), (None, Some(0.75)));
    }
}

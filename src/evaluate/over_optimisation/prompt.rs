//! The answers to one prompt, and what is chosen out of any n of them.

use super::{
    super::{best_of_n::Weights, mean, select::Pool},
    Family,
};
use rand::seq::index::sample;
use rand_chacha::ChaCha8Rng;

/// Sets of n answers, at most.
const SUBSETS: usize = 256;

/// The rewards of the M answers to one prompt, under the posterior of one proxy.
#[derive(Debug, Clone, PartialEq)]
pub struct Joint {
    pub means: Vec<f64>,
    pub head_variances: Vec<f64>,
    /// M x M by rows.
    pub covariance: Vec<f64>,
}

impl Joint {
    /// The same of some of the answers.
    fn among(&self, answers: &[usize]) -> Self {
        let pick = |values: &[f64]| answers.iter().map(|i| values[*i]).collect();
        let row = |i: &usize| {
            let row = &self.covariance[i * self.means.len()..][..self.means.len()];
            answers.iter().map(|j| row[*j])
        };
        Self {
            means: pick(&self.means),
            head_variances: pick(&self.head_variances),
            covariance: answers.iter().flat_map(row).collect(),
        }
    }
}

/// One prompt's answers as one proxy sees them.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// Everything the rules of the whole posterior and of an ensemble read.
    pub(super) pool: Pool,
    /// The same with the variances of the head alone.
    pub(super) head: Pool,
    /// All proxies and their posteriors as one model ([`Pool::of_members`]), where there are several.
    pub(super) total: Option<Pool>,
}

/// One prompt's answers as each proxy sees them.
fn seen(proxies: &[Joint]) -> Vec<Seen> {
    let several = proxies.len() > 1;
    let members: Vec<(&[f64], &[f64])> =
        proxies.iter().map(|of| (&of.means[..], &of.covariance[..])).collect();
    let means: Vec<&[f64]> = members.iter().map(|(means, _)| *means).collect();
    let total = several.then(|| Pool::of_members(&members));
    let of_proxy = |proxy: &Joint| {
        let answers = proxy.means.len();
        let mut head = vec![0.0; answers * answers];
        proxy.head_variances.iter().enumerate().for_each(|(i, variance)| head[i * (answers + 1)] = *variance);
        let pool = Pool::new(proxy.means.clone());
        let head = pool.clone().with_covariance(&head);
        let pool = pool.with_covariance(&proxy.covariance);
        Seen { pool: if several { pool.with_ensemble(&means) } else { pool }, head, total: total.clone() }
    };
    proxies.iter().map(of_proxy).collect()
}

/// The answers to one prompt.
pub(super) struct Prompt {
    joints: Vec<Joint>,
    pub(super) seen: Vec<Seen>,
    /// Gold rewards less their mean.
    pub(super) gold: Vec<f64>,
    /// Of each proxy, its means less their mean.
    pub(super) means: Vec<Vec<f64>>,
    /// The means of all proxies, averaged.
    ensemble: Vec<f64>,
}

/// Gold and proxy of what was chosen, each by n.
pub(super) type Chosen = [Vec<f64>; 2];

impl Prompt {
    pub(super) fn new(joints: Vec<Joint>, gold: &[f64]) -> Self {
        let means: Vec<Vec<f64>> = joints.iter().map(|of| centred(&of.means)).collect();
        let average = |i| means.iter().map(|of: &Vec<f64>| of[i]).sum::<f64>() / means.len() as f64;
        let ensemble = (0..gold.len()).map(average).collect();
        Self { seen: seen(&joints), joints, gold: centred(gold), means, ensemble }
    }

    /// The rewards that are read off what a family chose with the numbers of a proxy.
    fn values(&self, family: Family, proxy: usize) -> [&[f64]; 2] {
        [&self.gold, if family.of_ensemble() { &self.ensemble } else { &self.means[proxy] }]
    }

    /// By proxy, and then by k; what all proxies decide together is the same for each, and there once. `None` where the pools lack
    /// what the family reads.
    pub(super) fn chosen(
        &self,
        family: Family,
        grid: &[f64],
        n: &[usize],
        rng: ChaCha8Rng,
    ) -> Option<Vec<Vec<Chosen>>> {
        let proxies = if family.of_ensemble() { 1 } else { self.seen.len() };
        if family.compares() {
            return self.by_subsets(family, grid, proxies, n, rng);
        }
        let weights = Weights::new(self.gold.len(), n);
        let of = |proxy: usize, k: f64| {
            let scores = family.scores(k, &self.seen[proxy])?;
            Some(self.values(family, proxy).map(|values| weights.estimates(&scores, values)))
        };
        (0..proxies).map(|proxy| grid.iter().map(|k| of(proxy, *k)).collect()).collect()
    }

    /// The mean over sets of n answers, whose scores are those that they have among themselves.
    fn by_subsets(
        &self,
        family: Family,
        grid: &[f64],
        proxies: usize,
        n: &[usize],
        mut rng: ChaCha8Rng,
    ) -> Option<Vec<Vec<Chosen>>> {
        let mut sums = vec![vec![[vec![0.0; n.len()], vec![0.0; n.len()]]; grid.len()]; proxies];
        for (at, n) in n.iter().enumerate() {
            let subsets = subsets(self.gold.len(), *n, &mut rng);
            for subset in &subsets {
                let among: Vec<Joint> = self.joints.iter().map(|joint| joint.among(subset)).collect();
                for (proxy, seen) in seen(&among).iter().enumerate().take(proxies) {
                    for (k, sum) in grid.iter().zip(&mut sums[proxy]) {
                        let best = best(&family.scores(*k, seen)?);
                        for (sum, values) in sum.iter_mut().zip(self.values(family, proxy)) {
                            let chosen = best.iter().map(|i| values[subset[*i]]).sum::<f64>();
                            sum[at] += chosen / (best.len() * subsets.len()) as f64;
                        }
                    }
                }
            }
        }
        Some(sums)
    }
}

/// All sets of n answers where there are few, and else some at random.
fn subsets(answers: usize, n: usize, rng: &mut ChaCha8Rng) -> Vec<Vec<usize>> {
    let all: Vec<Vec<usize>> = combinations(answers, n).take(SUBSETS + 1).collect();
    if all.len() <= SUBSETS {
        return all;
    }
    (0..SUBSETS).map(|_| sample(rng, answers, n).into_vec()).collect()
}

/// Sets of n of the first numbers, in ascending order.
fn combinations(answers: usize, n: usize) -> impl Iterator<Item = Vec<usize>> {
    std::iter::successors(Some((0..n).collect::<Vec<_>>()), move |last| {
        let at = (0..n).rev().find(|i| last[*i] < answers - n + i)?;
        let tail = (last[at] + 1..).take(n - at);
        Some(last[..at].iter().copied().chain(tail).collect())
    })
}

/// The answers that no other's score is above.
fn best(scores: &[f64]) -> Vec<usize> {
    let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (0..scores.len()).filter(|i| scores[*i] == most).collect()
}

pub(super) fn centred(values: &[f64]) -> Vec<f64> {
    let centre = mean(values);
    values.iter().map(|value| value - centre).collect()
}

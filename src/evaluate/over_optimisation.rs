//! Whether choosing by a proxy reward ends where the gold reward falls, and whether a penalty on uncertainty helps.
//!
//! Best-of-n selection optimises the proxy harder as n grows; Gao et al. (2023, arXiv 2210.10760) and Coste et al. (2023, arXiv
//! 2310.02743) draw the gold reward of what was chosen against KL = ln n - (n - 1) / n. Here every rule that chooses is read from
//! the same pools: what a proxy's mean chooses, and what it chooses less a penalty of strength k.
//!
//! A relative variance, and what the members of an ensemble differ by, depend on the answers that are compared. So such a rule chooses
//! out of n answers by the scores that these n have among themselves, as it would if there were no others, and what it chooses is
//! averaged over sets of n: all of them where they are few, and else some at random. Scores that are each answer's own need no sets
//! ([`super::best_of_n`]).
//!
//! A k that was chosen on the prompts that it is judged on looks better than it is. So the prompts are halved, k is chosen on
//! one half, by the gold reward at the largest n, and judged on the other; and the other way round.

mod family;
mod prompt;

use super::{
    best_of_n::{kl, sizes},
    bootstrap::crossed,
    mean,
    rank::spearman,
    select::{Pool, Rule},
};
use prompt::{Prompt, centred};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rayon::iter::{IndexedParallelIterator, IntoParallelRefIterator, ParallelIterator};
use serde::Serialize;

pub use family::Family;
pub use prompt::Joint;

/// Resamples of an interval.
const RESAMPLES: usize = 2000;

/// The rules that take off one standard deviation.
const STDS: [Rule; 2] = [Rule::Std(1.0), Rule::RelativeStd(1.0)];

/// A number for each n, with its 95 % interval.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Curve {
    pub value: Vec<f64>,
    pub interval: Vec<[f64; 2]>,
}

/// A rule of one strength on all prompts.
#[derive(Debug, Clone, Serialize)]
pub struct Run {
    pub family: Family,
    pub k: f64,
    /// Gold reward above that of a random answer.
    pub gold: Curve,
    /// The proxy's mean of what was chosen, above that of a random answer; of an ensemble, the mean over its members.
    pub proxy: Curve,
}

/// A family whose k was chosen on other prompts than those it is judged on.
#[derive(Debug, Clone, Serialize)]
pub struct Judged {
    pub family: Family,
    /// The k that each half chose for the other.
    pub k: [f64; 2],
    pub gold: Curve,
    pub proxy: Curve,
    /// Gold reward less that of the mean's choice, prompt by prompt.
    pub above_mean: Curve,
}

/// The whole comparison.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub prompts: usize,
    pub proxies: usize,
    pub n: Vec<usize>,
    pub kl: Vec<f64>,
    pub runs: Vec<Run>,
    pub judged: Vec<Judged>,
    /// Rank correlation of the proxy's mean and the gold reward within a pool.
    pub agreement: Average,
    /// The same of certainty and the gold reward: less the standard deviation, and less the relative one.
    pub certainty: [Average; 2],
    /// The same of the standard deviation, and of the relative one, with the size of the error: |proxy - gold|, both centred and
    /// scaled within the pool.
    pub error_found: [Average; 2],
}

/// A mean over prompts and proxies, with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Average {
    pub value: f64,
    pub interval: [f64; 2],
}

/// Values of one rule: by proxy, then prompt, then n.
type Values = Vec<Vec<Vec<f64>>>;

/// k, and the gold and the proxy of what it chose.
struct Tried {
    k: f64,
    gold: Values,
    proxy: Values,
}

/// Compares rules on pools of equal size: `joints` by proxy and prompt, `gold` by prompt, strengths `grid`.
///
/// # Panics
///
/// Unless every proxy has seen every prompt, and every pool has as many answers as the first.
pub fn compare(joints: Vec<Vec<Joint>>, gold: &[Vec<f64>], grid: &[f64], seed: u64) -> Report {
    let n = sizes(gold.first().map_or(0, Vec::len));
    let proxies = joints.len();
    let mut joints: Vec<_> = joints.into_iter().map(Vec::into_iter).collect();
    let mut of_prompt = || joints.iter_mut().filter_map(Iterator::next).collect();
    let prompts = gold.iter().map(|gold| Prompt::new(of_prompt(), gold)).collect();
    let study = Study { prompts, proxies, n: &n, seed };
    let (mut runs, mut judged) = (Vec::new(), Vec::new());
    let mut base = None;
    for family in Family::ALL {
        let tried = study.tried(family, if family.has_strength() { grid } else { &[0.0] });
        if tried.is_empty() {
            continue;
        }
        runs.extend(tried.iter().map(|Tried { k, gold, proxy }| Run {
            family,
            k: *k,
            gold: study.curve(gold),
            proxy: study.curve(proxy),
        }));
        // The first family is the mean's.
        let base = base.get_or_insert_with(|| tried[0].gold.clone());
        judged.push(study.judge(family, &tried, base));
    }
    Report {
        prompts: gold.len(),
        proxies,
        kl: n.iter().map(|n| kl(*n)).collect(),
        runs,
        judged,
        agreement: study.agreement(),
        certainty: STDS.map(|rule| study.certainty(rule)),
        error_found: STDS.map(|rule| study.error_found(rule)),
        n,
    }
}

struct Study<'a> {
    prompts: Vec<Prompt>,
    proxies: usize,
    n: &'a [usize],
    seed: u64,
}

impl Study<'_> {
    /// What a family chooses with each strength, above a random answer; nothing where the pools lack what it reads.
    fn tried(&self, family: Family, grid: &[f64]) -> Vec<Tried> {
        let chosen = self.prompts.par_iter().enumerate().map(|(i, prompt)| {
            // The same sets of a prompt's answers for every rule.
            let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
            rng.set_stream(i as u64);
            prompt.chosen(family, grid, self.n, rng)
        });
        let Some(chosen) = chosen.collect::<Option<Vec<_>>>() else { return Vec::new() };
        let proxies = chosen.first().map_or(0, Vec::len);
        let values = |k: usize, which: usize| -> Values {
            let of = |proxy: usize| chosen.iter().map(|of| of[proxy][k][which].clone()).collect();
            (0..proxies).map(of).collect()
        };
        grid.iter()
            .enumerate()
            .map(|(at, k)| Tried { k: *k, gold: values(at, 0), proxy: values(at, 1) })
            .collect()
    }

    /// Means over proxies and prompts; intervals over prompts, whose answers all proxies share, and over proxies.
    fn curve(&self, values: &Values) -> Curve {
        let prompts = values.first().map_or(0, Vec::len);
        let of = |n: usize, prompts: &[usize], proxies: &[usize]| {
            let each = proxies.iter().flat_map(|p| prompts.iter().map(|i| values[*p][*i][n]));
            each.sum::<f64>() / (proxies.len() * prompts.len()) as f64
        };
        let (all, proxies): (Vec<usize>, Vec<usize>) = ((0..prompts).collect(), (0..values.len()).collect());
        let interval = |n: usize| {
            crossed([prompts, values.len()], RESAMPLES, self.seed, |[prompts, proxies]| {
                of(n, prompts, proxies)
            })
        };
        Curve {
            value: (0..self.n.len()).map(|n| of(n, &all, &proxies)).collect(),
            interval: (0..self.n.len()).map(interval).collect(),
        }
    }

    /// Every second prompt is judged with the k that is best on the others.
    fn judge(&self, family: Family, tried: &[Tried], base: &Values) -> Judged {
        let last = self.n.len().saturating_sub(1);
        let best = |half: usize| {
            let at_the_end = |values: &Values| {
                values.iter().flat_map(|v| v.iter().skip(half).step_by(2)).map(|v| v[last]).sum::<f64>()
            };
            let scored = tried.iter().map(|tried| at_the_end(&tried.gold)).enumerate();
            scored.fold((0, f64::NEG_INFINITY), |best, this| if this.1 > best.1 { this } else { best }).0
        };
        let chosen = [best(1), best(0)];
        let take = |of: fn(&Tried) -> &Values| -> Values {
            let proxies = tried.first().map_or(0, |tried| of(tried).len());
            let prompt = |p: usize, i: usize| of(&tried[chosen[i % 2]])[p][i].clone();
            (0..proxies).map(|p| (0..self.prompts.len()).map(|i| prompt(p, i)).collect()).collect()
        };
        let (gold, proxy) = (take(|tried| &tried.gold), take(|tried| &tried.proxy));
        let of_mean = |p: usize, i: usize, n: usize| match gold.len() == base.len() {
            true => base[p][i][n],
            false => base.iter().map(|base| base[i][n]).sum::<f64>() / base.len() as f64,
        };
        let less = |p, i, of: &Vec<f64>| of.iter().enumerate().map(|(n, g)| g - of_mean(p, i, n)).collect();
        let of_proxy = |(p, of): (usize, &Vec<Vec<f64>>)| -> Vec<Vec<f64>> {
            of.iter().enumerate().map(|(i, of)| less(p, i, of)).collect()
        };
        let above: Values = gold.iter().enumerate().map(of_proxy).collect();
        Judged {
            family,
            k: chosen.map(|at| tried[at].k),
            gold: self.curve(&gold),
            proxy: self.curve(&proxy),
            above_mean: self.curve(&above),
        }
    }

    fn agreement(&self) -> Average {
        self.average(|prompt, p| spearman(&prompt.means[p], &prompt.gold))
    }

    fn certainty(&self, rule: Rule) -> Average {
        self.average(|prompt, p| {
            let certainty: Vec<f64> = spread(&prompt.seen[p].pool, rule)?.iter().map(|std| -std).collect();
            spearman(&certainty, &prompt.gold)
        })
    }

    fn error_found(&self, rule: Rule) -> Average {
        self.average(|prompt, p| {
            let (proxy, gold) = (standardised(&prompt.means[p]), standardised(&prompt.gold));
            let error: Vec<f64> = proxy.iter().zip(gold).map(|(p, g)| (p - g).abs()).collect();
            spearman(&spread(&prompt.seen[p].pool, rule)?, &error)
        })
    }

    /// Pools without a value are left out; the interval as of [`Study::curve`].
    fn average(&self, of: impl Fn(&Prompt, usize) -> Option<f64>) -> Average {
        let of_proxy =
            |p: usize| -> Vec<Option<f64>> { self.prompts.iter().map(|prompt| of(prompt, p)).collect() };
        let values: Vec<Vec<Option<f64>>> = (0..self.proxies).map(of_proxy).collect();
        let over = |prompts: &[usize], proxies: &[usize]| {
            let some = proxies.iter().flat_map(|p| prompts.iter().filter_map(|i| values[*p][*i]));
            let some: Vec<f64> = some.collect();
            if some.is_empty() { 0.0 } else { mean(&some) }
        };
        let (prompts, proxies) = (self.prompts.len(), values.len());
        let all = |count: usize| (0..count).collect::<Vec<_>>();
        let interval =
            crossed([prompts, proxies], RESAMPLES, self.seed, |[prompts, proxies]| over(prompts, proxies));
        Average { value: over(&all(prompts), &all(proxies)), interval }
    }
}

/// The standard deviations that a rule takes off.
fn spread(pool: &Pool, rule: Rule) -> Option<Vec<f64>> {
    let (means, scores) = (Rule::Mean.scores(pool)?, rule.scores(pool)?);
    Some(means.iter().zip(scores).map(|(mean, score)| mean - score).collect())
}

/// Values with mean 0 and standard deviation 1.
fn standardised(values: &[f64]) -> Vec<f64> {
    let centred = centred(values);
    let spread = mean(&centred.iter().map(|v| v * v).collect::<Vec<f64>>()).sqrt();
    centred.iter().map(|v| v / spread.max(f64::MIN_POSITIVE)).collect()
}

#[cfg(test)]
mod tests;

//! Whether choosing by a proxy reward ends where the gold reward falls, and whether a penalty on uncertainty helps.
//!
//! Best-of-n selection optimises the proxy harder as n grows; Gao et al. (2023, arXiv 2210.10760) and Coste et al. (2023, arXiv
//! 2310.02743) draw the gold reward of what was chosen against KL = ln n - (n - 1) / n. Here every rule that chooses is read from
//! the same pools: what a proxy's mean chooses, and what it chooses less a penalty of strength k.
//!
//! A k that was chosen on the prompts that it is judged on looks better than it is. So the prompts are halved, k is chosen on
//! one half, by the gold reward at the largest n, and judged on the other; and the other way round.

use super::{
    best_of_n::{Weights, kl, sizes},
    bootstrap::crossed,
    mean,
    rank::spearman,
    select::{Pool, Rule},
};
use serde::Serialize;
use std::collections::BTreeMap;

/// Resamples of an interval.
const RESAMPLES: usize = 2000;

/// The rules that take off one standard deviation.
const STDS: [Rule; 2] = [Rule::Std(1.0), Rule::RelativeStd(1.0)];

/// One prompt's answers as one proxy sees them.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Everything the rules of the whole posterior and of an ensemble read.
    pub pool: Pool,
    /// The same with the variances of the head alone.
    pub head: Pool,
    /// All proxies and their posteriors as one model ([`Pool::of_members`]), where there are several.
    pub total: Option<Pool>,
    /// The proxy's means.
    pub means: Vec<f64>,
}

/// What is done with a proxy's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    Mean,
    Std,
    Variance,
    RelativeStd,
    RelativeVariance,
    HeadStd,
    EnsembleMean,
    WorstCase,
    Uwo,
    Entropic,
    TotalStd,
    RelativeTotalStd,
}

impl Family {
    pub const ALL: [Self; 12] = [
        Self::Mean,
        Self::Std,
        Self::Variance,
        Self::RelativeStd,
        Self::RelativeVariance,
        Self::HeadStd,
        Self::EnsembleMean,
        Self::WorstCase,
        Self::Uwo,
        Self::Entropic,
        Self::TotalStd,
        Self::RelativeTotalStd,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Std => "std",
            Self::Variance => "variance",
            Self::RelativeStd => "relative std",
            Self::RelativeVariance => "relative variance",
            Self::HeadStd => "std of the head alone",
            Self::EnsembleMean => "ensemble mean",
            Self::WorstCase => "ensemble worst case",
            Self::Uwo => "ensemble UWO",
            Self::Entropic => "ensemble entropic",
            Self::TotalStd => "ensemble total std",
            Self::RelativeTotalStd => "ensemble relative total std",
        }
    }

    /// Whether there is a k to choose.
    pub fn has_strength(self) -> bool {
        !matches!(self, Self::Mean | Self::EnsembleMean | Self::WorstCase)
    }

    /// Whether it reads the means of several proxies, and so is the same for each.
    pub fn of_ensemble(self) -> bool {
        use Family::{EnsembleMean, Entropic, RelativeTotalStd, TotalStd, Uwo, WorstCase};
        matches!(self, EnsembleMean | WorstCase | Uwo | Entropic | TotalStd | RelativeTotalStd)
    }

    fn rule(self, k: f64) -> Rule {
        match self {
            Self::Mean => Rule::Mean,
            Self::Std | Self::HeadStd | Self::TotalStd => Rule::Std(k),
            Self::Variance => Rule::Variance(k),
            Self::RelativeStd | Self::RelativeTotalStd => Rule::RelativeStd(k),
            Self::RelativeVariance => Rule::RelativeVariance(k),
            Self::EnsembleMean => Rule::EnsembleMean,
            Self::WorstCase => Rule::WorstCase,
            Self::Uwo => Rule::Uwo(k),
            Self::Entropic => Rule::Entropic(k),
        }
    }

    /// The numbers that it reads.
    fn pool(self, seen: &Seen) -> Option<&Pool> {
        match self {
            Self::HeadStd => Some(&seen.head),
            Self::TotalStd | Self::RelativeTotalStd => seen.total.as_ref(),
            _ => Some(&seen.pool),
        }
    }
}

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
    /// The proxy's mean of what was chosen, above that of a random answer.
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
type Tried = (f64, Values, Values);

/// Compares rules on pools of equal size: `seen` by proxy and prompt, `gold` by prompt, strengths `grid`.
///
/// # Panics
///
/// Unless every proxy has seen every prompt, and every pool has as many answers as the first.
pub fn compare(seen: &[Vec<Seen>], gold: &[Vec<f64>], grid: &[f64], seed: u64) -> Report {
    let answers = gold.first().map_or(0, Vec::len);
    let n = sizes(answers);
    let study = Study { seen, gold, weights: Weights::new(answers, &n), n: n.len(), seed };
    let mut runs = Vec::new();
    let mut values: BTreeMap<Family, Vec<Tried>> = BTreeMap::new();
    for family in Family::ALL {
        let strengths: &[f64] = if family.has_strength() { grid } else { &[0.0] };
        for k in strengths {
            let Some((gold, proxy)) = study.values(family, *k) else { continue };
            runs.push(Run { family, k: *k, gold: study.curve(&gold), proxy: study.curve(&proxy) });
            values.entry(family).or_default().push((*k, gold, proxy));
        }
    }
    let base = values.get(&Family::Mean).and_then(|mean| mean.first()).map(|(_, gold, _)| gold.clone());
    let judged = values.iter().map(|(family, tried)| study.judge(*family, tried, base.as_ref())).collect();
    Report {
        prompts: gold.len(),
        proxies: seen.len(),
        kl: n.iter().map(|n| kl(*n)).collect(),
        n,
        runs,
        judged,
        agreement: study.agreement(),
        certainty: STDS.map(|rule| study.certainty(rule)),
        error_found: STDS.map(|rule| study.error_found(rule)),
    }
}

struct Study<'a> {
    seen: &'a [Vec<Seen>],
    gold: &'a [Vec<f64>],
    weights: Weights,
    n: usize,
    seed: u64,
}

impl Study<'_> {
    /// Gold and proxy of what a rule chooses, above a random answer; `None` where the pools lack what it reads.
    fn values(&self, family: Family, k: f64) -> Option<(Values, Values)> {
        // What all proxies decide together is the same for each.
        let proxies = if family.of_ensemble() { &self.seen[..self.seen.len().min(1)] } else { self.seen };
        let (mut golds, mut means) = (Vec::new(), Vec::new());
        for seen in proxies {
            let (mut gold_of, mut mean_of) = (Vec::new(), Vec::new());
            for (seen, gold) in seen.iter().zip(self.gold) {
                let scores = family.rule(k).scores(family.pool(seen)?)?;
                let above = |values: &[f64]| {
                    let level = mean(values);
                    let estimates = self.weights.estimates(&scores, values);
                    estimates.into_iter().map(|estimate| estimate - level).collect::<Vec<f64>>()
                };
                gold_of.push(above(gold));
                mean_of.push(above(&seen.means));
            }
            golds.push(gold_of);
            means.push(mean_of);
        }
        Some((golds, means))
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
            value: (0..self.n).map(|n| of(n, &all, &proxies)).collect(),
            interval: (0..self.n).map(interval).collect(),
        }
    }

    /// Every second prompt is judged with the k that is best on the others.
    fn judge(&self, family: Family, tried: &[Tried], base: Option<&Values>) -> Judged {
        let last = self.n.saturating_sub(1);
        let best = |half: usize| {
            let at_the_end = |values: &Values| {
                values.iter().flat_map(|v| v.iter().skip(half).step_by(2)).map(|v| v[last]).sum::<f64>()
            };
            let scored = tried.iter().map(|(_, gold, _)| at_the_end(gold)).enumerate();
            scored.fold((0, f64::NEG_INFINITY), |best, this| if this.1 > best.1 { this } else { best }).0
        };
        let chosen = [best(1), best(0)];
        let take = |of: fn(&Tried) -> &Values| -> Values {
            let proxies = tried.first().map_or(0, |tried| of(tried).len());
            let prompt = |p: usize, i: usize| of(&tried[chosen[i % 2]])[p][i].clone();
            (0..proxies).map(|p| (0..self.gold.len()).map(|i| prompt(p, i)).collect()).collect()
        };
        let (gold, proxy) = (take(|tried| &tried.1), take(|tried| &tried.2));
        let above = base.map(|base| {
            let of_mean = |p: usize, i: usize, n: usize| match gold.len() == base.len() {
                true => base[p][i][n],
                false => base.iter().map(|base| base[i][n]).sum::<f64>() / base.len() as f64,
            };
            let less =
                |p, i, of: &Vec<f64>| of.iter().enumerate().map(|(n, g)| g - of_mean(p, i, n)).collect();
            let of_proxy = |(p, of): (usize, &Vec<Vec<f64>>)| -> Vec<Vec<f64>> {
                of.iter().enumerate().map(|(i, of)| less(p, i, of)).collect()
            };
            gold.iter().enumerate().map(of_proxy).collect::<Values>()
        });
        Judged {
            family,
            k: chosen.map(|at| tried[at].0),
            gold: self.curve(&gold),
            proxy: self.curve(&proxy),
            above_mean: above.map(|above| self.curve(&above)).unwrap_or_default(),
        }
    }

    fn agreement(&self) -> Average {
        self.average(|seen, gold| spearman(&seen.means, gold))
    }

    fn certainty(&self, rule: Rule) -> Average {
        self.average(|seen, gold| {
            let certainty: Vec<f64> = spread(seen, rule)?.iter().map(|std| -std).collect();
            spearman(&certainty, gold)
        })
    }

    fn error_found(&self, rule: Rule) -> Average {
        self.average(|seen, gold| {
            let (proxy, gold) = (standardised(&seen.means), standardised(gold));
            let error: Vec<f64> = proxy.iter().zip(gold).map(|(p, g)| (p - g).abs()).collect();
            spearman(&spread(seen, rule)?, &error)
        })
    }

    /// Pools without a value are left out; the interval as of [`Study::curve`].
    fn average(&self, of: impl Fn(&Seen, &[f64]) -> Option<f64>) -> Average {
        let of_proxy = |seen: &Vec<Seen>| -> Vec<Option<f64>> {
            seen.iter().zip(self.gold).map(|(seen, gold)| of(seen, gold)).collect()
        };
        let values: Vec<Vec<Option<f64>>> = self.seen.iter().map(of_proxy).collect();
        let over = |prompts: &[usize], proxies: &[usize]| {
            let some = proxies.iter().flat_map(|p| prompts.iter().filter_map(|i| values[*p][*i]));
            let some: Vec<f64> = some.collect();
            if some.is_empty() { 0.0 } else { mean(&some) }
        };
        let (prompts, proxies) = (self.gold.len(), values.len());
        let all = |count: usize| (0..count).collect::<Vec<_>>();
        let interval =
            crossed([prompts, proxies], RESAMPLES, self.seed, |[prompts, proxies]| over(prompts, proxies));
        Average { value: over(&all(prompts), &all(proxies)), interval }
    }
}

/// The standard deviations that a rule takes off.
fn spread(seen: &Seen, rule: Rule) -> Option<Vec<f64>> {
    let scores = rule.scores(&seen.pool)?;
    Some(seen.means.iter().zip(scores).map(|(mean, score)| mean - score).collect())
}

/// Values with mean 0 and standard deviation 1.
fn standardised(values: &[f64]) -> Vec<f64> {
    let centre = mean(values);
    let spread = mean(&values.iter().map(|v| (v - centre).powi(2)).collect::<Vec<f64>>()).sqrt();
    values.iter().map(|v| (v - centre) / spread.max(f64::MIN_POSITIVE)).collect()
}

#[cfg(test)]
mod tests;

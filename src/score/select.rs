//! Conservative best-of-n with its exact winner, and without most of the variances.
//!
//! ```text
//! v_i = head_i + sum over layers, from the top, of what their blocks add      every term >= 0
//! u_i = bound(mean_i, the sum so far)  >=  score(mean_i, v_i, c_i)            score and bound as in `penalty`
//! ```
//!
//! The head's term is known after the forward, and the backward adds the layers one by one, so u_i only falls while
//! candidate i is walked down. The contraction c_i is known at the bottom alone, so that rules that read it are bounded by the mean,
//! or by the baseline above it. A candidate leaves where u_i is less than the best complete score, or equal to it with a higher
//! index: it cannot win any more. Candidates go down in waves of 1, 4, 16, ... by falling u_i: the first is the likeliest
//! winner, whose score lets most of the others leave early, and those go together because small batches are slow.
//!
//! The winner is that of all n scores, ties to the lowest index, to the last bit: sums are taken in the order of the full
//! computation, and adding a term >= 0, the square root, the factor and the difference are monotone in floating point too.
//! This holds for penalties that grow with a candidate's own variance, not for those relative to other candidates. Equal
//! sequences tie only where they are computed once ([`distinct`]): the place in a batch may change a number's last bits.
//! Where the first k places are wanted, the k-th best complete score takes the part of the best.

use std::{collections::HashMap, mem};

use super::{Estimate, Rated, Want, penalty::Penalty};
use crate::{Error, Result, text::TokenSeq};

mod waves;

pub use waves::Waves;

/// How many times as many candidates as the wave before go down in the next one.
const GROWTH: usize = 4;

/// Candidates whose forward has run.
pub trait Pool {
    /// Returns the mean of each candidate.
    fn means(&self) -> &[f64];

    /// Returns what the reward head's block adds to each candidate's variance; 0 where the head is known exactly.
    fn head_variances(&self) -> &[f64];

    /// Returns how many layers a complete descent walks.
    fn depth(&self) -> usize;

    /// Starts the backward of some candidates, given by index, at the top layer.
    fn descend(&self, candidates: &[usize]) -> Result<Box<dyn Descent + '_>>;
}

/// A backward of several candidates that stops after every layer.
pub trait Descent {
    /// Returns the prior variance of each candidate that is left, of the blocks so far.
    fn prior_variances(&self) -> Vec<f64>;

    /// Walks the next layer down, and adds what each of its blocks contributes to the sum of each candidate, in the order
    /// in which a complete backward adds them.
    fn layer(&mut self, sums: &mut [f64]) -> Result<()>;

    /// Goes on with some of the candidates only: ascending positions among those that are left.
    fn keep(&mut self, positions: &[usize]) -> Result<()>;
}

/// The candidate with the highest conservative score, and what it took to find it.
#[derive(Debug, Clone, PartialEq)]
pub struct Selected {
    /// Index of the winner.
    pub index: usize,
    /// The winner's estimate and score; without a variance where the penalty needs none.
    pub rated: Rated,
    /// What is known of every candidate, by index: without a variance where it was not computed in full.
    pub known: Vec<Estimate>,
    /// How much of the backward was walked.
    pub work: Work,
}

impl Selected {
    /// Chooses among candidates whose finite estimates are all there.
    pub fn among(known: Vec<Estimate>, penalty: Penalty) -> Result<Self> {
        let rated = known.iter().map(|estimate| estimate.rated(penalty)).collect::<Result<Vec<_>>>()?;
        let first = |a: (usize, Rated), b: (usize, Rated)| if b.1.score > a.1.score { b } else { a };
        let (index, rated) = rated.into_iter().enumerate().reduce(first).ok_or_else(none)?;
        let complete = known.iter().filter(|estimate| estimate.variance.is_some()).count();
        Ok(Self { index, rated, known, work: Work { complete, layers: 0, of: 0 } })
    }
}

/// What a selection computed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// Variances computed in full.
    pub complete: usize,
    /// Layers walked, summed over candidates.
    pub layers: usize,
    /// Layers that all complete variances would have taken.
    pub of: usize,
}

/// Finds the candidate with the highest conservative score, the lowest index among equals, and of the first `top` places the
/// variances.
pub fn select(pool: &dyn Pool, penalty: Penalty, top: usize) -> Result<Selected> {
    let contenders = contenders(pool, penalty)?;
    let known = contenders.iter().map(|c| Estimate::of_mean(c.mean)).collect();
    let mut search =
        Search { pool, penalty, top: top.max(1), best: Vec::new(), known, work: Work::default() };
    search.work.of = contenders.len() * pool.depth();
    if penalty.needs_variance() {
        search.run(contenders)?;
    } else {
        search.best.extend(contenders.into_iter().reduce(|a, b| if b.beats(&a) { b } else { a }));
    }
    let Some(best) = search.best.first() else {
        return Err(none());
    };
    let rated = search.known[best.index].rated(penalty)?;
    Ok(Selected { index: best.index, rated, known: search.known, work: search.work })
}

fn none() -> Error {
    Error::Usage("no candidates to select from".into())
}

/// Sequences without those that the reward cannot tell from an earlier one.
#[derive(Debug, PartialEq, Eq)]
pub struct Distinct {
    /// Indices of the first of each kind: ascending, so that the winner among these is the winner among all.
    firsts: Vec<usize>,
    /// Of every sequence the place of its kind in `firsts`.
    kinds: Vec<usize>,
}

/// Finds the sequences that the reward can tell apart.
pub fn distinct(sequences: &[&TokenSeq]) -> Distinct {
    let (mut seen, mut firsts, mut kinds) = (HashMap::new(), Vec::new(), Vec::new());
    for (index, sequence) in sequences.iter().enumerate() {
        let kind = *seen.entry(&sequence.ids[..=sequence.pooled]).or_insert(firsts.len());
        if kind == firsts.len() {
            firsts.push(index);
        }
        kinds.push(kind);
    }
    Distinct { firsts, kinds }
}

impl Distinct {
    /// One of each kind.
    pub fn of<'a>(&self, sequences: &[&'a TokenSeq]) -> Vec<&'a TokenSeq> {
        self.firsts.iter().map(|first| sequences[*first]).collect()
    }

    /// Says of all sequences what was found of one of each kind.
    pub fn spread(&self, selected: Selected) -> Selected {
        let known = self.kinds.iter().map(|kind| selected.known[*kind]).collect();
        Selected { index: self.firsts[selected.index], known, ..selected }
    }
}

/// A candidate on its way down.
#[derive(Debug, Clone, Copy)]
struct Contender {
    index: usize,
    mean: f64,
    /// The sum so far.
    variance: f64,
    /// An upper bound of the score, and the score itself at the bottom.
    bound: f64,
}

impl Contender {
    /// Takes a larger sum; refuses what is not a variance, or less than before.
    fn grow(&mut self, variance: f64, penalty: Penalty) -> Result<()> {
        if variance < self.variance {
            let (index, before) = (self.index, self.variance);
            return Err(Error::NotFinite(format!(
                "variance of candidate {index}: {variance} after {before}"
            )));
        }
        Estimate { variance: Some(variance), ..Estimate::of_mean(self.mean) }
            .finite(Want::MeanAndVariance)?;
        self.variance = variance;
        self.bound = penalty.bound(self.mean, variance);
        Ok(())
    }

    /// Takes the whole variance, at the bottom: from here on the bound is the score.
    fn complete(&mut self, prior_variance: f64, penalty: Penalty) -> Estimate {
        let estimate = Estimate::of_variances(self.mean, self.variance, prior_variance);
        self.bound = penalty.score(&estimate);
        estimate
    }

    /// Whether this one wins if both bounds are the scores.
    fn beats(&self, other: &Self) -> bool {
        self.bound > other.bound || (self.bound == other.bound && self.index < other.index)
    }
}

/// Every candidate with its head's variance, by index.
fn contenders(pool: &dyn Pool, penalty: Penalty) -> Result<Vec<Contender>> {
    let (means, heads) = (pool.means(), pool.head_variances());
    if means.len() != heads.len() {
        return Err(Error::Internal(format!("{} means, {} variances of heads", means.len(), heads.len())));
    }
    let contender = |(index, (mean, head)): (usize, (&f64, &f64))| {
        let mut contender = Contender { index, mean: *mean, variance: 0.0, bound: *mean };
        contender.grow(*head, penalty)?;
        Ok(contender)
    };
    means.iter().zip(heads).enumerate().map(contender).collect()
}

struct Search<'a> {
    pool: &'a dyn Pool,
    penalty: Penalty,
    /// How many places are wanted.
    top: usize,
    /// The best of those that reached the bottom, at most so many, the first first.
    best: Vec<Contender>,
    known: Vec<Estimate>,
    work: Work,
}

impl Search<'_> {
    /// Walks the candidates down in waves, the first of as many as there are places, each [`GROWTH`] times as large as the one
    /// before.
    fn run(&mut self, mut rest: Vec<Contender>) -> Result<()> {
        // Bounds are not NaN; the sort is stable, so equals stay in the order of their indices.
        rest.sort_by(|a, b| b.bound.total_cmp(&a.bound));
        let mut size = self.top.min(rest.len());
        while !rest.is_empty() {
            let later = rest.split_off(size.min(rest.len()));
            self.walk(mem::replace(&mut rest, later))?;
            rest.retain(|contender| self.can_win(contender));
            size *= GROWTH;
        }
        Ok(())
    }

    /// Walks one wave down; those that can no longer win leave at the layers' boundaries.
    fn walk(&mut self, mut wave: Vec<Contender>) -> Result<()> {
        let indices: Vec<usize> = wave.iter().map(|contender| contender.index).collect();
        let mut descent = self.pool.descend(&indices)?;
        for _ in 0..self.pool.depth() {
            let kept: Vec<usize> = (0..wave.len()).filter(|i| self.can_win(&wave[*i])).collect();
            if kept.is_empty() {
                return Ok(());
            }
            if kept.len() < wave.len() {
                descent.keep(&kept)?;
                wave = kept.into_iter().map(|i| wave[i]).collect();
            }
            self.layer(descent.as_mut(), &mut wave)?;
        }
        self.work.complete += wave.len();
        for (mut contender, prior_variance) in wave.into_iter().zip(descent.prior_variances()) {
            self.known[contender.index] = contender.complete(prior_variance, self.penalty);
            if self.can_win(&contender) {
                let place = self.best.partition_point(|better| better.beats(&contender));
                self.best.insert(place, contender);
                self.best.truncate(self.top);
            }
        }
        Ok(())
    }

    fn layer(&mut self, descent: &mut dyn Descent, wave: &mut [Contender]) -> Result<()> {
        let mut sums: Vec<f64> = wave.iter().map(|contender| contender.variance).collect();
        descent.layer(&mut sums)?;
        self.work.layers += wave.len();
        wave.iter_mut().zip(sums).try_for_each(|(contender, sum)| contender.grow(sum, self.penalty))
    }

    fn can_win(&self, contender: &Contender) -> bool {
        self.best.len() < self.top || self.best.last().is_some_and(|last| contender.beats(last))
    }
}

#[cfg(test)]
mod tests;

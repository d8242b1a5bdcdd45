//! Fitting the Laplace posterior to preference pairs: the curvature of Bradley and Terry's likelihood, block by block.
//!
//! ```text
//! H = sum_n w_n D_n D_n^T      w_n = p_n (1 - p_n)      D_n = J(chosen_n) - J(rejected_n)
//! ```
//!
//! The default, a sketch of all blocks together, takes one pass, which leaves the projected D_n of every pair. Separate blocks
//! take two: a first pass accumulates Kronecker factors, with each reward's own gradients, and the head's exact matrix; a second one
//! (EKFAC, George et al., 2018) the diagonal of H in the factors' eigenbasis, with D_n formed by one backward per batch.
//! All are taken in a fixed order of batches, so a fit that was interrupted goes on to the same posterior.

use crate::{
    Error, Result,
    model::{RewardModel, site::HEAD},
    posterior::{
        BlockKind, Form, Posterior, Prior, Sketch,
        evidence::{Evidence, Term, evidence},
        fit::{Curvature, CurvatureKind, Rank, kfac},
        sketch::{self, Groups, Layout, Slot},
    },
    train::{
        Example, by_tokens,
        loss::{sigmoid, softplus},
    },
};
use candle_core::{DType, Tensor};
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

pub mod checkpoint;
mod first;
mod second;
pub mod sketched;

use checkpoint::Store;
use first::First;
use second::Second;
use sketched::{Sketched, Sums};

/// How a posterior is fitted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    pub curvature: CurvatureKind,
    /// Of separate blocks.
    pub rank: Rank,
    /// Of a sketch.
    pub size: Size,
    pub prior: Prior,
    /// Share of the labels that is taken to be wrong, below one half.
    pub label_noise: f64,
    /// Most tokens in one forward and backward.
    pub batch_tokens: usize,
}

/// How large a sketch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Features of the low-rank updates; the head has its own.
    pub features: usize,
    /// Groups of layers, each with features of its own.
    pub groups: usize,
    pub seed: u64,
}

/// What a preference says of the difference of two rewards.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Likelihood {
    /// Log probability of the label, in nats.
    pub log: f64,
    /// w, the Fisher information of the difference.
    pub curvature: f64,
}

/// Bradley and Terry's likelihood where a share `noise` of the labels is wrong, whichever they are: q = (1 - 2e) p + e and
/// w = ((1 - 2e) p (1 - p))^2 / (q (1 - q)), which is p (1 - p) without noise.
pub fn likelihood(difference: f64, noise: f64) -> Likelihood {
    let p = sigmoid(difference);
    if noise == 0.0 {
        return Likelihood { log: -softplus(-difference), curvature: p * (1.0 - p) };
    }
    let q = (1.0 - 2.0 * noise) * p + noise;
    let slope = (1.0 - 2.0 * noise) * p * (1.0 - p);
    Likelihood { log: q.ln(), curvature: slope * slope / (q * (1.0 - q)) }
}

/// Tokens of a fit, of which a resumed one computes only a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tokens {
    /// In the checkpoint already.
    Saved(usize),
    Computed(usize),
}

/// A fitted posterior with what was measured on the way.
#[derive(Debug)]
pub struct Fitted {
    pub posterior: Posterior,
    pub evidence: Evidence,
    /// sum_n log sigma(delta_n), in nats, each pair times its weight.
    pub log_likelihood: f64,
    /// Trace of the curvature of each block, or of each slot of a sketch.
    pub traces: BTreeMap<String, f64>,
}

/// A fit, ready to start.
pub struct Fit<'a> {
    pub model: &'a RewardModel,
    pub examples: &'a [Example],
    /// The prior's means by block name, zero where absent.
    pub mean: &'a BTreeMap<String, Tensor>,
    pub options: Options,
    /// Where to save the sums so far, and how much time may pass between two times; `None` keeps them in memory alone.
    pub checkpoints: Option<(Store, Duration)>,
    /// Set from outside to stop after the batch that is under way.
    pub stop: &'a AtomicBool,
}

impl Fit<'_> {
    /// Goes on from the checkpoint, if there is one, and fits; `None` if it was stopped. `progress` hears of the tokens of each
    /// batch ([`Fit::tokens`] in all).
    pub fn run(&self, progress: &mut dyn FnMut(Tokens)) -> Result<Option<Fitted>> {
        let all: Vec<&Example> = self.examples.iter().collect();
        let batches = by_tokens(&all, self.options.batch_tokens);
        if self.options.curvature == CurvatureKind::Sketch {
            return self.sketch(&batches, progress);
        }
        let Some(first) = self.first_pass(&batches, progress)? else { return Ok(None) };
        let First { factors, head, weights, log_likelihood } = first;
        let mut curvatures = BTreeMap::new();
        if let Some(head) = head {
            curvatures.insert(HEAD.to_owned(), head.finish(HEAD, DType::F32)?);
        }
        match self.options.curvature {
            CurvatureKind::Kfac => {
                for (name, factors) in factors {
                    let curvature = kfac(&factors.eigenbases(&name, DType::F32)?, self.options.rank)?;
                    curvatures.insert(name, curvature);
                }
            }
            CurvatureKind::Ekfac => {
                let second = Second::new(factors)?;
                let Some(second) = self.second_pass(second, &batches, &weights, progress)? else {
                    return Ok(None);
                };
                curvatures.extend(second.finish(self.options.rank)?);
            }
            CurvatureKind::Sketch => {}
        }
        assemble(self.model, curvatures, self.mean, log_likelihood, self.options.prior).map(Some)
    }

    /// Tokens that a whole fit computes.
    pub fn tokens(&self) -> usize {
        let sequences = || self.examples.iter().map(first::tokens).sum::<usize>();
        let pairs = || self.examples.iter().map(Example::tokens).sum::<usize>();
        match self.options.curvature {
            CurvatureKind::Sketch => pairs(),
            CurvatureKind::Ekfac => sequences() + pairs(),
            CurvatureKind::Kfac => sequences(),
        }
    }

    fn sketch(&self, batches: &[Vec<&Example>], progress: &mut dyn FnMut(Tokens)) -> Result<Option<Fitted>> {
        let Size { features, groups, seed } = self.options.size;
        let layout = Layout::new(&self.model.shapes(), features, groups, seed);
        let Some(sketched) = self.sketch_pass(&layout, batches, progress)? else { return Ok(None) };
        let Sums { weighted, curvature, log_likelihood } =
            sketched.sums(&layout, self.options.label_noise)?;
        let distances = squared_distances(self.model, &layout, self.mean)?;
        let groups = Groups::by_kind(&layout, &distances, |kind| self.options.prior.given(kind));
        let h = sketch::Curvature::smaller(&curvature, &weighted, &layout, &groups)?;
        let found = sketch::evidence(&layout, &h, log_likelihood, &groups)?;
        let evidence = by_kind(&layout, &groups, &found);
        let traces = layout.slots.iter().zip(layout.ranges()).enumerate().map(|(at, (slot, range))| {
            (format!("{} {at}", slot.kind), range.map(|i| curvature.at(i, i)).sum())
        });
        let traces = traces.collect();
        let sketch = Sketch::new(layout, curvature, found.prior_precision)
            .map_err(|problems| Error::Compute(candle_core::Error::Msg(problems.join("; "))))?;
        let posterior = Posterior { form: Form::Sketch(sketch), config: None };
        Ok(Some(Fitted { posterior, evidence, log_likelihood, traces }))
    }

    fn sketch_pass(
        &self,
        layout: &Layout,
        batches: &[Vec<&Example>],
        progress: &mut dyn FnMut(Tokens),
    ) -> Result<Option<Sketched>> {
        let mut sketched = match &self.checkpoints {
            Some((store, _)) => store.load_sketched(layout.features(), batches)?.unwrap_or_default(),
            None => Sketched::default(),
        };
        let done = sketched.batches;
        progress(Tokens::Saved(batches[..done].iter().flatten().map(|e| e.tokens()).sum()));
        let finished = self.walk(batches, done, |batch, _, save| {
            if let Some(batch) = batch {
                sketched.add(self.model, layout, batch)?;
                progress(Tokens::Computed(batch.iter().map(|e| e.tokens()).sum()));
            }
            save.map_or(Ok(()), |store| store.save_sketched(&sketched))
        })?;
        Ok(finished.then_some(sketched))
    }

    fn first_pass(
        &self,
        batches: &[Vec<&Example>],
        progress: &mut dyn FnMut(Tokens),
    ) -> Result<Option<First>> {
        let mut first = match &self.checkpoints {
            Some((store, _)) => store.load_first(&self.model.blocks()?, batches)?.unwrap_or_default(),
            None => First::default(),
        };
        let done = first.weights.len();
        progress(Tokens::Saved(batches[..done].iter().flatten().map(|e| first::tokens(e)).sum()));
        let finished = self.walk(batches, done, |batch, _, save| {
            if let Some(batch) = batch {
                first.add(self.model, batch, self.options.label_noise)?;
                progress(Tokens::Computed(batch.iter().map(|e| first::tokens(e)).sum()));
            }
            match save {
                Some(store) => store.save_first(&first),
                None => Ok(()),
            }
        })?;
        Ok(finished.then_some(first))
    }

    fn second_pass(
        &self,
        mut second: Second,
        batches: &[Vec<&Example>],
        weights: &[Vec<f64>],
        progress: &mut dyn FnMut(Tokens),
    ) -> Result<Option<Second>> {
        if let Some((store, _)) = &self.checkpoints {
            store.load_second(&mut second, batches.len())?;
        }
        let done = second.batches;
        progress(Tokens::Saved(batches[..done].iter().flatten().map(|e| e.tokens()).sum()));
        let finished = self.walk(batches, done, |batch, index, save| {
            if let Some(batch) = batch {
                second.add(self.model, batch, &weights[index])?;
                progress(Tokens::Computed(batch.iter().map(|e| e.tokens()).sum()));
            }
            match save {
                Some(store) => store.save_second(&second),
                None => Ok(()),
            }
        })?;
        Ok(finished.then_some(second))
    }

    /// Gives `step` every batch from number `done` on, and the store when it is time to save; at the end, or when asked to stop,
    /// the store alone. Says whether it came to the end.
    fn walk(
        &self,
        batches: &[Vec<&Example>],
        done: usize,
        mut step: impl FnMut(Option<&[&Example]>, usize, Option<&Store>) -> Result<()>,
    ) -> Result<bool> {
        let mut saved = Instant::now();
        let mut stopped = false;
        for (index, batch) in batches.iter().enumerate().skip(done) {
            stopped = self.stop.load(Ordering::Relaxed);
            if stopped {
                break;
            }
            let due = self.checkpoints.as_ref().filter(|(_, every)| saved.elapsed() >= *every);
            step(Some(batch), index, due.map(|(store, _)| store))?;
            if due.is_some() {
                saved = Instant::now();
            }
        }
        if done < batches.len() {
            step(None, batches.len(), self.checkpoints.as_ref().map(|(store, _)| store))?;
        }
        Ok(!stopped)
    }
}

/// What was found for the slots of a sketch, by kind of block.
fn by_kind(layout: &Layout, groups: &Groups, found: &sketch::Evidence) -> Evidence {
    let (mut prior_precision, mut effective_parameters) = (BTreeMap::new(), BTreeMap::new());
    let mut at_bound = Vec::new();
    for (at, slot) in layout.slots.iter().enumerate() {
        let group = groups.of_slot[at];
        prior_precision.insert(slot.kind, found.prior_precision[at]);
        effective_parameters.insert(slot.kind, found.effective_parameters[group]);
        if found.at_bound.contains(&group) && !at_bound.contains(&slot.kind) {
            at_bound.push(slot.kind);
        }
    }
    Evidence { prior_precision, effective_parameters, log_evidence: found.log_evidence, at_bound }
}

/// |theta - mu|^2 of each slot of a sketch.
pub(crate) fn squared_distances(
    model: &RewardModel,
    layout: &Layout,
    mean: &BTreeMap<String, Tensor>,
) -> Result<Vec<f64>> {
    let blocks = model.blocks()?;
    let of_slot = |slot: &Slot| {
        let of_block = |name| Some((name, blocks.get(name)?));
        let some = slot.blocks.keys().filter_map(of_block);
        some.map(|(name, parameter)| squared_distance(parameter, mean.get(name))).sum()
    };
    layout.slots.iter().map(of_slot).collect()
}

/// |theta - mu|^2, mu zero where there is none.
pub(crate) fn squared_distance(parameter: &Tensor, mean: Option<&Tensor>) -> Result<f64> {
    let distance = match mean {
        Some(mean) => (parameter - mean)?,
        None => parameter.clone(),
    };
    Ok(distance.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar()?)
}

/// Chooses the prior precisions and puts the blocks together.
fn assemble(
    model: &RewardModel,
    curvatures: BTreeMap<String, Curvature>,
    mean: &BTreeMap<String, Tensor>,
    log_likelihood: f64,
    prior: Prior,
) -> Result<Fitted> {
    let (parameters, mut terms, mut traces) = (model.blocks()?, Vec::new(), BTreeMap::new());
    for (name, curvature) in &curvatures {
        let (Some(kind), Some(parameter)) = (BlockKind::of(name), parameters.get(name)) else { continue };
        let squared_distance = squared_distance(parameter, mean.get(name))?;
        terms.push(Term { kind, spectrum: curvature.spectrum()?, squared_distance });
        traces.insert(name.clone(), curvature.trace()?);
    }
    let evidence = evidence(&terms, log_likelihood, prior);
    let mut blocks = BTreeMap::new();
    for (name, curvature) in curvatures {
        if let Some(lambda) = BlockKind::of(&name).and_then(|kind| evidence.prior_precision.get(&kind)) {
            let block = curvature.into_block(&name, *lambda)?;
            blocks.insert(name, block);
        }
    }
    Ok(Fitted { posterior: Posterior::of_blocks(blocks, None), evidence, log_likelihood, traces })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The Fisher information sum_y q_y (d ln q_y / d delta)^2 of the two labels, by central differences of their probabilities.
    #[test]
    fn curvature_is_the_fisher_information_of_labels_some_of_which_are_wrong() {
        let h = 1e-5;
        for noise in [0.0, 0.1, 0.25, 0.45] {
            for difference in [-6.0, -1.0, 0.0, 0.3, 2.5] {
                let log = |d: f64| likelihood(d, noise).log;
                let of_label = |sign: f64| {
                    let slope = (log(sign * difference + h) - log(sign * difference - h)) / (2.0 * h);
                    log(sign * difference).exp() * slope * slope
                };
                let (got, want) = (likelihood(difference, noise).curvature, of_label(1.0) + of_label(-1.0));
                assert!(
                    (got - want).abs() < 1e-7 * want.max(1e-3),
                    "{noise}, {difference}: {got} is not {want}"
                );
                let total = log(difference).exp() + log(-difference).exp();
                assert!((total - 1.0).abs() < 1e-12, "{noise}, {difference}: {total}");
            }
        }
    }
}

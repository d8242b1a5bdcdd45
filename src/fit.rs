//! Fitting the Laplace posterior to preference pairs: the curvature of Bradley and Terry's likelihood, block by block.
//!
//! ```text
//! H = sum_n w_n D_n D_n^T      w_n = p_n (1 - p_n)      D_n = J(chosen_n) - J(rejected_n)
//! ```
//!
//! A first pass accumulates Kronecker factors, with each reward's own gradients, and the head's exact matrix; a second one
//! (EKFAC, George et al., 2018) the diagonal of H in the factors' eigenbasis, with D_n formed by one backward per batch.
//! Both are sums over batches in a fixed order, so a fit that was interrupted goes on to the same posterior.

use crate::{
    Result,
    model::{RewardModel, site::HEAD},
    posterior::{
        BlockKind, Posterior, Prior,
        evidence::{Evidence, Term, evidence},
        fit::{Curvature, CurvatureKind, Rank, kfac},
    },
    train::{Example, by_tokens},
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

use checkpoint::Store;
use first::First;
use second::Second;

/// How a posterior is fitted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    pub curvature: CurvatureKind,
    pub rank: Rank,
    pub prior: Prior,
    /// Most tokens in one forward and backward.
    pub batch_tokens: usize,
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
    /// Trace of each block's curvature.
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
        }
        assemble(self.model, curvatures, self.mean, log_likelihood, self.options.prior).map(Some)
    }

    /// Tokens that a whole fit computes.
    pub fn tokens(&self) -> usize {
        let first: usize = self.examples.iter().map(first::tokens).sum();
        match self.options.curvature {
            CurvatureKind::Ekfac => first + self.examples.iter().map(Example::tokens).sum::<usize>(),
            CurvatureKind::Kfac => first,
        }
    }

    fn first_pass(
        &self,
        batches: &[Vec<&Example>],
        progress: &mut dyn FnMut(Tokens),
    ) -> Result<Option<First>> {
        let mut first = match &self.checkpoints {
            Some((store, _)) => store.load_first(&self.model.blocks(), batches)?.unwrap_or_default(),
            None => First::default(),
        };
        let done = first.weights.len();
        progress(Tokens::Saved(batches[..done].iter().flatten().map(|e| first::tokens(e)).sum()));
        let finished = self.walk(batches, done, |batch, _, save| {
            if let Some(batch) = batch {
                first.add(self.model, batch)?;
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

/// Chooses the prior precisions and puts the blocks together.
fn assemble(
    model: &RewardModel,
    curvatures: BTreeMap<String, Curvature>,
    mean: &BTreeMap<String, Tensor>,
    log_likelihood: f64,
    prior: Prior,
) -> Result<Fitted> {
    let (parameters, mut terms, mut traces) = (model.blocks(), Vec::new(), BTreeMap::new());
    for (name, curvature) in &curvatures {
        let (Some(kind), Some(parameter)) = (BlockKind::of(name), parameters.get(name)) else { continue };
        let distance = match mean.get(name) {
            Some(mean) => (parameter - mean)?,
            None => parameter.clone(),
        };
        let squared_distance = distance.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar()?;
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
    Ok(Fitted { posterior: Posterior { blocks, config: None }, evidence, log_likelihood, traces })
}

//! Fitting the Laplace posterior to preference pairs: the curvature of Bradley and Terry's likelihood, block by block.
//!
//! ```text
//! H = sum_n w_n D_n D_n^T      w_n = p_n (1 - p_n)      D_n = J(chosen_n) - J(rejected_n)
//! ```
//!
//! A first pass accumulates Kronecker factors, with each reward's own gradients, and the head's exact matrix; a second one
//! (EKFAC, George et al., 2018) the diagonal of H in the factors' eigenbasis, with D_n formed by one backward per batch.

use crate::{
    Result,
    model::{
        RewardModel,
        sink::{Jacobians, Sink},
        site::{Factor, HEAD, Site},
    },
    nn::{linear::Lora, pack::Packed},
    posterior::{
        BlockKind, Posterior, Prior,
        evidence::{Evidence, Term, evidence},
        fit::{Curvature, CurvatureKind, Ekfac, Factors, HeadFactor, Rank, kfac},
    },
    train::{
        Example, by_tokens,
        loss::{sigmoid, softplus},
    },
};
use candle_core::{DType, Tensor};
use std::collections::BTreeMap;

/// How a posterior is fitted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    pub curvature: CurvatureKind,
    pub rank: Rank,
    pub prior: Prior,
    /// Most tokens in one forward and backward.
    pub batch_tokens: usize,
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

/// Fits the posterior of `model` to `examples`.
///
/// `mean` holds the prior's means by block name, zero where absent; `progress` hears of the tokens of each batch, both passes
/// together about `3 T`.
pub fn fit(
    model: &RewardModel,
    examples: &[Example],
    mean: &BTreeMap<String, Tensor>,
    options: &Options,
    progress: &mut dyn FnMut(usize),
) -> Result<Fitted> {
    let all: Vec<&Example> = examples.iter().collect();
    let batches = by_tokens(&all, options.batch_tokens);
    let mut first = FirstPass::default();
    for batch in &batches {
        first.add(model, batch)?;
        progress(batch.iter().map(|e| e.chosen.ids.len() + e.rejected.ids.len()).sum());
    }
    let FirstPass { factors, head, weights, log_likelihood } = first;
    let mut curvatures = BTreeMap::new();
    if let Some(head) = head {
        curvatures.insert(HEAD.to_owned(), head.finish(HEAD, DType::F32)?);
    }
    match options.curvature {
        CurvatureKind::Kfac => {
            for (name, factors) in factors {
                let curvature = kfac(&factors.eigenbases(&name, DType::F32)?, options.rank)?;
                curvatures.insert(name, curvature);
            }
        }
        CurvatureKind::Ekfac => {
            curvatures.extend(second_pass(model, &batches, factors, &weights, options.rank, progress)?);
        }
    }
    assemble(model, curvatures, mean, log_likelihood, options.prior)
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

/// Kronecker factors, the head's matrix, and the weight w_n of every pair in the order of the batches.
#[derive(Default)]
struct FirstPass {
    factors: BTreeMap<String, Factors>,
    head: Option<HeadFactor>,
    weights: Vec<Vec<f64>>,
    log_likelihood: f64,
}

impl FirstPass {
    fn add(&mut self, model: &RewardModel, batch: &[&Example]) -> Result<()> {
        // Every answer has its own cotangents at the prompt's tokens, so nothing is shared here.
        let packed = Packed::sequences(batch.iter().flat_map(|e| [&e.chosen, &e.rejected]));
        let trace = model.forward(&packed)?;
        let mut weights = Vec::with_capacity(batch.len());
        for (example, reward) in batch.iter().zip(trace.rewards().chunks_exact(2)) {
            let delta = reward[0] - reward[1] - example.margin;
            let p = sigmoid(delta);
            weights.push(example.weight * p * (1.0 - p));
            self.log_likelihood -= example.weight * softplus(-delta);
        }
        let tokens = packed.groups.iter().enumerate();
        let per_token =
            tokens.flat_map(|(i, tokens)| tokens.clone().map(move |_| i / 2)).map(|n| weights[n]).collect();
        let mut sink = FactorSink { first: self, per_token, per_pair: &weights };
        model.backward(&packed, &trace, &vec![1.0; 2 * batch.len()], &mut sink)?;
        self.weights.push(weights);
        Ok(())
    }
}

struct FactorSink<'a> {
    first: &'a mut FirstPass,
    per_token: Vec<f64>,
    per_pair: &'a [f64],
}

impl FactorSink<'_> {
    fn add(&mut self, name: String, x: &Tensor, g: &Tensor) -> Result<()> {
        let factors = self.first.factors.entry(name);
        factors.or_insert(Factors::new(g.dim(1)?, x.dim(1)?)).add(x, g, &self.per_token)
    }
}

impl Sink for FactorSink<'_> {
    fn site(&mut self, site: Site, lora: &Lora, x: &Tensor, g: &Tensor) -> Result<()> {
        self.add(site.block(Factor::A), x, &lora.down_gradient(g)?)?;
        self.add(site.block(Factor::B), &lora.down(x)?, &lora.up_gradient(g)?)
    }

    fn head(&mut self, hidden: &Tensor, _: &Tensor) -> Result<()> {
        let (rewards, size) = hidden.dims2()?;
        // (2 n, C) -> (n, 2, C)
        let sides = hidden.reshape((rewards / 2, 2, size))?;
        let difference = (sides.narrow(1, 0, 1)? - sides.narrow(1, 1, 1)?)?;
        self.first.head.get_or_insert(HeadFactor::new(size)).add(&difference, self.per_pair)
    }
}

/// EKFAC's second pass: S = sum_n w_n (U_o^T D_n U_i)^2 for every block with factors.
fn second_pass(
    model: &RewardModel,
    batches: &[Vec<&Example>],
    factors: BTreeMap<String, Factors>,
    weights: &[Vec<f64>],
    rank: Rank,
    progress: &mut dyn FnMut(usize),
) -> Result<BTreeMap<String, Curvature>> {
    let mut sums = BTreeMap::new();
    for (name, factors) in factors {
        let bases = factors.eigenbases(&name, DType::F32)?;
        sums.insert(name.clone(), Ekfac::new(name, bases)?);
    }
    for (batch, weights) in batches.iter().zip(weights) {
        let packed = Packed::pairs(batch.iter().map(|e| (&e.chosen, &e.rejected)));
        let trace = model.forward(&packed)?;
        let cotangents = [1.0, -1.0].repeat(batch.len());
        let mut sink = Jacobians::new(&packed.groups, |name, d| match sums.get_mut(name) {
            Some(sum) => sum.add(d, weights),
            None => Ok(()),
        });
        model.backward(&packed, &trace, &cotangents, &mut sink)?;
        progress(packed.tokens());
    }
    sums.into_iter().map(|(name, sum)| Ok((name, sum.finish(rank)?))).collect()
}

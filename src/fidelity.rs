//! How close each kind of posterior comes to the exact joint one, on as many pairs as memory holds.
//!
//! The gradients of all pairs and test items are kept, block by block, and everything is computed from them under the same prior
//! precisions: those that the exact evidence chooses for each kind of block, or a part of them. Separate Kronecker blocks are
//! fitted by [`crate::fit`] to the same pairs.

use std::{collections::BTreeMap, sync::atomic::AtomicBool};

use candle_core::{DType, Device, Tensor};
use faer::Mat;
use serde::Serialize;

use crate::{
    Error, Result,
    fit::{Fit, Likelihood, Options, Size, likelihood},
    model::{RewardModel, sink::Jacobians, site::HEAD},
    nn::pack::Packed,
    posterior::{
        BlockKind, Prior,
        evidence::BOUNDS,
        fit::{Curvature, CurvatureKind, Gram, Rank},
        oracle::Kernel,
        sketch::{Features, Layout, Sketch},
    },
    train::{Example, by_tokens},
};

mod closeness;
mod truncation;

pub use closeness::{Closeness, Intervals};
use truncation::{Curvatures, Truncation};

/// Steps of the evidence's fixed point.
const STEPS: usize = 50;

/// What is compared.
#[derive(Debug, Clone)]
pub struct Comparison<'a> {
    pub model: &'a RewardModel,
    /// Pairs to fit to, and those whose rewards and differences are looked at.
    pub pairs: &'a [Example],
    pub test: &'a [Example],
    /// The prior's means by block name, zero where absent.
    pub mean: &'a BTreeMap<String, Tensor>,
    /// Features and groups of each sketch.
    pub sketches: Vec<(usize, usize)>,
    /// Whether Kronecker posteriors are fitted too, which takes several passes.
    pub kronecker: bool,
}

/// One posterior under one prior.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    pub posterior: String,
    pub single: Closeness,
    pub difference: Closeness,
}

/// All posteriors under one prior.
#[derive(Debug, Clone, Serialize)]
pub struct Table {
    /// What the precisions by evidence were multiplied by.
    pub factor: f64,
    pub prior_precision: BTreeMap<BlockKind, f64>,
    pub effective_parameters: BTreeMap<BlockKind, f64>,
    pub rows: Vec<Row>,
}

/// Gradients of the pairs' differences (N, entries) and of the test items (2 T, entries), longer side last.
struct Rows {
    pairs: Vec<Tensor>,
    items: Vec<Tensor>,
}

struct Gathered {
    rows: BTreeMap<String, (Tensor, Tensor)>,
    weights: Vec<f64>,
}

impl Comparison<'_> {
    /// Compares under the precisions of the exact evidence times each factor.
    pub fn run(&self, factors: &[f64]) -> Result<Vec<Table>> {
        let gathered = self.gather()?;
        tracing::info!("inner products of {} blocks", gathered.rows.len());
        let kernels = gathered.kernels()?;
        let (evidence, _) = self.evidence(&kernels, &gathered.weights)?;
        let kronecker = self.kronecker()?;
        let mut tables = Vec::new();
        for factor in factors {
            let lambda: BTreeMap<BlockKind, f64> =
                evidence.iter().map(|(kind, l)| (*kind, l * factor)).collect();
            tables.push(self.table(*factor, &gathered, &kernels, &kronecker, lambda)?);
        }
        Ok(tables)
    }

    fn gather(&self) -> Result<Gathered> {
        let mut rows: BTreeMap<String, Rows> = BTreeMap::new();
        let mut keep = |name: &str, j: &Tensor, item: bool| -> Result<()> {
            let oriented = crate::posterior::long_last(j)?.flatten_from(1)?;
            let rows = rows.entry(name.to_owned()).or_insert(Rows { pairs: Vec::new(), items: Vec::new() });
            if item {
                rows.items.push(oriented)
            } else {
                rows.pairs.push(oriented)
            }
            Ok(())
        };
        let mut weights = Vec::new();
        let (all, budget) = (self.pairs.iter().collect::<Vec<_>>(), self.model.tokens_kept());
        for batch in by_tokens(&all, budget) {
            let packed = Packed::pairs(batch.iter().map(|e| (&e.chosen, &e.rejected)));
            let trace = self.model.forward(&packed)?;
            for (example, reward) in batch.iter().zip(trace.rewards().chunks_exact(2)) {
                let Likelihood { curvature, .. } = likelihood(reward[0] - reward[1] - example.margin, 0.0);
                weights.push(example.weight * curvature);
            }
            let mut sink = Jacobians::new(&packed, |name, j| keep(name, j, false));
            self.model.backward(&trace, &[1.0, -1.0].repeat(batch.len()), &mut sink)?;
        }
        for example in self.test {
            let packed = Packed::sequences([&example.chosen, &example.rejected]);
            let trace = self.model.forward(&packed)?;
            self.model.backward(
                &trace,
                &[1.0, 1.0],
                &mut Jacobians::new(&packed, |name, j| keep(name, j, true)),
            )?;
        }
        let cat = |(name, rows): (String, Rows)| {
            Ok((name, (Tensor::cat(&rows.pairs, 0)?, Tensor::cat(&rows.items, 0)?)))
        };
        Ok(Gathered { rows: rows.into_iter().map(cat).collect::<Result<_>>()?, weights })
    }

    /// lambda and gamma of each kind by the exact evidence in data space.
    fn evidence(
        &self,
        kernels: &Kernels,
        weights: &[f64],
    ) -> Result<(BTreeMap<BlockKind, f64>, BTreeMap<BlockKind, f64>)> {
        let distances = self.distances()?;
        let mut lambda: BTreeMap<BlockKind, f64> = kernels.by_kind.keys().map(|kind| (*kind, 1.0)).collect();
        let mut gamma = kernels.effective(&lambda, weights)?;
        for _ in 0..STEPS {
            for (kind, lambda) in &mut lambda {
                let aim = gamma[kind] / distances.get(kind).copied().unwrap_or_default();
                *lambda = if aim.is_finite() { aim.clamp(BOUNDS.0, BOUNDS.1) } else { BOUNDS.1 };
            }
            gamma = kernels.effective(&lambda, weights)?;
        }
        Ok((lambda, gamma))
    }

    fn distances(&self) -> Result<BTreeMap<BlockKind, f64>> {
        let mut distances = BTreeMap::new();
        for (name, parameter) in self.model.blocks()? {
            if let Some(kind) = BlockKind::of(&name) {
                let distance = crate::fit::squared_distance(&parameter, self.mean.get(&name))?;
                *distances.entry(kind).or_insert(0.0) += distance;
            }
        }
        Ok(distances)
    }

    fn table(
        &self,
        factor: f64,
        gathered: &Gathered,
        kernels: &Kernels,
        kronecker: &[(CurvatureKind, Curvatures)],
        lambda: BTreeMap<BlockKind, f64>,
    ) -> Result<Table> {
        let weights = &gathered.weights;
        let joint = kernels.joint(&lambda).spectrum(weights)?;
        let exact = joint.variances(usize::MAX);
        let mut rows = Vec::new();
        let mut put = |posterior: String, variances: Vec<f64>| {
            rows.push(Row::new(posterior, &variances, &exact, self.test.len()));
        };
        for rank in [16, 64, 128] {
            put(format!("joint, top {rank}"), joint.variances(rank));
        }
        for (rank, name) in [(usize::MAX, "exact blocks"), (16, "exact blocks, top 16 of each")] {
            put(name.into(), kernels.separate(&lambda, weights, rank, |_| true)?);
        }
        put("exact head alone".into(), kernels.separate(&lambda, weights, usize::MAX, |name| name == HEAD)?);
        for (features, groups) in &self.sketches {
            let layout = Layout::new(&self.model.shapes(), *features, *groups, 0);
            let name = format!("sketch, {features} features in {groups} groups, and the head");
            put(name, gathered.sketch(layout, &lambda)?);
        }
        for (curvature, full) in kronecker {
            for truncation in Truncation::ALL.iter().filter(|t| t.curvature == *curvature) {
                put(truncation.to_string(), gathered.blocks(full, truncation, &lambda)?);
            }
        }
        let effective_parameters = kernels.effective(&lambda, weights)?;
        Ok(Table { factor, prior_precision: lambda, effective_parameters, rows })
    }

    /// Separate blocks in full, of either curvature: neither the prior nor what is truncated asks for another fit.
    fn kronecker(&self) -> Result<Vec<(CurvatureKind, Curvatures)>> {
        let kinds = [CurvatureKind::Ekfac, CurvatureKind::Kfac].into_iter().filter(|_| self.kronecker);
        kinds.map(|kind| Ok((kind, self.curvatures(kind)?))).collect()
    }

    fn curvatures(&self, curvature: CurvatureKind) -> Result<Curvatures> {
        tracing::info!("fitting {curvature} in full");
        let size = Size { features: 2, groups: 1, seed: 0 };
        let prior = Prior::PerKind { a: 1.0, b: 1.0, head: 1.0 };
        let options =
            Options { curvature, rank: Rank::Full, size, prior, label_noise: 0.0, batch_tokens: 2048 };
        let stop = AtomicBool::new(false);
        let fit = Fit {
            model: self.model,
            examples: self.pairs,
            mean: self.mean,
            options,
            checkpoints: None,
            stop: &stop,
        };
        let fitted = fit.run(&mut |_| {})?;
        let blocks = fitted.as_ref().and_then(|fitted| fitted.posterior.blocks());
        let blocks = blocks.ok_or_else(|| Error::Internal("a fit was stopped".into()))?;
        Ok(blocks.iter().map(|(name, block)| (name.clone(), Curvature::of(block))).collect())
    }
}

/// Kernels of every block, and their sums by kind.
struct Kernels {
    blocks: BTreeMap<String, Kernel>,
    by_kind: BTreeMap<BlockKind, Kernel>,
}

impl Gathered {
    fn kernels(&self) -> Result<Kernels> {
        let (mut blocks, mut by_kind) = (BTreeMap::new(), BTreeMap::new());
        for (name, (pairs, items)) in &self.rows {
            let Some(kind) = BlockKind::of(name) else { continue };
            let kernel = kernel(pairs, &with_differences(items)?)?;
            by_kind
                .entry(kind)
                .or_insert_with(|| Kernel::zero(kernel.pairs.nrows(), kernel.own.len()))
                .add(&kernel, 1.0);
            blocks.insert(name.clone(), kernel);
        }
        Ok(Kernels { blocks, by_kind })
    }

    /// Variances of the rewards under separate blocks.
    fn blocks(
        &self,
        full: &Curvatures,
        truncation: &Truncation,
        lambda: &BTreeMap<BlockKind, f64>,
    ) -> Result<Vec<f64>> {
        let mut sums: Vec<f64> = Vec::new();
        for (name, curvature) in full {
            let prior = BlockKind::of(name).and_then(|kind| lambda.get(&kind)).copied().unwrap_or(1.0);
            let block = truncation.of(curvature)?.into_block(name, prior)?;
            let (d_out, d_in) = block.dims();
            let rows = with_differences(&self.rows[name].1)?;
            let oriented = rows.reshape(((), d_out.min(d_in), d_out.max(d_in)))?;
            let gradients = if d_out > d_in { oriented.transpose(1, 2)? } else { oriented };
            sums.resize(rows.dim(0)?, 0.0);
            sums.iter_mut().zip(block.variances(&gradients)?).for_each(|(sum, v)| *sum += v);
        }
        Ok(sums)
    }

    /// Variances of the rewards under a sketch of these gradients.
    fn sketch(&self, layout: Layout, lambda: &BTreeMap<BlockKind, f64>) -> Result<Vec<f64>> {
        let (mut pairs, mut items) = (Features::new(&layout), Features::new(&layout));
        for (name, rows) in &self.rows {
            pairs.add_oriented(name, &rows.0)?;
            items.add_oriented(name, &rows.1)?;
        }
        let roots: Vec<f64> = self.weights.iter().map(|w| w.sqrt()).collect();
        let roots = Tensor::new(roots.as_slice(), &Device::Cpu)?.unsqueeze(1)?.to_dtype(DType::F32)?;
        let mut curvature = Gram::new(layout.features());
        curvature.add(&pairs.finish()?.broadcast_mul(&roots)?)?;
        let of = |kind| lambda.get(&kind).copied().unwrap_or(1.0);
        let prior = layout.slots.iter().map(|slot| of(slot.kind)).collect();
        let sketch =
            Sketch::new(layout, curvature, prior).map_err(|problems| Error::Internal(problems.join("; ")))?;
        sketch.variances(&with_differences(&items.finish()?)?)
    }
}

impl Kernels {
    fn joint(&self, lambda: &BTreeMap<BlockKind, f64>) -> Kernel {
        let mut sum: Option<Kernel> = None;
        for (kind, kernel) in &self.by_kind {
            let zero = || Kernel::zero(kernel.pairs.nrows(), kernel.own.len());
            sum.get_or_insert_with(zero).add(kernel, lambda[kind]);
        }
        sum.unwrap_or_else(|| Kernel::zero(0, 0))
    }

    fn effective(
        &self,
        lambda: &BTreeMap<BlockKind, f64>,
        weights: &[f64],
    ) -> Result<BTreeMap<BlockKind, f64>> {
        let groups: Vec<(&Kernel, f64)> = self.by_kind.iter().map(|(kind, k)| (k, lambda[kind])).collect();
        let effective = self.joint(lambda).effective(&groups, weights)?;
        Ok(self.by_kind.keys().copied().zip(effective).collect())
    }

    /// The sum of the exact variances of separate blocks.
    fn separate(
        &self,
        lambda: &BTreeMap<BlockKind, f64>,
        weights: &[f64],
        rank: usize,
        which: impl Fn(&str) -> bool,
    ) -> Result<Vec<f64>> {
        let mut sums: Vec<f64> = Vec::new();
        for (name, kernel) in self.blocks.iter().filter(|(name, _)| which(name)) {
            let Some(kind) = BlockKind::of(name) else { continue };
            let mut whitened = Kernel::zero(kernel.pairs.nrows(), kernel.own.len());
            whitened.add(kernel, lambda[&kind]);
            sums.resize(kernel.own.len(), 0.0);
            let variances = whitened.spectrum(weights)?.variances(rank);
            sums.iter_mut().zip(variances).for_each(|(sum, v)| *sum += v);
        }
        Ok(sums)
    }
}

/// Items (2 T, F), chosen and rejected by turns, and below them chosen - rejected: (3 T, F).
fn with_differences(items: &Tensor) -> Result<Tensor> {
    let (count, size) = items.dims2()?;
    let sides = items.reshape((count / 2, 2, size))?;
    let differences = (sides.narrow(1, 0, 1)? - sides.narrow(1, 1, 1)?)?.squeeze(1)?;
    Ok(Tensor::cat(&[items, &differences], 0)?)
}

/// In f64: what pairs have determined is a small difference of large numbers.
fn kernel(pairs: &Tensor, rewards: &Tensor) -> Result<Kernel> {
    let (pairs, rewards) = (&pairs.to_dtype(DType::F64)?, &rewards.to_dtype(DType::F64)?);
    let inner = |a: &Tensor, b: &Tensor| -> Result<Mat<f64>> {
        let rows: Vec<Vec<f64>> = a.matmul(&b.t()?)?.to_vec2()?;
        Ok(Mat::from_fn(a.dim(0)?, b.dim(0)?, |i, j| rows[i][j]))
    };
    let own = rewards.sqr()?.sum(1)?.to_vec1()?;
    Ok(Kernel { pairs: inner(pairs, pairs)?, cross: inner(rewards, pairs)?, own })
}

impl Row {
    /// From the variances of 2 `pairs` rewards and then of their differences.
    fn new(posterior: String, got: &[f64], exact: &[f64], pairs: usize) -> Self {
        let of = |range: std::ops::Range<usize>| Closeness::of(&got[range.clone()], &exact[range], pairs);
        Self { posterior, single: of(0..2 * pairs), difference: of(2 * pairs..3 * pairs) }
    }
}

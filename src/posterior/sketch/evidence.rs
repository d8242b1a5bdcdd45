//! The evidence of a sketch, and the prior precisions that maximise it.
//!
//! ```text
//! M       = Lambda^-1/2 H Lambda^-1/2 + I
//! log Z   = sum_n log sigma(delta_n) - 1/2 [ sum_g lambda_g |theta_g - mu_g|^2 + log det M ]
//! gamma_g = sum over the features i of group g of 1 - (M^-1)_ii        effective parameters
//! lambda_g <- gamma_g / |theta_g - mu_g|^2                             fixed point (MacKay, 1992)
//! ```
//!
//! Groups are correlated, so gamma of one depends on the lambda of all: a bisection for each on its own, as for separate
//! blocks, would not do. A step changes no lambda by more than a factor.
//!
//! Of N pairs, fewer than features, the same numbers come from N x N matrices ([`Curvature::Pairs`]): with the weighted features
//! X_g = W^1/2 D_g of a group, M' = I + sum_g X_g X_g^T / lambda_g has the determinant of M, and gamma_g = tr(X_g X_g^T M'^-1) /
//! lambda_g.

use candle_core::{DType, Tensor};
use faer::Mat;

use super::{Layout, whiten};
use crate::{
    Result,
    posterior::{BlockKind, evidence::BOUNDS, fit::Gram},
};

/// Steps of the fixed point at most, and the largest relative change after which it has arrived.
const STEPS: usize = 100;
const ARRIVED: f64 = 1e-3;
/// Most that a lambda changes by in a step, as a factor.
const LARGEST_STEP: f64 = 30.0;

/// Which slots share a prior precision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// All of them.
    All,
    /// Those of a kind of block.
    Kind,
    /// None: each group of layers has its own for either kind.
    Slot,
}

/// Slots that share a prior precision.
#[derive(Debug, Clone, PartialEq)]
pub struct Groups {
    /// Group of each slot.
    pub of_slot: Vec<usize>,
    /// |theta - mu|^2 of each group.
    pub squared_distance: Vec<f64>,
    /// lambda where it is given, by group.
    pub given: Vec<Option<f64>>,
}

impl Groups {
    /// Groups of slots whose |theta - mu|^2 is known, with no lambda given.
    pub fn new(layout: &Layout, sharing: Sharing, squared_distance: &[f64]) -> Self {
        let of_slot: Vec<usize> = match sharing {
            Sharing::All => vec![0; layout.slots.len()],
            Sharing::Slot => (0..layout.slots.len()).collect(),
            Sharing::Kind => {
                let occurs = |kind: &BlockKind| layout.slots.iter().any(|slot| slot.kind == *kind);
                let kinds: Vec<BlockKind> = BlockKind::ALL.into_iter().filter(occurs).collect();
                let group = |kind| kinds.iter().position(|other| *other == kind).unwrap_or_default();
                layout.slots.iter().map(|slot| group(slot.kind)).collect()
            }
        };
        let count = of_slot.iter().max().map_or(0, |last| last + 1);
        let mut sums = vec![0.0; count];
        of_slot.iter().zip(squared_distance).for_each(|(group, distance)| sums[*group] += distance);
        Self { of_slot, squared_distance: sums, given: vec![None; count] }
    }

    /// One group for each kind of block that occurs, with a lambda where `given` has one.
    pub fn by_kind(
        layout: &Layout,
        squared_distance: &[f64],
        given: impl Fn(BlockKind) -> Option<f64>,
    ) -> Self {
        let mut groups = Self::new(layout, Sharing::Kind, squared_distance);
        for (slot, group) in layout.slots.iter().zip(&groups.of_slot) {
            groups.given[*group] = given(slot.kind);
        }
        groups
    }
}

/// Prior precisions, and what they give.
#[derive(Debug, Clone, PartialEq)]
pub struct Evidence {
    /// lambda of each slot.
    pub prior_precision: Vec<f64>,
    /// gamma of each group.
    pub effective_parameters: Vec<f64>,
    /// log Z, in nats.
    pub log_evidence: f64,
    /// Groups whose lambda was held at one of [`BOUNDS`].
    pub at_bound: Vec<usize>,
}

/// H, as the evidence reads it.
#[derive(Debug)]
pub enum Curvature<'a> {
    /// Over the features, m x m.
    Features(&'a Gram),
    /// X_g X_g^T of each group, N x N.
    Pairs(Vec<Mat<f64>>),
}

impl<'a> Curvature<'a> {
    /// Whichever form is the smaller: of H, or of the weighted features X (N, m) that it is X^T X of.
    pub fn smaller(h: &'a Gram, x: &Tensor, layout: &Layout, groups: &Groups) -> Result<Self> {
        let (pairs, features) = x.dims2()?;
        let fewer = groups.given.len() * pairs * pairs < features * features;
        if fewer { Self::of_pairs(x, layout, groups) } else { Ok(Self::Features(h)) }
    }

    fn of_pairs(x: &Tensor, layout: &Layout, groups: &Groups) -> Result<Self> {
        let pairs = x.dim(0)?;
        let mut kernels = vec![Mat::zeros(pairs, pairs); groups.given.len()];
        for (range, group) in layout.ranges().into_iter().zip(&groups.of_slot) {
            let x = x.narrow(1, range.start, range.len())?.to_dtype(DType::F64)?.contiguous()?;
            let inner: Vec<f64> = x.matmul(&x.t()?)?.flatten_all()?.to_vec1()?;
            kernels[*group] += Mat::from_fn(pairs, pairs, |i, j| inner[i * pairs + j]);
        }
        Ok(Self::Pairs(kernels))
    }
}

/// Chooses the prior precision of every group that none is given for, and evaluates log Z there.
pub fn evidence(
    layout: &Layout,
    curvature: &Curvature,
    log_likelihood: f64,
    groups: &Groups,
) -> Result<Evidence> {
    let mut lambda: Vec<f64> = groups.given.iter().map(|given| given.unwrap_or(1.0)).collect();
    let free = groups.given.iter().any(Option::is_none);
    let at = |lambda: &[f64]| match curvature {
        Curvature::Features(h) => At::of_features(layout, h, groups, lambda),
        Curvature::Pairs(kernels) => At::of_pairs(kernels, lambda),
    };
    let mut here = at(&lambda)?;
    for _ in 0..if free { STEPS } else { 0 } {
        let next: Vec<f64> = (0..lambda.len()).map(|g| groups.step(g, lambda[g], here.gamma[g])).collect();
        let change = lambda.iter().zip(&next).map(|(a, b)| (b / a).ln().abs()).fold(0.0, f64::max);
        lambda = next;
        here = at(&lambda)?;
        if change < ARRIVED {
            break;
        }
    }
    let distance: f64 = lambda.iter().zip(&groups.squared_distance).map(|(l, d)| l * d).sum();
    let held = |g: &usize| groups.given[*g].is_none() && [BOUNDS.0, BOUNDS.1].contains(&lambda[*g]);
    Ok(Evidence {
        prior_precision: groups.of_slot.iter().map(|g| lambda[*g]).collect(),
        effective_parameters: here.gamma,
        log_evidence: log_likelihood - 0.5 * (distance + here.log_det),
        at_bound: (0..lambda.len()).filter(held).collect(),
    })
}

impl Groups {
    fn step(&self, group: usize, lambda: f64, gamma: f64) -> f64 {
        if let Some(given) = self.given[group] {
            return given;
        }
        let aim = gamma / self.squared_distance[group];
        let aim = if aim.is_finite() { aim } else { BOUNDS.1 };
        aim.clamp(lambda / LARGEST_STEP, lambda * LARGEST_STEP).clamp(BOUNDS.0, BOUNDS.1)
    }
}

/// What M has at some prior precisions.
struct At {
    /// Of each group.
    gamma: Vec<f64>,
    log_det: f64,
}

impl At {
    fn of_features(layout: &Layout, h: &Gram, groups: &Groups, lambda: &[f64]) -> Result<Self> {
        let of_slot: Vec<f64> = groups.of_slot.iter().map(|g| lambda[*g]).collect();
        let lower = whiten::cholesky(h, &layout.of_features(&of_slot))?;
        let inverse = whiten::inverse(&lower);
        // (M^-1)_ii is the square of column i of L^-1.
        let effective = |i: usize| 1.0 - inverse.col(i).squared_norm_l2();
        let mut gamma = vec![0.0; lambda.len()];
        for (range, group) in layout.ranges().into_iter().zip(&groups.of_slot) {
            gamma[*group] += range.map(effective).sum::<f64>();
        }
        Ok(Self { gamma, log_det: log_det(&lower) })
    }

    fn of_pairs(kernels: &[Mat<f64>], lambda: &[f64]) -> Result<Self> {
        let pairs = kernels.first().map_or(0, Mat::nrows);
        let mut m = Mat::<f64>::identity(pairs, pairs);
        kernels.iter().zip(lambda).for_each(|(kernel, l)| m += kernel * faer::Scale(l.recip()));
        let lower = whiten::lower_factor(m)?;
        let root = whiten::inverse(&lower);
        let inverse = root.transpose() * &root;
        let trace = |kernel: &Mat<f64>| -> f64 {
            let columns = kernel.col_iter().zip(inverse.col_iter());
            columns.map(|(a, b)| a.iter().zip(b.iter()).map(|(a, b)| a * b).sum::<f64>()).sum()
        };
        let gamma = kernels.iter().zip(lambda).map(|(kernel, l)| trace(kernel) / l).collect();
        Ok(Self { gamma, log_det: log_det(&lower) })
    }
}

fn log_det(lower: &Mat<f64>) -> f64 {
    2.0 * (0..lower.nrows()).map(|i| lower[(i, i)].ln()).sum::<f64>()
}

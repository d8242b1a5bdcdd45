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
    /// One group for each kind of block that occurs.
    pub fn by_kind(
        layout: &Layout,
        squared_distance: impl Fn(BlockKind) -> f64,
        given: impl Fn(BlockKind) -> Option<f64>,
    ) -> Self {
        let occurs = |kind: &BlockKind| layout.slots.iter().any(|slot| slot.kind == *kind);
        let kinds: Vec<BlockKind> = BlockKind::ALL.into_iter().filter(occurs).collect();
        let group = |kind: BlockKind| kinds.iter().position(|other| *other == kind).unwrap_or_default();
        Self {
            of_slot: layout.slots.iter().map(|slot| group(slot.kind)).collect(),
            squared_distance: kinds.iter().map(|kind| squared_distance(*kind)).collect(),
            given: kinds.iter().map(|kind| given(*kind)).collect(),
        }
    }
}

/// Prior precisions, and what they give.
#[derive(Debug, Clone, PartialEq)]
pub struct Evidence {
    /// lambda of each slot.
    pub prior_precision: Vec<f64>,
    /// gamma of each slot.
    pub effective_parameters: Vec<f64>,
    /// log Z, in nats.
    pub log_evidence: f64,
    /// Groups whose lambda was held at one of [`BOUNDS`].
    pub at_bound: Vec<usize>,
}

/// Chooses the prior precision of every group that none is given for, and evaluates log Z there.
pub fn evidence(layout: &Layout, curvature: &Gram, log_likelihood: f64, groups: &Groups) -> Result<Evidence> {
    let mut lambda: Vec<f64> = groups.given.iter().map(|given| given.unwrap_or(1.0)).collect();
    let free = groups.given.iter().any(Option::is_none);
    let mut at = At::new(layout, curvature, groups, &lambda)?;
    for _ in 0..if free { STEPS } else { 0 } {
        let next: Vec<f64> =
            (0..lambda.len()).map(|g| groups.step(g, lambda[g], at.gamma_of(groups, g))).collect();
        let change = lambda.iter().zip(&next).map(|(a, b)| (b / a).ln().abs()).fold(0.0, f64::max);
        lambda = next;
        at = At::new(layout, curvature, groups, &lambda)?;
        if change < ARRIVED {
            break;
        }
    }
    let distance: f64 = lambda.iter().zip(&groups.squared_distance).map(|(l, d)| l * d).sum();
    let held = |g: &usize| groups.given[*g].is_none() && [BOUNDS.0, BOUNDS.1].contains(&lambda[*g]);
    Ok(Evidence {
        prior_precision: groups.of_slot.iter().map(|g| lambda[*g]).collect(),
        effective_parameters: at.gamma,
        log_evidence: log_likelihood - 0.5 * (distance + at.log_det),
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

/// M at some prior precisions.
struct At {
    gamma: Vec<f64>,
    log_det: f64,
}

impl At {
    fn new(layout: &Layout, curvature: &Gram, groups: &Groups, lambda: &[f64]) -> Result<Self> {
        let of_slot: Vec<f64> = groups.of_slot.iter().map(|g| lambda[*g]).collect();
        let lower = whiten::cholesky(curvature, &layout.of_features(&of_slot))?;
        let inverse = whiten::inverse(&lower);
        let log_det = 2.0 * (0..lower.nrows()).map(|i| lower[(i, i)].ln()).sum::<f64>();
        // (M^-1)_ii is the square of column i of L^-1.
        let effective = |i: usize| 1.0 - inverse.col(i).squared_norm_l2();
        let gamma = layout.ranges().into_iter().map(|range| range.map(effective).sum()).collect();
        Ok(Self { gamma, log_det })
    }

    fn gamma_of(&self, groups: &Groups, group: usize) -> f64 {
        self.gamma.iter().zip(&groups.of_slot).filter(|(_, g)| **g == group).map(|(gamma, _)| gamma).sum()
    }
}

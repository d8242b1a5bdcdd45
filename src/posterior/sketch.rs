//! One posterior over all blocks at once, in a random projection of the whole gradient.
//!
//! ```text
//! phi(x) = the Jacobians of every block, each folded into the features of its slot        (m)
//! H      = sum_n w_n phi(D_n) phi(D_n)^T                                                (m, m)
//! C_ab   = phi_a^T (H + Lambda)^-1 phi_b       Lambda: the prior precision of each feature's slot
//! ```
//!
//! A posterior of separate blocks takes them to be independent, and loses the correlation between layers, which here is
//! kept (generalised Gauss-Newton in a Johnson-Lindenstrauss projection; sums over shards of the data add up). Positive
//! semidefinite by construction.
//!
//! With the Cholesky factor L of H + Lambda and y = L^-1 phi, C_ab = y_a^T y_b. Slots lie in the order in which a backward
//! completes them: head, then groups of layers from the top. So the squares of the y of the first slots sum to
//! phi_S^T (H_SS + Lambda_S)^-1 phi_S, the variance if the rest had no gradient, which is a lower bound of the whole, and what
//! [`crate::score::select`] needs to leave early.

mod evidence;
mod layout;
mod walk;
mod whiten;

use candle_core::{DType, Device, Tensor};
use faer::Mat;
use std::{collections::HashMap, ops::Range};

use super::{fit::Gram, frame::long_last};
use crate::{
    Error, Result,
    nn::{exact::row_squares, fold::Fold},
};

pub use evidence::{Curvature, Evidence, Groups, Sharing, evidence};
pub use layout::{Layout, Slot};
pub use walk::Walk;

/// A joint posterior, ready to be applied to gradients.
#[derive(Debug, Clone)]
pub struct Sketch {
    layout: Layout,
    /// H, m x m.
    curvature: Gram,
    /// lambda of each slot.
    prior_precision: Vec<f64>,
    /// L^-1, by slot: the rows of its features, up to the last that is not zero: (features, end).
    whitening: Vec<Tensor>,
    /// Slot of each block, and how it is folded.
    blocks: HashMap<String, (usize, Fold)>,
}

impl Sketch {
    /// Prepares a curvature under prior precisions, one for each slot; the error lists every problem, each line beginning with
    /// the part's name.
    pub fn new(layout: Layout, curvature: Gram, prior_precision: Vec<f64>) -> Result<Self, Vec<String>> {
        let mut problems = layout.problems();
        if curvature.dim() != layout.features() {
            let (got, want) = (curvature.dim(), layout.features());
            problems.push(format!("curvature: of {got} features, the slots have {want}"));
        }
        if prior_precision.len() != layout.slots.len() {
            let (got, want) = (prior_precision.len(), layout.slots.len());
            problems.push(format!("prior_precision: {got} numbers, expected one for each of {want} slots"));
        }
        for lambda in prior_precision.iter().filter(|lambda| !(lambda.is_finite() && **lambda > 0.0)) {
            problems.push(format!("prior_precision: must be finite and positive, is {lambda}"));
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let lambda = layout.of_features(&prior_precision);
        let inverse =
            whiten::inverse_root(&curvature, &lambda).map_err(|e| vec![format!("curvature: {e}")])?;
        let rows = layout.ranges().into_iter().map(|range| rows(&inverse, range));
        let whitening = rows.collect::<Result<_>>().map_err(|e| vec![e.to_string()])?;
        let blocks = layout.folds();
        Ok(Self { layout, curvature, prior_precision, whitening, blocks })
    }

    /// The same on the device where gradients are.
    pub fn to_device(mut self, device: &Device) -> Result<Self> {
        for rows in &mut self.whitening {
            *rows = rows.to_device(device)?;
        }
        Ok(self)
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    fn device(&self) -> &Device {
        self.whitening.first().map_or(&Device::Cpu, Tensor::device)
    }

    /// H, as it is stored.
    pub fn curvature(&self) -> &Gram {
        &self.curvature
    }

    /// lambda of each slot.
    pub fn prior_precision(&self) -> &[f64] {
        &self.prior_precision
    }

    /// The variances of rewards whose features phi (n, m) are known.
    pub fn variances(&self, phi: &Tensor) -> Result<Vec<f64>> {
        let mut sums = vec![0.0; phi.dim(0)?];
        for (range, rows) in self.layout.ranges().into_iter().zip(&self.whitening) {
            let y = phi.narrow(1, 0, range.end)?.contiguous()?.matmul(&rows.t()?)?;
            sums.iter_mut().zip(row_squares(&y)?).for_each(|(sum, square)| *sum += square);
        }
        Ok(sums)
    }

    /// Begins to take the gradients of `count` rewards, block by block.
    pub fn walk(&self, count: usize) -> Walk<'_> {
        Walk::new(self, count)
    }
}

/// Features of gradients under no prior, for a fit: the slots of a [`Layout`] filled block by block.
#[derive(Debug, Clone)]
pub struct Features {
    folds: HashMap<String, (usize, Fold)>,
    slots: Vec<Option<Tensor>>,
}

impl Features {
    pub fn new(layout: &Layout) -> Self {
        Self { folds: layout.folds(), slots: vec![None; layout.slots.len()] }
    }

    /// Adds the gradients of a block, (n, d_out, d_in); nothing where it has no slot.
    pub fn add(&mut self, name: &str, j: &Tensor) -> Result<()> {
        self.add_oriented(name, &long_last(j)?)
    }

    /// As [`Features::add`], with the longer side last: (n, ..).
    pub fn add_oriented(&mut self, name: &str, j: &Tensor) -> Result<()> {
        if let Some((slot, fold)) = self.folds.get(name) {
            add(&mut self.slots[*slot], &fold.apply(j)?)?;
        }
        Ok(())
    }

    /// phi of each gradient, (n, m) in f32 and in main memory; every slot must have been shown a block.
    pub fn finish(self) -> Result<Tensor> {
        let slots: Option<Vec<Tensor>> = self.slots.into_iter().collect();
        let slots = slots.ok_or_else(|| Error::Internal("a slot of the sketch was not filled".into()))?;
        Ok(Tensor::cat(&slots, 1)?.to_dtype(DType::F32)?.to_device(&Device::Cpu)?)
    }
}

/// Rows of a lower triangle, up to the last number that is not zero: (rows, end), f32.
fn rows(lower: &Mat<f64>, rows: Range<usize>) -> Result<Tensor> {
    let shape = (rows.len(), rows.end);
    let mut values = vec![0.0; rows.len() * rows.end];
    for j in 0..rows.end {
        let column = &lower.col_as_slice(j)[rows.clone()];
        values[j..].iter_mut().step_by(rows.end).zip(column).for_each(|(value, x)| *value = *x as f32);
    }
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

fn add(slot: &mut Option<Tensor>, features: &Tensor) -> Result<()> {
    *slot = Some(match slot.take() {
        Some(sum) => (sum + features)?,
        None => features.clone(),
    });
    Ok(())
}

#[cfg(test)]
mod tests;

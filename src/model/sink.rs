//! What a backward pass is for: it visits every trainable site once, and a sink decides what becomes of it.
//!
//! [`Gradients`] sums over the batch, for training. [`Jacobians`] keeps groups (sequences, or pairs) apart and hands each
//! block's stack of Jacobians on as soon as it is formed, so that no more than one block's is ever held.

use super::site::{Factor, HEAD, Projection, Site};
use crate::Result;
use crate::nn::{
    linear::{Linear, Lora},
    outer::outer,
    pack::Packed,
    product::product,
};
use candle_core::{Device, Tensor};
use std::{collections::BTreeMap, ops::Range};

/// The tokens that a layer's rows stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// Every token of the packed batch.
    All,
    /// The pooled tokens, in the order of the rewards.
    Pooled,
}

/// Linear layers of one input, some with updates, as the backward passes them.
pub struct Visit<'a> {
    pub layer: usize,
    /// In the order of the linear layer's parts.
    pub projections: &'static [Projection],
    pub linear: &'a Linear,
    pub rows: Rows,
    /// Inputs, (R, d_in), like the gradients never in half precision.
    pub x: &'a Tensor,
    /// Gradients of all outputs, (R, d_out).
    pub g: &'a Tensor,
}

impl<'a> Visit<'a> {
    /// Every site with an update, and the gradients of its B's outputs, the scale aside, (R, d_out).
    pub fn sites(&self) -> Result<Vec<(Site, &'a Lora, Tensor)>> {
        let mut sites = Vec::with_capacity(self.projections.len());
        for (projection, (outputs, lora)) in self.projections.iter().zip(self.linear.parts()) {
            if let Some(lora) = lora {
                let g = lora.output_gradient(self.g.narrow(1, outputs.start, outputs.len())?)?;
                sites.push((Site { layer: self.layer, projection: *projection }, lora, g));
            }
        }
        Ok(sites)
    }
}

pub trait Sink {
    /// Linear layers of one input; at least one has an update.
    fn visit(&mut self, visit: &Visit) -> Result<()>;

    /// The reward head: the hidden states it read (M, C), and the cotangents of the rewards (M, 1).
    fn head(&mut self, hidden: &Tensor, cotangents: &Tensor) -> Result<()>;
}

/// Gradients of the cotangents' sum, by block name, in main memory.
#[derive(Debug, Default)]
pub struct Gradients(pub BTreeMap<String, Tensor>);

impl Sink for Gradients {
    fn visit(&mut self, visit: &Visit) -> Result<()> {
        for (site, lora, g) in visit.sites()? {
            let da = product(&lora.down_gradient(&g)?.t()?, visit.x)?;
            // s g^T h, with the scale on the narrow side.
            let db = product(&g.t()?, &(lora.down(visit.x)? * lora.scale)?)?;
            self.0.insert(site.block(Factor::A), da.to_device(&Device::Cpu)?);
            self.0.insert(site.block(Factor::B), db.to_device(&Device::Cpu)?);
        }
        Ok(())
    }

    fn head(&mut self, hidden: &Tensor, cotangents: &Tensor) -> Result<()> {
        let gradient = cotangents.t()?.matmul(hidden)?;
        self.0.insert(HEAD.to_owned(), gradient.to_device(&Device::Cpu)?);
        Ok(())
    }
}

/// Jacobians of each group's (weighted) reward, stacked per block: (groups, rows, columns), shown to `consume`.
pub struct Jacobians<F> {
    tokens: Vec<Range<usize>>,
    pooled: Vec<Range<usize>>,
    consume: F,
}

impl<F: FnMut(&str, &Tensor) -> Result<()>> Jacobians<F> {
    /// For the groups of the packed batch that is walked back.
    pub fn new(packed: &Packed, consume: F) -> Self {
        Self { tokens: packed.groups.clone(), pooled: packed.pooled_groups(), consume }
    }

    /// For the head alone, of every one of `rewards`.
    pub fn of_head(rewards: usize, consume: F) -> Self {
        Self { tokens: Vec::new(), pooled: (0..rewards).map(|i| i..i + 1).collect(), consume }
    }
}

impl<F: FnMut(&str, &Tensor) -> Result<()>> Sink for Jacobians<F> {
    fn visit(&mut self, visit: &Visit) -> Result<()> {
        let groups = match visit.rows {
            Rows::All => &self.tokens,
            Rows::Pooled => &self.pooled,
        };
        for (site, lora, g) in visit.sites()? {
            // J_A = sum_t (s B^T g_t) x_t^T
            let ja = outer(&lora.down_gradient(&g)?, visit.x, groups)?;
            (self.consume)(&site.block(Factor::A), &ja)?;
            // J_B = s sum_t g_t h_t^T, formed as its transpose: the long side last, the scale on the narrow one.
            let jb = outer(&(lora.down(visit.x)? * lora.scale)?, &g, groups)?;
            (self.consume)(&site.block(Factor::B), &jb.transpose(1, 2)?)?;
        }
        Ok(())
    }

    fn head(&mut self, hidden: &Tensor, cotangents: &Tensor) -> Result<()> {
        let (rewards, size) = hidden.dims2()?;
        let each = rewards / self.pooled.len();
        let weighted = hidden.broadcast_mul(cotangents)?;
        // (M, C) -> (groups, rewards of a group, C) -> (groups, 1, C)
        let jacobian = weighted.reshape((self.pooled.len(), each, size))?.sum_keepdim(1)?;
        (self.consume)(HEAD, &jacobian)
    }
}

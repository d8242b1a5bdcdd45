//! What a backward pass is for: it visits every trainable site once, and a sink decides what becomes of it.
//!
//! [`Gradients`] sums over the batch, for training. [`Jacobians`] keeps groups (sequences, or pairs) apart and hands each
//! block's stack of Jacobians on as soon as it is formed, so that no more than one block's is ever held.

use super::site::{Factor, HEAD, Site};
use crate::Result;
use crate::nn::{linear::Lora, outer::outer};
use candle_core::Tensor;
use std::{collections::BTreeMap, ops::Range};

pub trait Sink {
    /// A linear layer with an update: its inputs `x` (N, d_in) and output gradients `g` (N, d_out).
    fn site(&mut self, site: Site, lora: &Lora, x: &Tensor, g: &Tensor) -> Result<()>;

    /// The reward head: the hidden states it read (M, C), and the cotangents of the rewards (M, 1).
    fn head(&mut self, hidden: &Tensor, cotangents: &Tensor) -> Result<()>;
}

/// Gradients of the cotangents' sum, by block name.
#[derive(Debug, Default)]
pub struct Gradients(pub BTreeMap<String, Tensor>);

impl Sink for Gradients {
    fn site(&mut self, site: Site, lora: &Lora, x: &Tensor, g: &Tensor) -> Result<()> {
        let da = lora.down_gradient(g)?.t()?.matmul(x)?;
        let db = lora.up_gradient(g)?.t()?.matmul(&lora.down(x)?)?;
        self.0.insert(site.block(Factor::A), da);
        self.0.insert(site.block(Factor::B), db);
        Ok(())
    }

    fn head(&mut self, hidden: &Tensor, cotangents: &Tensor) -> Result<()> {
        self.0.insert(HEAD.to_owned(), cotangents.t()?.matmul(hidden)?);
        Ok(())
    }
}

/// Jacobians of each group's (weighted) reward, stacked per block: (groups, rows, columns), shown to `consume`.
pub struct Jacobians<'a, F> {
    groups: &'a [Range<usize>],
    consume: F,
}

impl<'a, F: FnMut(&str, &Tensor) -> Result<()>> Jacobians<'a, F> {
    /// For the groups of the packed batch that is walked back.
    pub fn new(groups: &'a [Range<usize>], consume: F) -> Self {
        Self { groups, consume }
    }
}

impl<F: FnMut(&str, &Tensor) -> Result<()>> Sink for Jacobians<'_, F> {
    fn site(&mut self, site: Site, lora: &Lora, x: &Tensor, g: &Tensor) -> Result<()> {
        // J_A = sum_t (s B^T g_t) x_t^T
        let ja = outer(&lora.down_gradient(g)?, x, self.groups)?;
        (self.consume)(&site.block(Factor::A), &ja)?;
        // J_B = s sum_t g_t h_t^T: the scale goes on the narrow side.
        let jb = outer(g, &(lora.down(x)? * lora.scale)?, self.groups)?;
        (self.consume)(&site.block(Factor::B), &jb)
    }

    fn head(&mut self, hidden: &Tensor, cotangents: &Tensor) -> Result<()> {
        let (rewards, size) = hidden.dims2()?;
        let each = rewards / self.groups.len();
        let weighted = hidden.broadcast_mul(cotangents)?;
        // (M, C) -> (groups, rewards of a group, C) -> (groups, 1, C)
        let jacobian = weighted.reshape((self.groups.len(), each, size))?.sum_keepdim(1)?;
        (self.consume)(HEAD, &jacobian)
    }
}

//! Products with a frozen weight in eight bits: y = x W^T, for scoring only.
//!
//! Weights and activations are cut along d_in into groups of [`GROUP`] numbers, each with its own scale (as GGML's Q8_0):
//! the weight once, when it is packed, the activations in every call. With codes c and scales s of group g,
//!
//! y[n, o] = sum_g sx[n, g] sw[o, g] (sum_k cx[n, k] cw[o, k]),
//!
//! where the inner sum is exact in i32 and the outer one is in f32. A group that holds a NaN or an infinity has the scale
//! NaN, so that nothing which is not finite comes out as a number.
//!
//! A kernel computes one tile: [`ROWS`] tokens by [`PANEL`] outputs. All kernels give the same bits; tiles run in
//! parallel, and each is summed in one order, so the number of threads does not matter either.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod pack;
mod portable;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod vnni;

use super::{Slot, share::Shared, written};
use pack::{Block, Codes, activations, panels};
use rayon::prelude::*;

/// Numbers along d_in that share a scale.
pub const GROUP: usize = 64;

/// Outputs of a tile.
const PANEL: usize = 32;

/// Tokens of a tile, at most.
const ROWS: usize = 6;

/// Tokens and panels of a task: its weights fit the second cache, while tasks are many enough for every thread.
const TASK: (usize, usize) = (8 * ROWS, 6);

/// Products that a thread takes at least: fewer cost less than handing them over.
const GRAIN: usize = 1 << 20;

/// Outputs of `R` tokens: [`PANEL`] each.
type Tile<const R: usize> = [[f32; PANEL]; R];

/// An implementation of the tile; its value is the proof that this processor has the instructions.
#[derive(Debug, Clone, Copy)]
enum Kernel {
    #[cfg(target_arch = "x86_64")]
    Vnni(vnni::Vnni),
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2),
    Portable,
}

impl Kernel {
    /// All that run here, the fastest first.
    fn available() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let special = [vnni::Vnni::new().map(Self::Vnni), avx2::Avx2::new().map(Self::Avx2)];
        #[cfg(not(target_arch = "x86_64"))]
        let special: [Option<Self>; 0] = [];
        special.into_iter().flatten().chain([Self::Portable])
    }

    fn best() -> Self {
        Self::available().next().unwrap_or(Self::Portable)
    }

    /// Outputs of a panel for tokens that have a group of codes for each of its blocks.
    fn tile<const R: usize>(self, panel: &[Block], rows: [&[Codes]; R]) -> Tile<R> {
        let rows = rows.map(|row| &row[..panel.len()]);
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Vnni(kernel) => kernel.tile(panel, rows),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(kernel) => kernel.tile(panel, rows),
            Self::Portable => portable::tile(panel, rows),
        }
    }
}

/// A weight (d_out, d_in) in eight bits, packed for the kernels.
#[derive(Debug, Clone)]
pub struct QuantizedWeight {
    d_out: usize,
    d_in: usize,
    /// Panels of [`PANEL`] outputs one after the other, each with a block for every group.
    blocks: Vec<Block>,
}

impl QuantizedWeight {
    /// Quantises w (d_out, d_in), row-major; an empty matrix, or another number of values, is a panic.
    pub fn new(w: &[f32], (d_out, d_in): (usize, usize)) -> Self {
        assert!(d_out > 0 && d_in > 0, "an empty weight: ({d_out}, {d_in})");
        assert_eq!(Some(w.len()), d_out.checked_mul(d_in), "values of a weight ({d_out}, {d_in})");
        Self { d_out, d_in, blocks: panels(w, d_in) }
    }

    /// (d_out, d_in).
    pub fn dims(&self) -> (usize, usize) {
        (self.d_out, self.d_in)
    }

    /// x W^T, or `to` plus it: x (N, d_in), to (N, d_out) -> (N, d_out), all row-major; other sizes are a panic.
    pub fn product(&self, x: &[f32], to: Option<&[f32]>) -> Vec<f32> {
        self.product_by(Kernel::best(), x, to)
    }

    fn product_by(&self, kernel: Kernel, x: &[f32], to: Option<&[f32]>) -> Vec<f32> {
        let tokens = x.len() / self.d_in;
        assert_eq!(x.len(), tokens * self.d_in, "values of {tokens} tokens of {} numbers", self.d_in);
        let outputs = tokens * self.d_out;
        assert!(to.is_none_or(|to| to.len() == outputs), "{outputs} outputs are added to");
        let x = activations(x, self.d_in);
        let [down, across] = [tokens.div_ceil(TASK.0), self.panels().div_ceil(TASK.1)];
        let products = TASK.0.min(tokens) * TASK.1 * PANEL * self.d_in;
        let at_least = GRAIN.div_ceil(products.max(1));
        let fill = |y: &mut [Slot]| {
            let call = Call { weight: self, kernel, x: &x, tokens, to, y: Shared::new(y) };
            let tasks = (0..down * across).into_par_iter().with_min_len(at_least);
            // Neighbouring tasks share their panels, so that a thread finds them in its cache.
            tasks.for_each(|i| call.task(i % down, i / down));
        };
        // SAFETY: the tasks cover all tokens and panels, and a tile writes every output of its tokens and panel.
        unsafe { written(outputs, fill) }
    }

    fn panels(&self) -> usize {
        self.d_out.div_ceil(PANEL)
    }

    fn groups(&self) -> usize {
        self.d_in.div_ceil(GROUP)
    }
}

/// One product, as its tasks see it.
struct Call<'a> {
    weight: &'a QuantizedWeight,
    kernel: Kernel,
    /// (N, groups)
    x: &'a [Codes],
    tokens: usize,
    /// What is added, (N, d_out).
    to: Option<&'a [f32]>,
    /// (N, d_out)
    y: Shared<'a, Slot>,
}

impl Call<'_> {
    /// The tiles of row block `down` and column block `across`.
    fn task(&self, down: usize, across: usize) {
        let tokens = down * TASK.0..((down + 1) * TASK.0).min(self.tokens);
        let panels = across * TASK.1..((across + 1) * TASK.1).min(self.weight.panels());
        for panel in panels {
            for token in tokens.clone().step_by(ROWS) {
                match tokens.end - token {
                    1 => self.tile::<1>(token, panel),
                    2 => self.tile::<2>(token, panel),
                    3 => self.tile::<3>(token, panel),
                    4 => self.tile::<4>(token, panel),
                    5 => self.tile::<5>(token, panel),
                    _ => self.tile::<ROWS>(token, panel),
                }
            }
        }
    }

    /// `R` tokens from `token` on, for the outputs of one panel.
    fn tile<const R: usize>(&self, token: usize, panel: usize) {
        let (groups, d_out) = (self.weight.groups(), self.weight.d_out);
        let rows = std::array::from_fn(|r| &self.x[(token + r) * groups..][..groups]);
        let tile: Tile<R> = self.kernel.tile(&self.weight.blocks[panel * groups..][..groups], rows);
        let first = panel * PANEL;
        let width = PANEL.min(d_out - first);
        for (r, sums) in tile.iter().enumerate() {
            let at = (token + r) * d_out + first;
            // SAFETY: each token and panel belongs to one tile, each tile to one task and each task to one thread; the
            // part, outputs first..first + width <= d_out of one token, is therefore nobody else's.
            let y = unsafe { self.y.part(at, width) };
            match self.to {
                None => {
                    y.write_copy_of_slice(&sums[..width]);
                }
                Some(to) => y.iter_mut().zip(&to[at..]).zip(sums).for_each(|((y, to), sum)| {
                    y.write(to + sum);
                }),
            }
        }
    }
}

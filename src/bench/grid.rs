//! Speed by length of the sequences and tokens of the batch, with the limit of each cell.
//!
//! A batch is scored as the service scores it: a scorer cuts what is large into passes of its own. The limit is that of one
//! pass over the whole batch.

use super::{
    Plan,
    machine::Machine,
    memory,
    products::{Passes, Products, Size},
    sequences::Sequences,
    timer::Timer,
};
use crate::{
    Result,
    model::config::Config,
    score::{Score, Scorer, Want},
    text::TokenSeq,
};
use serde::Serialize;

/// One batch of sequences of one length, in one pass.
#[derive(Debug, Clone, Serialize)]
pub struct Cell {
    /// Tokens of each sequence.
    pub length: usize,
    /// Sequences of the batch.
    pub sequences: usize,
    /// Tokens of the batch, at most the plan's.
    pub tokens: usize,
    /// Tokens of the batch as planned.
    pub batch_tokens: usize,
    /// Means alone.
    pub mean: Side,
    /// Means and variances, where the model has a posterior.
    pub variance: Option<Side>,
}

/// One kind of score of a cell.
#[derive(Debug, Clone, Serialize)]
pub struct Side {
    /// Of the batch.
    pub seconds: f64,
    pub tokens_per_second: f64,
    /// Of the frozen weights' products alone, in f32.
    pub products_seconds: f64,
    /// Time of the products over the time of all.
    pub share: f64,
    /// 10^9 operations of the products in each second of all.
    pub gflops: f64,
    /// 10^9 operations of the products in each second of them alone.
    pub products_gflops: f64,
    /// The products' operations at the machine's best rate.
    pub operations_floor_seconds: f64,
    /// The weights, once for each pass, at the rate of the memory.
    pub bytes_floor_seconds: f64,
    /// Most memory of the process until it was measured, loading included, less what the products alone take, in bytes.
    pub peak_bytes: Option<u64>,
}

/// Measures cells of one model.
#[derive(Debug)]
pub struct Grid<'a> {
    products: Products,
    /// What the products' weights take, in bytes.
    products_bytes: u64,
    machine: &'a Machine,
    timer: Timer,
    sequences: Sequences,
}

impl<'a> Grid<'a> {
    /// Prepares the products of a model of this shape.
    pub fn new(config: &Config, timer: Timer, machine: &'a Machine, seed: u64) -> Self {
        let products_bytes = memory::Weights::of(config, false, false).pass_bytes;
        let sequences = Sequences::new(config.vocab_size, seed);
        Self { products: Products::new(config), products_bytes, machine, timer, sequences }
    }

    /// Measures every batch that holds a sequence of the length at least; lengths past the model's are left out. All means
    /// come first: the allocator keeps what it has for a while, and peaks of means would be those of variances before them.
    pub fn measure(&mut self, scorer: &mut Scorer, plan: &Plan) -> Result<Vec<Cell>> {
        let longest = scorer.model.config().max_length;
        for length in plan.lengths.iter().filter(|length| **length > longest) {
            tracing::warn!("length {length} is left out: the model takes {longest} tokens");
        }
        let mut cells = Vec::new();
        for batch_tokens in &plan.batch_tokens {
            let fitting = plan.lengths.iter().filter(|length| **length <= longest.min(*batch_tokens));
            for length in fitting {
                let sequences = batch_tokens / length;
                let (length, batch_tokens, tokens) = (*length, *batch_tokens, sequences * length);
                let mean = self.side(scorer, (sequences, length), Want::Mean)?;
                cells.push(Cell { length, sequences, tokens, batch_tokens, mean, variance: None });
            }
        }
        if scorer.able(Want::MeanAndVariance) == Want::MeanAndVariance {
            for cell in &mut cells {
                let sizes = (cell.sequences, cell.length);
                cell.variance = Some(self.side(scorer, sizes, Want::MeanAndVariance)?);
            }
        }
        Ok(cells)
    }

    fn side(&mut self, scorer: &mut Scorer, sizes: (usize, usize), want: Want) -> Result<Side> {
        let (sequences, length) = sizes;
        tracing::info!("measuring {sequences} x {length} tokens, {want:?}");
        let made = self.sequences.independent(sequences, length);
        let batch: Vec<&TokenSeq> = made.iter().collect();
        let size = Size { tokens: sequences * length, pooled: sequences };
        let passes = match want {
            Want::Mean => Passes::Forward,
            Want::MeanAndVariance => Passes::ForwardAndBackward,
        };
        self.limited(size, passes, || scorer.score(&batch, want).map(drop))
    }

    /// Times the work, and the products of its passes.
    fn limited(&mut self, size: Size, passes: Passes, work: impl FnMut() -> Result<()>) -> Result<Side> {
        memory::reset_peak();
        let seconds = self.timer.seconds(work)?;
        let peak_bytes = memory::peak().map(|peak| peak.saturating_sub(self.products_bytes));
        let products = &mut self.products;
        let products_seconds = self.timer.seconds(|| products.run(size, passes))?;
        let operations = products.operations(size, passes);
        let bytes = self.products_bytes as f64 * passes.count() as f64;
        Ok(Side {
            seconds,
            tokens_per_second: size.tokens as f64 / seconds,
            products_seconds,
            share: products_seconds / seconds,
            gflops: operations / seconds / 1e9,
            products_gflops: operations / products_seconds / 1e9,
            operations_floor_seconds: operations / self.machine.operations_per_second,
            bytes_floor_seconds: bytes / self.machine.bytes_per_second,
            peak_bytes,
        })
    }
}

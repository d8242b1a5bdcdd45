//! What a posterior knows of some rewards while a backward shows their gradients, block by block.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};

use super::{Block, Form, Posterior, sketch};
use crate::{
    Result,
    nn::{exact::row_squares, fold::Fold},
};

/// Features of the covariances of separate blocks, projected together.
const FEATURES: usize = 4096;

/// What is wanted of the gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// The variance of each.
    Variances,
    /// A vector for each, whose inner products are the covariances.
    Covariances,
}

/// Rewards on their way down. The variances so far only grow: separate blocks add, and of a sketch the marginal posterior of
/// what has been shown is a lower bound.
#[derive(Debug, Clone)]
pub struct Walk<'a>(State<'a>);

#[derive(Debug, Clone)]
enum State<'a> {
    Blocks { blocks: &'a BTreeMap<String, Block>, sums: Vec<f64>, features: Option<Folded> },
    Sketch(sketch::Walk<'a>),
}

/// Features of all blocks so far, (n, [`FEATURES`]).
#[derive(Debug, Clone)]
struct Folded {
    sum: Option<Tensor>,
    blocks: u64,
}

impl Posterior {
    /// Begins to take the gradients of `count` rewards.
    pub fn walk(&self, count: usize, wanted: Wanted) -> Walk<'_> {
        Walk(match &self.form {
            Form::Blocks(blocks) => State::Blocks {
                blocks,
                sums: vec![0.0; count],
                features: (wanted == Wanted::Covariances).then_some(Folded { sum: None, blocks: 0 }),
            },
            Form::Sketch(sketch) => State::Sketch(sketch.walk(count)),
        })
    }
}

impl Walk<'_> {
    /// Takes the gradients of a block, (n, d_out, d_in). A block that the posterior leaves out is known exactly, and adds
    /// nothing.
    pub fn add(&mut self, name: &str, j: &Tensor) -> Result<()> {
        match &mut self.0 {
            State::Sketch(walk) => walk.add(name, j),
            State::Blocks { blocks, sums, features } => match (blocks.get(name), features) {
                (None, _) => Ok(()),
                (Some(block), None) => {
                    sums.iter_mut().zip(block.variances(j)?).for_each(|(sum, v)| *sum += v);
                    Ok(())
                }
                (Some(block), Some(folded)) => {
                    let of_block = block.features(j)?;
                    sums.iter_mut().zip(row_squares(&of_block)?).for_each(|(sum, v)| *sum += v);
                    folded.add(&of_block)
                }
            },
        }
    }

    /// The variances of what has been shown so far.
    pub fn variances(&self) -> &[f64] {
        match &self.0 {
            State::Blocks { sums, .. } => sums,
            State::Sketch(walk) => walk.variances(),
        }
    }

    /// Goes on with some of the rewards only, given by position.
    pub fn keep(&mut self, positions: &[usize]) -> Result<()> {
        match &mut self.0 {
            State::Sketch(walk) => walk.keep(positions),
            State::Blocks { sums, features, .. } => {
                *sums = positions.iter().map(|i| sums[*i]).collect();
                if let Some(sum) = features.as_mut().and_then(|folded| folded.sum.as_mut()) {
                    let rows: Vec<u32> = positions.iter().map(|i| *i as u32).collect();
                    *sum = sum.index_select(&Tensor::new(rows.as_slice(), sum.device())?, 0)?;
                }
                Ok(())
            }
        }
    }

    /// A vector for each reward, (n, F) in f32, whose inner products are the covariances: exact for a sketch, and for separate
    /// blocks but for the error of a random projection, sqrt(2 / F) of the product of two standard deviations.
    pub fn covariances(self) -> Result<Option<Tensor>> {
        match self.0 {
            State::Sketch(walk) => walk.whitened().map(Some),
            State::Blocks { features, .. } => {
                features.and_then(|folded| folded.sum).map(|sum| Ok(sum.to_dtype(DType::F32)?)).transpose()
            }
        }
    }
}

impl Folded {
    fn add(&mut self, features: &Tensor) -> Result<()> {
        let folded = Fold { key: self.blocks, features: FEATURES, offset: 0 }.apply(features)?;
        self.blocks += 1;
        self.sum = Some(match self.sum.take() {
            Some(sum) => (sum + folded)?,
            None => folded,
        });
        Ok(())
    }
}

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
    Blocks(Blocks<'a>),
    Sketch(sketch::Walk<'a>),
}

/// Rewards under separate blocks.
#[derive(Debug, Clone)]
struct Blocks<'a> {
    blocks: &'a BTreeMap<String, Block>,
    /// v of each reward so far, and v0.
    variances: Vec<f64>,
    prior_variances: Vec<f64>,
    /// Where covariances are wanted.
    projection: Option<Projection>,
}

/// Features of all blocks so far.
#[derive(Debug, Clone, Default)]
struct Projection {
    sums: Option<Vectors>,
    blocks: u64,
}

/// Vectors of some rewards, (n, F) in f32 each: inner products of two rows are covariances.
#[derive(Debug, Clone)]
pub struct Vectors {
    /// Under the posterior.
    pub posterior: Tensor,
    /// Under the prior.
    pub prior: Tensor,
}

impl Posterior {
    /// Begins to take the gradients of `count` rewards.
    pub fn walk(&self, count: usize, wanted: Wanted) -> Walk<'_> {
        Walk(match &self.form {
            Form::Blocks(blocks) => State::Blocks(Blocks {
                blocks,
                variances: vec![0.0; count],
                prior_variances: vec![0.0; count],
                projection: (wanted == Wanted::Covariances).then(Projection::default),
            }),
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
            State::Blocks(walk) => walk.add(name, j),
        }
    }

    /// The variances of what has been shown so far.
    pub fn variances(&self) -> &[f64] {
        match &self.0 {
            State::Blocks(walk) => &walk.variances,
            State::Sketch(walk) => walk.variances(),
        }
    }

    /// The prior variances of what has been shown so far, v0 = J Lambda^-1 J^T.
    pub fn prior_variances(&self) -> &[f64] {
        match &self.0 {
            State::Blocks(walk) => &walk.prior_variances,
            State::Sketch(walk) => walk.prior_variances(),
        }
    }

    /// Goes on with some of the rewards only, given by position.
    pub fn keep(&mut self, positions: &[usize]) -> Result<()> {
        match &mut self.0 {
            State::Sketch(walk) => walk.keep(positions),
            State::Blocks(walk) => walk.keep(positions),
        }
    }

    /// Vectors of each reward: exact for a sketch, and for separate blocks but for the error of a random projection,
    /// sqrt(2 / F) of the product of two standard deviations.
    pub fn vectors(self) -> Result<Option<Vectors>> {
        match self.0 {
            State::Sketch(walk) => walk.vectors().map(Some),
            State::Blocks(Blocks { projection, .. }) => {
                let f32 = |t: Tensor| t.to_dtype(DType::F32);
                let sums = projection.and_then(|projection| projection.sums);
                sums.map(|Vectors { posterior, prior }| {
                    Ok(Vectors { posterior: f32(posterior)?, prior: f32(prior)? })
                })
                .transpose()
            }
        }
    }
}

impl Blocks<'_> {
    fn add(&mut self, name: &str, j: &Tensor) -> Result<()> {
        let Some(block) = self.blocks.get(name) else { return Ok(()) };
        let (variances, prior_variances) = match &mut self.projection {
            None => (block.variances(j)?, block.prior_variances(j)?),
            Some(projection) => {
                let features = block.features(j)?;
                projection.add(&features)?;
                (row_squares(&features.posterior)?, row_squares(&features.prior)?)
            }
        };
        self.variances.iter_mut().zip(variances).for_each(|(sum, v)| *sum += v);
        self.prior_variances.iter_mut().zip(prior_variances).for_each(|(sum, v)| *sum += v);
        Ok(())
    }

    fn keep(&mut self, positions: &[usize]) -> Result<()> {
        for sums in [&mut self.variances, &mut self.prior_variances] {
            *sums = positions.iter().map(|i| sums[*i]).collect();
        }
        if let Some(sums) = self.projection.as_mut().and_then(|projection| projection.sums.as_mut()) {
            let rows: Vec<u32> = positions.iter().map(|i| *i as u32).collect();
            for sum in [&mut sums.posterior, &mut sums.prior] {
                *sum = sum.index_select(&Tensor::new(rows.as_slice(), sum.device())?, 0)?;
            }
        }
        Ok(())
    }
}

impl Projection {
    /// Both vectors are projected by the same signs, so that the errors of their lengths go together.
    fn add(&mut self, features: &Vectors) -> Result<()> {
        let fold = Fold { key: self.blocks, features: FEATURES, offset: 0 };
        let (posterior, prior) = (fold.apply(&features.posterior)?, fold.apply(&features.prior)?);
        self.blocks += 1;
        self.sums = Some(match self.sums.take() {
            Some(sums) => Vectors { posterior: (sums.posterior + posterior)?, prior: (sums.prior + prior)? },
            None => Vectors { posterior, prior },
        });
        Ok(())
    }
}

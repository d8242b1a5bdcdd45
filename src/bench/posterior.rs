//! A posterior that costs what a fitted one costs, for adapters that have none.
//!
//! The bases are the first columns of the identity, the curvature is one everywhere: a valid posterior of the shapes that
//! `fit` gives by default, whose products take the time of any other. Its variances mean nothing.

use crate::{
    Error, Result,
    posterior::{Block, Parts, Posterior},
};
use candle_core::{DType, Device, Tensor};
use std::collections::BTreeMap;

/// Directions that are kept of a block's longer side, as `fit` does by default.
const DIRECTIONS: usize = 16;

/// A block for each trainable matrix, given by rows and columns.
pub fn stand_in(shapes: &BTreeMap<String, (usize, usize)>) -> Result<Posterior> {
    let block = |(name, (d_out, d_in)): (&String, &(usize, usize))| {
        let parts = parts(*d_out, *d_in)?;
        let block =
            Block::new(parts).map_err(|problems| Error::Internal(format!("{name}: {}", problems.join("; "))));
        Ok((name.clone(), block?))
    };
    Ok(Posterior::of_blocks(shapes.iter().map(block).collect::<Result<_>>()?, None))
}

fn parts(d_out: usize, d_in: usize) -> Result<Parts> {
    let (k_out, k_in) =
        if d_in >= d_out { (d_out, d_in.min(DIRECTIONS)) } else { (d_out.min(DIRECTIONS), d_in) };
    Ok(Parts {
        input_basis: basis(d_in, k_in)?,
        output_basis: basis(d_out, k_out)?,
        curvature: Tensor::ones((k_out, k_in), DType::F32, &Device::Cpu)?,
        tail: None,
        prior_precision: 1.0,
    })
}

/// The first `k` columns of the identity, (d, k).
fn basis(d: usize, k: usize) -> Result<Tensor> {
    let mut values = vec![0f32; d * k];
    (0..k).for_each(|i| values[i * k + i] = 1.0);
    Ok(Tensor::from_vec(values, (d, k), &Device::Cpu)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_have_the_shapes_that_they_stand_for() {
        let shapes = [("wide", (2, 40)), ("tall", (40, 2)), ("small", (3, 3)), ("head", (1, 20))];
        let shapes = shapes.map(|(name, shape)| (name.to_owned(), shape)).into();
        let posterior = stand_in(&shapes).unwrap();
        for (name, shape) in shapes {
            assert_eq!(posterior.blocks().unwrap()[&name].dims(), shape, "{name}");
        }
    }
}

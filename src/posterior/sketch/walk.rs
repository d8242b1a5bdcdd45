//! Gradients on their way into a sketch, as a backward shows them.

use candle_core::{DType, Tensor};

use super::{Sketch, add};
use crate::{
    Result,
    nn::exact::row_squares,
    posterior::{frame::long_last, walk::Vectors},
};

/// What is known of some rewards so far.
#[derive(Debug, Clone)]
pub struct Walk<'a> {
    sketch: &'a Sketch,
    /// phi of the slots that have been shown a block, (n, features) each.
    slots: Vec<Option<Tensor>>,
    /// Blocks shown, of each slot.
    shown: Vec<usize>,
    /// y of the first slots, all of whose blocks have been shown.
    whitened: Vec<Tensor>,
    /// Squares of those y, summed.
    sums: Vec<f64>,
    /// phi^2 / lambda of the same slots, summed.
    prior_sums: Vec<f64>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(sketch: &'a Sketch, count: usize) -> Self {
        let slots = sketch.layout.slots.len();
        Self {
            sketch,
            slots: vec![None; slots],
            shown: vec![0; slots],
            whitened: Vec::new(),
            sums: vec![0.0; count],
            prior_sums: vec![0.0; count],
        }
    }

    /// Takes the gradients of a block, (n, d_out, d_in); nothing where the sketch leaves it out.
    pub fn add(&mut self, name: &str, j: &Tensor) -> Result<()> {
        let Some((slot, fold)) = self.sketch.blocks.get(name) else { return Ok(()) };
        let phi = fold.apply(&long_last(j)?)?.to_dtype(DType::F32)?;
        add(&mut self.slots[*slot], &phi.to_device(self.sketch.device())?)?;
        self.shown[*slot] += 1;
        while self.next_is_complete() {
            self.whiten()?;
        }
        Ok(())
    }

    fn next_is_complete(&self) -> bool {
        let slots = &self.sketch.layout.slots;
        let next = self.whitened.len();
        slots.get(next).is_some_and(|slot| self.shown[next] == slot.blocks.len())
    }

    /// y of the next slot.
    fn whiten(&mut self) -> Result<()> {
        let next = self.whitened.len();
        let phi: Vec<&Tensor> = self.slots[..=next].iter().flatten().collect();
        let y = Tensor::cat(&phi, 1)?.matmul(&self.sketch.whitening[next].t()?)?;
        self.sums.iter_mut().zip(row_squares(&y)?).for_each(|(sum, square)| *sum += square);
        if let Some(own) = phi.last() {
            let lambda = self.sketch.prior_precision[next];
            let squares = row_squares(own)?;
            self.prior_sums.iter_mut().zip(squares).for_each(|(sum, square)| *sum += square / lambda);
        }
        self.whitened.push(y);
        Ok(())
    }

    /// Variances of what has been shown so far, up to the last complete slot: lower bounds until all has been shown.
    pub fn variances(&self) -> &[f64] {
        &self.sums
    }

    /// Prior variances of the same slots, v0 = sum phi^2 / lambda.
    pub fn prior_variances(&self) -> &[f64] {
        &self.prior_sums
    }

    /// Goes on with some of the rewards only, given by position.
    pub fn keep(&mut self, positions: &[usize]) -> Result<()> {
        let rows: Vec<u32> = positions.iter().map(|i| *i as u32).collect();
        for features in self.slots.iter_mut().flatten().chain(&mut self.whitened) {
            let rows = Tensor::new(rows.as_slice(), features.device())?;
            *features = features.index_select(&rows, 0)?;
        }
        for sums in [&mut self.sums, &mut self.prior_sums] {
            *sums = positions.iter().map(|i| sums[*i]).collect();
        }
        Ok(())
    }

    /// y and Lambda^-1/2 phi of every reward, (n, m).
    pub fn vectors(&self) -> Result<Vectors> {
        let lambda = &self.sketch.prior_precision;
        let scaled = |(phi, lambda): (&Tensor, &f64)| phi * lambda.sqrt().recip();
        let shown = self.slots[..self.whitened.len()].iter().flatten().zip(lambda);
        let prior = shown.map(scaled).collect::<candle_core::Result<Vec<_>>>()?;
        Ok(Vectors { posterior: Tensor::cat(&self.whitened, 1)?, prior: Tensor::cat(&prior, 1)? })
    }
}

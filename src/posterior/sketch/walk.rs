//! Gradients on their way into a sketch, as a backward shows them.

use candle_core::{DType, Tensor};

use super::{Sketch, add};
use crate::{Result, nn::exact::row_squares, posterior::frame::long_last};

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
        self.whitened.push(y);
        Ok(())
    }

    /// Variances of what has been shown so far, up to the last complete slot: lower bounds until all has been shown.
    pub fn variances(&self) -> &[f64] {
        &self.sums
    }

    /// Goes on with some of the rewards only, given by position.
    pub fn keep(&mut self, positions: &[usize]) -> Result<()> {
        let rows: Vec<u32> = positions.iter().map(|i| *i as u32).collect();
        for features in self.slots.iter_mut().flatten().chain(&mut self.whitened) {
            let rows = Tensor::new(rows.as_slice(), features.device())?;
            *features = features.index_select(&rows, 0)?;
        }
        self.sums = positions.iter().map(|i| self.sums[*i]).collect();
        Ok(())
    }

    /// y of every reward, (n, m): inner products of two rows are covariances.
    pub fn whitened(&self) -> Result<Tensor> {
        Ok(Tensor::cat(&self.whitened, 1)?)
    }
}

//! The backward, layer by layer from the top, of the sequences that are left.
//!
//! A forward may compute what sequences share once; in the backward each has its own gradients, so a descent from a folded
//! batch takes its sequences apart ([`Packed::unfold`]): their activations are rows of the batch's. In the same way
//! sequences can leave on the way down, and what follows is computed for the others alone.

use super::{
    Kept, RewardModel, Trace,
    layer::{self, Batch, Layer},
    sink::{Rows, Sink},
};
use crate::{
    Result,
    nn::{exact::exact, pack::Packed, product::product, rows::gather},
};
use candle_core::{Device, Tensor};
use std::borrow::Cow;

/// A backward that stops after every layer.
pub struct Descent<'a> {
    model: &'a RewardModel,
    trace: &'a Trace<'a>,
    /// The batch that is walked back.
    packed: Cow<'a, Packed>,
    batch: Cow<'a, Batch>,
    /// Where only some are left: their rows in the trace.
    selection: Option<Selection>,
    /// Gradient at the output of the next layer: of the pooled tokens (M, C) at the top, then of all, (N, C).
    dx: Tensor,
    /// Layers still to be walked, those with an update at or below them.
    left: &'a [Layer],
    lowest: usize,
}

/// Rows of a trace.
struct Selection {
    /// Of each token.
    tokens: Tensor,
    /// Of each reward, among the pooled tokens.
    pooled: Tensor,
}

impl Selection {
    fn rows(&self, rows: Rows) -> &Tensor {
        match rows {
            Rows::All => &self.tokens,
            Rows::Pooled => &self.pooled,
        }
    }
}

impl<'a> Descent<'a> {
    /// Walks the whole batch back from `sum_i cotangents[i] * reward[i]`.
    pub(super) fn whole(model: &'a RewardModel, trace: &'a Trace<'a>, cotangents: &[f64]) -> Result<Self> {
        let dx = model.below_head(&trace.last, cotangents)?;
        let (packed, batch) = (Cow::Borrowed(trace.packed), Cow::Borrowed(&trace.batch));
        let lowest = model.lowest();
        Ok(Self { model, trace, packed, batch, selection: None, dx, left: &model.layers, lowest })
    }

    /// Walks some sequences back, each from its own reward: those of the rewards given by index.
    pub(super) fn of_rewards(
        model: &'a RewardModel,
        trace: &'a Trace<'a>,
        rewards: &[usize],
    ) -> Result<Self> {
        let all = rewards.iter().copied().eq(0..trace.packed.pooled.len());
        if all && trace.packed.segments.iter().all(|segment| segment.parent.is_none()) {
            return Self::whole(model, trace, &vec![1.0; rewards.len()]);
        }
        let unfolded = trace.packed.unfold(rewards);
        let selection = Selection {
            tokens: model.indices(unfolded.rows.iter().copied())?,
            pooled: model.indices(rewards.iter().map(|i| *i as u32))?,
        };
        let last = gather(&trace.last, &selection.pooled)?;
        let dx = model.below_head(&last, &vec![1.0; rewards.len()])?;
        let batch = Cow::Owned(model.batch(&unfolded.packed)?);
        let (packed, selection) = (Cow::Owned(unfolded.packed), Some(selection));
        Ok(Self { model, trace, packed, batch, selection, dx, left: &model.layers, lowest: model.lowest() })
    }

    /// The sequences that are walked back.
    pub fn packed(&self) -> &Packed {
        &self.packed
    }

    /// Layers still to be walked.
    pub fn depth(&self) -> usize {
        self.left.len() - self.lowest
    }

    /// Walks the next layer, and shows its matrices to `sink`; below the lowest layer with an update nothing happens.
    pub fn layer(&mut self, sink: &mut dyn Sink) -> Result<()> {
        let Some((layer, left)) = self.left.split_last().filter(|_| self.depth() > 0) else {
            return Ok(());
        };
        let kept = &self.trace.layers[left.len()];
        let trace = self.of_layer(layer, kept)?;
        let below = layer.backward(&trace, &self.batch, &self.dx, sink)?;
        self.left = left;
        // Nothing reads the gradient below the lowest layer.
        if self.depth() > 0 {
            self.dx = layer.input_gradient(&trace, &self.batch, below)?;
        }
        Ok(())
    }

    /// Goes on with some of the sequences: ascending positions among those that are left.
    pub fn keep(&mut self, positions: &[usize]) -> Result<()> {
        let next = self.packed.unfold(positions);
        let rows = self.model.indices(next.rows.iter().copied())?;
        let pooled = self.model.indices(positions.iter().map(|i| *i as u32))?;
        let at_top = self.left.len() == self.model.layers.len();
        self.dx = gather(&self.dx, if at_top { &pooled } else { &rows })?;
        let of = |before: &Tensor, some: &Tensor| before.index_select(some, 0);
        self.selection = Some(match &self.selection {
            None => Selection { tokens: rows, pooled },
            Some(before) => {
                Selection { tokens: of(&before.tokens, &rows)?, pooled: of(&before.pooled, &pooled)? }
            }
        });
        self.batch = Cow::Owned(self.model.batch(&next.packed)?);
        self.packed = Cow::Owned(next.packed);
        Ok(())
    }

    /// What the layer's backward reads, for the sequences that are left.
    fn of_layer(&self, layer: &Layer, kept: &'a Kept) -> Result<Cow<'a, layer::Trace>> {
        Ok(match (kept, &self.selection) {
            (Kept::Whole(whole), None) => Cow::Borrowed(whole),
            (Kept::Whole(whole), Some(selection)) => {
                Cow::Owned(whole.select(&selection.tokens, selection.rows(layer.rows))?)
            }
            (Kept::Input(x), None) => Cow::Owned(layer.forward(x, &self.batch)?.1),
            (Kept::Input(x), Some(selection)) => {
                Cow::Owned(layer.forward(&gather(x, &selection.tokens)?, &self.batch)?.1)
            }
        })
    }
}

impl RewardModel {
    /// Gradient of `sum_i cotangents[i] * reward[i]` at what the head's norm reads, (M, C).
    fn below_head(&self, last: &Tensor, cotangents: &[f64]) -> Result<Tensor> {
        let dhidden = product(&self.column(cotangents)?, &self.head)?;
        let dx = self.norm.backward(&exact(last)?, &dhidden, &dhidden.zeros_like()?)?;
        Ok(dx.to_dtype(self.dtype)?)
    }

    /// Shows the reward head to `sink`.
    pub(super) fn show_head(&self, trace: &Trace, cotangents: &[f64], sink: &mut dyn Sink) -> Result<()> {
        if !self.head_trainable {
            return Ok(());
        }
        let hidden = self.norm.forward(&exact(&trace.last)?)?;
        sink.head(&hidden, &self.column(cotangents)?)
    }

    /// Numbers as (M, 1), in the head's type.
    fn column(&self, numbers: &[f64]) -> Result<Tensor> {
        let column = Tensor::from_slice(numbers, (numbers.len(), 1), &Device::Cpu)?;
        Ok(column.to_dtype(self.head.dtype())?.to_device(&self.device)?)
    }

    fn indices(&self, rows: impl Iterator<Item = u32>) -> Result<Tensor> {
        let rows: Vec<u32> = rows.collect();
        let count = rows.len();
        Ok(Tensor::from_vec(rows, count, &self.device)?)
    }

    /// Layers that a complete backward walks.
    pub fn depth(&self) -> usize {
        self.layers.len() - self.lowest()
    }

    /// Index of the lowest layer with an update; the number of layers where there is none.
    fn lowest(&self) -> usize {
        self.layers.iter().position(Layer::has_lora).unwrap_or(self.layers.len())
    }
}

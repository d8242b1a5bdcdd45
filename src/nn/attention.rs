//! Causal attention with grouped queries (Ainslie et al., 2023) over packed segments: no padding, no token of another sequence.
//!
//! The R query heads that share a key head are stacked into one matrix, so that a segment costs one batched product
//! per key head. The probabilities are computed again in the backward rather than kept.

use super::{
    cpu::{
        self, Values,
        attention::{Heads, Operands},
    },
    pack::Segment,
};
use candle_core::{D, Result, Tensor};
use std::ops::Range;

/// Rotated queries (N, H, D), rotated keys and values (N, G, D) -> (N, H, D).
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, segments: &[Segment]) -> Result<Tensor> {
    let (_, heads, size) = q.dims3()?;
    if let Some([q_values, k_values, v_values]) = Values::of_all([q, k, v]) {
        let heads = Heads { heads, groups: k.dim(1)?, size };
        let operands = Operands { q: &q_values, k: &k_values, v: &v_values, heads, segments };
        return cpu::tensor_like(cpu::attention::attention(&operands), q);
    }
    let outputs = segments.iter().map(|segment| {
        let view = View::new(q, k, v, segment)?;
        ungroup(&view.probabilities()?.matmul(&view.v)?, heads, size)
    });
    Tensor::cat(&outputs.collect::<Result<Vec<_>>>()?, 0)
}

/// Gradients (dq, dk, dv) of [`attention`].
///
/// Per segment, with P = softmax(scale Q K^T): dV = P^T dO, dP = dO V^T, dS = P (dP - rowsum(P dP)), dQ = scale dS K,
/// dK = scale dS^T Q. A parent's keys collect what its children send.
pub fn attention_backward(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    segments: &[Segment],
    dy: &Tensor,
) -> Result<(Tensor, Tensor, Tensor)> {
    let (_, heads, size) = q.dims3()?;
    let groups = k.dim(1)?;
    if let Some([q_values, k_values, v_values, dy]) = Values::of_all([q, k, v, dy]) {
        let heads = Heads { heads, groups, size };
        let operands = Operands { q: &q_values, k: &k_values, v: &v_values, heads, segments };
        let (dq, dk, dv) = cpu::attention::attention_backward(&operands, &dy);
        return Ok((cpu::tensor_like(dq, q)?, cpu::tensor_like(dk, k)?, cpu::tensor_like(dv, v)?));
    }
    let mut dq = Vec::with_capacity(segments.len());
    let mut keys = KeyGradients::new(segments);
    for segment in segments {
        let view = View::new(q, k, v, segment)?;
        let p = view.probabilities()?;
        let dout = group(&rows(dy, &segment.tokens)?, groups)?;
        let dv = p.t()?.matmul(&dout)?;
        let dp = dout.matmul(&view.v.t()?)?;
        let ds = (&p * dp.broadcast_sub(&(&p * &dp)?.sum_keepdim(D::Minus1)?)?)?;
        dq.push(ungroup(&(ds.matmul(&view.k)? * view.scale)?, heads, size)?);
        let dk = (ds.t()?.matmul(&view.q)? * view.scale)?;
        // (G, S, D) -> (S, G, D)
        keys.add(segment, &dk.transpose(0, 1)?, &dv.transpose(0, 1)?)?;
    }
    let (dk, dv) = keys.finish()?;
    Ok((Tensor::cat(&dq, 0)?, dk, dv))
}

/// One segment's operands, with the batch over key heads.
struct View {
    /// (G, R T, D)
    q: Tensor,
    /// (G, S, D)
    k: Tensor,
    v: Tensor,
    /// Queries T and keys S of the segment.
    queries: usize,
    scale: f64,
}

impl View {
    fn new(q: &Tensor, k: &Tensor, v: &Tensor, segment: &Segment) -> Result<Self> {
        let q = group(&rows(q, &segment.tokens)?, k.dim(1)?)?;
        let scale = 1.0 / (q.dim(2)? as f64).sqrt();
        let keys = |x: &Tensor| seen(x, segment)?.transpose(0, 1)?.contiguous();
        Ok(Self { q, k: keys(k)?, v: keys(v)?, queries: segment.tokens.len(), scale })
    }

    /// softmax(scale Q K^T + mask): (G, R T, S).
    fn probabilities(&self) -> Result<Tensor> {
        let (groups, rows, _) = self.q.dims3()?;
        let keys = self.k.dim(1)?;
        let scores = (self.q.matmul(&self.k.t()?)? * self.scale)?;
        let scores = scores.reshape((groups, rows / self.queries, self.queries, keys))?;
        let scores = scores.broadcast_add(&self.mask(keys)?)?;
        candle_nn::ops::softmax_last_dim(&scores)?.reshape((groups, rows, keys))
    }

    /// 0 where query i sees key j, minus infinity elsewhere: (T, S). The parent's keys come first and are all seen.
    fn mask(&self, keys: usize) -> Result<Tensor> {
        let before = keys - self.queries;
        let mask: Vec<f32> = (0..self.queries)
            .flat_map(|i| (0..keys).map(move |j| if j <= before + i { 0.0 } else { f32::NEG_INFINITY }))
            .collect();
        Tensor::from_vec(mask, (self.queries, keys), self.q.device())?.to_dtype(self.q.dtype())
    }
}

/// Sums gradients of keys and values over the segments that see them.
struct KeyGradients<'a> {
    segments: &'a [Segment],
    dk: Vec<Option<Tensor>>,
    dv: Vec<Option<Tensor>>,
}

impl<'a> KeyGradients<'a> {
    fn new(segments: &'a [Segment]) -> Self {
        Self { segments, dk: vec![None; segments.len()], dv: vec![None; segments.len()] }
    }

    /// Takes gradients (S, G, D) of what `segment` saw: its parent's rows, then its own.
    fn add(&mut self, segment: &Segment, dk: &Tensor, dv: &Tensor) -> Result<()> {
        let mut start = 0;
        for range in segment.parent.iter().chain([&segment.tokens]) {
            // Segments are in the order of their tokens.
            let index = self.segments.partition_point(|s| s.tokens.start < range.start);
            for (slot, gradient) in [(&mut self.dk[index], dk), (&mut self.dv[index], dv)] {
                let part = gradient.narrow(0, start, range.len())?;
                *slot = Some(match slot.take() {
                    Some(sum) => (sum + part)?,
                    None => part.contiguous()?,
                });
            }
            start += range.len();
        }
        Ok(())
    }

    fn finish(self) -> Result<(Tensor, Tensor)> {
        let join =
            |parts: Vec<Option<Tensor>>| Tensor::cat(&parts.into_iter().flatten().collect::<Vec<_>>(), 0);
        Ok((join(self.dk)?, join(self.dv)?))
    }
}

fn rows(x: &Tensor, tokens: &Range<usize>) -> Result<Tensor> {
    x.narrow(0, tokens.start, tokens.len())
}

/// Rows that `segment` attends to: (N, G, D) -> (S, G, D).
fn seen(x: &Tensor, segment: &Segment) -> Result<Tensor> {
    match &segment.parent {
        Some(parent) => Tensor::cat(&[rows(x, parent)?, rows(x, &segment.tokens)?], 0),
        None => rows(x, &segment.tokens),
    }
}

/// Stacks the query heads of a key head: (T, H, D) -> (G, R T, D).
fn group(x: &Tensor, groups: usize) -> Result<Tensor> {
    let (tokens, heads, size) = x.dims3()?;
    let ratio = heads / groups;
    x.reshape((tokens, groups, ratio, size))?.permute((1, 2, 0, 3))?.contiguous()?.reshape((
        groups,
        ratio * tokens,
        size,
    ))
}

/// Undoes [`group`]: (G, R T, D) -> (T, H, D).
fn ungroup(x: &Tensor, heads: usize, size: usize) -> Result<Tensor> {
    let (groups, rows, _) = x.dims3()?;
    let ratio = heads / groups;
    let tokens = rows / ratio;
    x.reshape((groups, ratio, tokens, size))?
        .permute((2, 0, 1, 3))?
        .contiguous()?
        .reshape((tokens, heads, size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::check::{assert_gradient, random, values};

    /// A prompt with two answers, and a sequence on its own.
    fn segments() -> Vec<Segment> {
        let child = |tokens| Segment { tokens, parent: Some(0..2) };
        vec![
            Segment { tokens: 0..2, parent: None },
            child(2..5),
            child(5..6),
            Segment { tokens: 6..9, parent: None },
        ]
    }

    #[test]
    fn backward_equals_finite_differences() {
        let s = segments();
        let (q, k, v) = (random(1, &[9, 4, 3]), random(2, &[9, 2, 3]), random(3, &[9, 2, 3]));
        let dy = random(4, &[9, 4, 3]);
        let (dq, dk, dv) = attention_backward(&q, &k, &v, &s, &dy).unwrap();
        assert_gradient(&q, &dy, &dq, |q| attention(q, &k, &v, &s));
        assert_gradient(&k, &dy, &dk, |k| attention(&q, k, &v, &s));
        assert_gradient(&v, &dy, &dv, |v| attention(&q, &k, v, &s));
    }

    #[test]
    fn a_child_attends_as_if_it_followed_its_parent() {
        let (q, k, v) = (random(1, &[5, 4, 3]), random(2, &[5, 2, 3]), random(3, &[5, 2, 3]));
        let whole = attention(&q, &k, &v, &[Segment { tokens: 0..5, parent: None }]).unwrap();
        let split = [Segment { tokens: 0..2, parent: None }, Segment { tokens: 2..5, parent: Some(0..2) }];
        let split = attention(&q, &k, &v, &split).unwrap();
        for (a, b) in values(&whole).iter().zip(values(&split)) {
            assert!((a - b).abs() < 1e-12);
        }
    }
}

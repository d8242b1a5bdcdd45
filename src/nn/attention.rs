//! Causal attention with grouped queries (Ainslie et al., 2023) over packed segments: no padding, no token of another sequence.
//!
//! The R query heads that share a key head are stacked into one matrix, so that a segment costs one batched product
//! per key head. The probabilities are computed again in the backward rather than kept.

use super::{
    cpu::{self, Values, attention::Operands},
    pack::Query,
};
use candle_core::{D, Result, Tensor};
use std::ops::Range;

/// The heads of a token, side by side: H of queries, G of keys, G of values, D numbers each.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    /// H, query heads.
    pub heads: usize,
    /// G, key heads; H is a multiple.
    pub groups: usize,
    /// D.
    pub size: usize,
}

impl Heads {
    /// R.
    pub fn ratio(&self) -> usize {
        self.heads / self.groups
    }

    /// Numbers of a token.
    pub fn width(&self) -> usize {
        (self.heads + 2 * self.groups) * self.size
    }

    /// Where token `t`'s query head `r` of group `g` begins in (N, H + 2 G, D).
    pub(super) fn query(&self, t: usize, g: usize, r: usize) -> usize {
        t * self.width() + (g * self.ratio() + r) * self.size
    }

    /// Where token `t`'s key head `g` begins.
    pub(super) fn key(&self, t: usize, g: usize) -> usize {
        t * self.width() + (self.heads + g) * self.size
    }

    /// Where its value begins.
    pub(super) fn value(&self, t: usize, g: usize) -> usize {
        t * self.width() + (self.heads + self.groups + g) * self.size
    }

    /// Where head `r` of group `g` begins in row `row` of the output, (Q, H, D).
    pub(super) fn output(&self, row: usize, g: usize, r: usize) -> usize {
        (row * self.heads + g * self.ratio() + r) * self.size
    }
}

/// Rotated queries, rotated keys and values (N, (H + 2 G) D) -> what each query sees of the values, (Q, H D).
pub fn attention(qkv: &Tensor, heads: Heads, queries: &[Query]) -> Result<Tensor> {
    let wide = heads.heads * heads.size;
    if let Some([qkv]) = Values::of_all([qkv]) {
        let y = cpu::attention::attention(&Operands { qkv: &qkv, heads, queries });
        return cpu::tensor(y, (queries.iter().map(|query| query.tokens.len()).sum::<usize>(), wide));
    }
    let outputs = queries.iter().map(|query| {
        let view = View::new(qkv, heads, query)?;
        ungroup(&view.probabilities()?.matmul(&view.v)?, heads)
    });
    Tensor::cat(&outputs.collect::<Result<Vec<_>>>()?, 0)
}

/// Gradient (N, (H + 2 G) D) of [`attention`].
///
/// Per segment, with P = softmax(scale Q K^T): dV = P^T dO, dP = dO V^T, dS = P (dP - rowsum(P dP)), dQ = scale dS K,
/// dK = scale dS^T Q. A parent's keys collect what its children send; a token without a query has no dQ.
pub fn attention_backward(qkv: &Tensor, heads: Heads, queries: &[Query], dy: &Tensor) -> Result<Tensor> {
    if let Some([values, dy]) = Values::of_all([qkv, dy]) {
        let dqkv = cpu::attention::attention_backward(&Operands { qkv: &values, heads, queries }, &dy);
        return cpu::tensor(dqkv, qkv.dims());
    }
    let mut dqkv = qkv.zeros_like()?;
    for query in queries {
        let view = View::new(qkv, heads, query)?;
        let p = view.probabilities()?;
        let dout = group(&dy.narrow(0, query.row, query.tokens.len())?, heads.heads, heads)?;
        let dv = p.t()?.matmul(&dout)?;
        let dp = dout.matmul(&view.v.t()?)?;
        let ds = (&p * dp.broadcast_sub(&(&p * &dp)?.sum_keepdim(D::Minus1)?)?)?;
        let dq = ungroup(&(ds.matmul(&view.k)? * view.scale)?, heads)?;
        let dk = (ds.t()?.matmul(&view.q)? * view.scale)?;
        dqkv = added(&dqkv, &query.tokens, 0, &dq)?;
        // (G, S, D) -> (S, G D)
        let flat = |x: &Tensor| x.transpose(0, 1)?.contiguous()?.flatten_from(1);
        let (dk, dv) = (flat(&dk)?, flat(&dv)?);
        let mut start = 0;
        for keys in query.keys() {
            let part = |x: &Tensor| x.narrow(0, start, keys.len());
            dqkv = added(&dqkv, &keys, heads.key(0, 0), &part(&dk)?)?;
            dqkv = added(&dqkv, &keys, heads.value(0, 0), &part(&dv)?)?;
            start += keys.len();
        }
    }
    Ok(dqkv)
}

/// `sums` with `x` added to some rows, from a column on.
fn added(sums: &Tensor, rows: &Range<usize>, column: usize, x: &Tensor) -> Result<Tensor> {
    let after = |whole: usize, end: usize| whole - end;
    let (all, wide) = sums.dims2()?;
    let x = x.pad_with_zeros(1, column, after(wide, column + x.dim(1)?))?;
    sums + x.pad_with_zeros(0, rows.start, after(all, rows.end))?
}

/// One query's operands, with the batch over key heads.
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
    fn new(qkv: &Tensor, heads: Heads, query: &Query) -> Result<Self> {
        let Heads { heads: wide, groups, size } = heads;
        let q = rows(qkv, &query.tokens)?.narrow(1, 0, wide * size)?;
        let keys = |from: usize| {
            let runs = query.keys().map(|keys| rows(qkv, &keys)?.narrow(1, from, groups * size));
            group(&Tensor::cat(&runs.collect::<Result<Vec<_>>>()?, 0)?, groups, heads)
        };
        Ok(Self {
            q: group(&q, wide, heads)?,
            k: keys(heads.key(0, 0))?,
            v: keys(heads.value(0, 0))?,
            queries: query.tokens.len(),
            scale: 1.0 / (size as f64).sqrt(),
        })
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

    /// 0 where query i sees key j, minus infinity elsewhere: (T, S). The last query sees all keys.
    fn mask(&self, keys: usize) -> Result<Tensor> {
        let before = keys - self.queries;
        let mask: Vec<f32> = (0..self.queries)
            .flat_map(|i| (0..keys).map(move |j| if j <= before + i { 0.0 } else { f32::NEG_INFINITY }))
            .collect();
        Tensor::from_vec(mask, (self.queries, keys), self.q.device())?.to_dtype(self.q.dtype())
    }
}

fn rows(x: &Tensor, tokens: &Range<usize>) -> Result<Tensor> {
    x.narrow(0, tokens.start, tokens.len())
}

/// Stacks the heads that share a key head: (T, heads D) -> (G, heads / G T, D).
fn group(x: &Tensor, count: usize, heads: Heads) -> Result<Tensor> {
    let Heads { groups, size, .. } = heads;
    let (tokens, ratio) = (x.dim(0)?, count / groups);
    x.reshape((tokens, groups, ratio, size))?.permute((1, 2, 0, 3))?.contiguous()?.reshape((
        groups,
        ratio * tokens,
        size,
    ))
}

/// Undoes [`group`] for the queries: (G, R T, D) -> (T, H D).
fn ungroup(x: &Tensor, heads: Heads) -> Result<Tensor> {
    let Heads { heads, groups, size } = heads;
    let ratio = heads / groups;
    let tokens = x.dim(1)? / ratio;
    x.reshape((groups, ratio, tokens, size))?
        .permute((2, 0, 1, 3))?
        .contiguous()?
        .reshape((tokens, heads * size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{
        check::{assert_gradient, random, values},
        pack::Segment,
    };

    const HEADS: Heads = Heads { heads: 4, groups: 2, size: 3 };

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
        let (all, some) = (Query::all(&segments()), Query::some(&segments(), &[3, 4, 5, 7]));
        for queries in [all, some] {
            let rows = queries.iter().map(|query| query.tokens.len()).sum::<usize>();
            let (qkv, dy) = (random(1, &[9, HEADS.width()]), random(4, &[rows, 12]));
            let dqkv = attention_backward(&qkv, HEADS, &queries, &dy).unwrap();
            assert_gradient(&qkv, &dy, &dqkv, |qkv| attention(qkv, HEADS, &queries));
        }
    }

    #[test]
    fn a_child_attends_as_if_it_followed_its_parent() {
        let qkv = random(1, &[5, HEADS.width()]);
        let attend = |segments: &[Segment]| attention(&qkv, HEADS, &Query::all(segments)).unwrap();
        let whole = attend(&[Segment { tokens: 0..5, parent: None }]);
        let split =
            attend(&[Segment { tokens: 0..2, parent: None }, Segment { tokens: 2..5, parent: Some(0..2) }]);
        for (a, b) in values(&whole).iter().zip(values(&split)) {
            assert!((a - b).abs() < 1e-12);
        }
    }

    #[test]
    fn some_queries_see_what_they_see_among_all() {
        let qkv = random(1, &[9, HEADS.width()]);
        let all = attention(&qkv, HEADS, &Query::all(&segments())).unwrap();
        let tokens = [1, 4, 5, 7];
        let some = attention(&qkv, HEADS, &Query::some(&segments(), &tokens)).unwrap();
        let want =
            all.index_select(&Tensor::new(&tokens.map(|t| t as u32), all.device()).unwrap(), 0).unwrap();
        for (a, b) in values(&some).iter().zip(values(&want)) {
            assert!((a - b).abs() < 1e-12);
        }
    }
}

//! Causal attention with grouped queries (Ainslie et al., 2023) over packed segments: no padding, no token of another sequence.
//!
//! The R query heads that share a key head are stacked into one matrix, so that a segment costs one batched product
//! per key head. The probabilities are computed again in the backward rather than kept.

use super::{
    cpu::{self, Values, attention::Operands},
    exact::exact,
    pack::Query,
};
use candle_core::{D, Result, Tensor};
use std::ops::Range;

/// The heads of a token: H of queries, G of keys, G of values, D numbers each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// H, query heads.
    pub heads: usize,
    /// G, key heads; H is a multiple.
    pub groups: usize,
    /// D.
    pub size: usize,
    pub order: Order,
}

/// How the heads of a token lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// All queries, all keys, all values.
    ByKind,
    /// For each key head its queries, itself, its value.
    ByGroup,
}

/// What a query sees, and how much of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attention {
    pub heads: Heads,
    /// What the products of queries and keys are multiplied by.
    pub scale: f64,
    /// Bounds scores s to cap tanh(s / cap).
    pub cap: Option<f64>,
    /// Most keys that a query sees, the last ones with itself.
    pub window: Option<usize>,
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
        let head = match self.order {
            Order::ByKind => g * self.ratio() + r,
            Order::ByGroup => g * (self.ratio() + 2) + r,
        };
        t * self.width() + head * self.size
    }

    /// Where token `t`'s key head `g` begins.
    pub(super) fn key(&self, t: usize, g: usize) -> usize {
        let head = match self.order {
            Order::ByKind => self.heads + g,
            Order::ByGroup => g * (self.ratio() + 2) + self.ratio(),
        };
        t * self.width() + head * self.size
    }

    /// Where its value begins.
    pub(super) fn value(&self, t: usize, g: usize) -> usize {
        let after = match self.order {
            Order::ByKind => self.groups,
            Order::ByGroup => 1,
        };
        self.key(t, g) + after * self.size
    }

    /// Where head `r` of group `g` begins in row `row` of the output, (Q, H, D).
    pub(super) fn output(&self, row: usize, g: usize, r: usize) -> usize {
        (row * self.heads + g * self.ratio() + r) * self.size
    }

    /// Where the heads of a token's queries and of its keys begin, ascending: those that turn with its position.
    pub fn turning(&self) -> Vec<usize> {
        let of_group = |g: usize| (0..self.ratio()).map(move |r| self.query(0, g, r));
        let queries = (0..self.groups).flat_map(of_group);
        let mut all: Vec<usize> = queries.chain((0..self.groups).map(|g| self.key(0, g))).collect();
        all.sort_unstable();
        all
    }

    /// A token's numbers in the order of [`Order::ByKind`]; `back` undoes it.
    fn by_kind(&self, x: &Tensor, back: bool) -> Result<Tensor> {
        if self.order == Order::ByKind {
            return Ok(x.clone());
        }
        let ordered = Self { order: Order::ByKind, ..*self };
        let mut columns = vec![0u32; self.width()];
        let mut place = |from: usize, to: usize| {
            let (from, to) = if back { (to, from) } else { (from, to) };
            (0..self.size).for_each(|d| columns[to + d] = (from + d) as u32);
        };
        for g in 0..self.groups {
            (0..self.ratio()).for_each(|r| place(self.query(0, g, r), ordered.query(0, g, r)));
            place(self.key(0, g), ordered.key(0, g));
            place(self.value(0, g), ordered.value(0, g));
        }
        x.index_select(&Tensor::new(columns, x.device())?, 1)
    }
}

impl Attention {
    /// Rotated queries, rotated keys and values (N, (H + 2 G) D) -> what each query sees of the values, (Q, H D).
    pub fn forward(&self, qkv: &Tensor, queries: &[Query]) -> Result<Tensor> {
        let wide = self.heads.heads * self.heads.size;
        if let Some([qkv]) = Values::of_all([qkv]) {
            let y = cpu::attention::attention(&Operands { qkv: &qkv, attention: *self, queries });
            return cpu::tensor(y, (queries.iter().map(|query| query.tokens.len()).sum::<usize>(), wide));
        }
        let qkv = self.heads.by_kind(qkv, false)?;
        let outputs = queries.iter().map(|query| {
            let view = View::new(&qkv, self, query)?;
            ungroup(&view.probabilities()?.0.matmul(&view.v)?, self.heads)
        });
        Tensor::cat(&outputs.collect::<Result<Vec<_>>>()?, 0)?.to_dtype(qkv.dtype())
    }

    /// Gradient (N, (H + 2 G) D) of [`Attention::forward`].
    ///
    /// Per segment, with P = softmax(scale Q K^T): dV = P^T dO, dP = dO V^T, dS = P (dP - rowsum(P dP)), dQ = scale dS K,
    /// dK = scale dS^T Q; a cap multiplies dS by its slope. A parent's keys collect what its children send; a token without a query
    /// has no dQ.
    pub fn backward(&self, qkv: &Tensor, queries: &[Query], dy: &Tensor) -> Result<Tensor> {
        let heads = self.heads;
        if let Some([values, dy]) = Values::of_all([qkv, dy]) {
            let operands = Operands { qkv: &values, attention: *self, queries };
            return cpu::tensor(cpu::attention::attention_backward(&operands, &dy), qkv.dims());
        }
        let (qkv, ordered) = (heads.by_kind(qkv, false)?, Heads { order: Order::ByKind, ..heads });
        let (dy, mut dqkv) = (exact(dy)?, exact(&qkv.zeros_like()?)?);
        for query in queries {
            let view = View::new(&qkv, self, query)?;
            let (p, slope) = view.probabilities()?;
            let dout = group(&dy.narrow(0, query.row, query.tokens.len())?, heads.heads, heads)?;
            let dv = p.t()?.matmul(&dout)?;
            let dp = dout.matmul(&view.v.t()?)?;
            let ds = (&p * dp.broadcast_sub(&(&p * &dp)?.sum_keepdim(D::Minus1)?)?)?;
            let ds = slope.map_or(Ok(ds.clone()), |slope| ds * slope)?;
            let dq = ungroup(&(ds.matmul(&view.k)? * self.scale)?, heads)?;
            let dk = (ds.t()?.matmul(&view.q)? * self.scale)?;
            dqkv = added(&dqkv, &query.tokens, 0, &dq)?;
            // (G, S, D) -> (S, G D)
            let flat = |x: &Tensor| x.transpose(0, 1)?.contiguous()?.flatten_from(1);
            let (dk, dv) = (flat(&dk)?, flat(&dv)?);
            let mut start = 0;
            for keys in query.keys() {
                let part = |x: &Tensor| x.narrow(0, start, keys.len());
                dqkv = added(&dqkv, &keys, ordered.key(0, 0), &part(&dk)?)?;
                dqkv = added(&dqkv, &keys, ordered.value(0, 0), &part(&dv)?)?;
                start += keys.len();
            }
        }
        heads.by_kind(&dqkv, true)?.to_dtype(qkv.dtype())
    }
}

/// `sums` with `x` added to some rows, from a column on.
fn added(sums: &Tensor, rows: &Range<usize>, column: usize, x: &Tensor) -> Result<Tensor> {
    let after = |whole: usize, end: usize| whole - end;
    let (all, wide) = sums.dims2()?;
    let x = x.pad_with_zeros(1, column, after(wide, column + x.dim(1)?))?;
    sums + x.pad_with_zeros(0, rows.start, after(all, rows.end))?
}

/// One query's operands, with the batch over key heads, never in half precision.
struct View {
    /// (G, R T, D)
    q: Tensor,
    /// (G, S, D)
    k: Tensor,
    v: Tensor,
    /// Queries T of the segment.
    queries: usize,
    attention: Attention,
}

impl View {
    /// Of tokens whose heads lie by kind.
    fn new(qkv: &Tensor, attention: &Attention, query: &Query) -> Result<Self> {
        let heads = Heads { order: Order::ByKind, ..attention.heads };
        let Heads { heads: wide, groups, size, .. } = heads;
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
            attention: *attention,
        })
    }

    /// softmax(scale Q K^T + mask), (G, R T, S), and the slope of the scores' cap, where there is one.
    fn probabilities(&self) -> Result<(Tensor, Option<Tensor>)> {
        let (groups, rows, _) = self.q.dims3()?;
        let keys = self.k.dim(1)?;
        let mut scores = (self.q.matmul(&self.k.t()?)? * self.attention.scale)?;
        let mut slope = None;
        if let Some(cap) = self.attention.cap {
            let t = (scores / cap)?.tanh()?;
            slope = Some((1.0 - t.sqr()?)?);
            scores = (t * cap)?;
        }
        let scores = scores.reshape((groups, rows / self.queries, self.queries, keys))?;
        let scores = scores.broadcast_add(&self.mask(keys)?)?;
        Ok((candle_nn::ops::softmax_last_dim(&scores)?.reshape((groups, rows, keys))?, slope))
    }

    /// 0 where query i sees key j, minus infinity elsewhere: (T, S). The last query sees all keys, or its window of them.
    fn mask(&self, keys: usize) -> Result<Tensor> {
        let before = keys - self.queries;
        let window = self.attention.window.unwrap_or(usize::MAX);
        let sees = |i: usize, j: usize| j <= before + i && before + i - j < window;
        let mask: Vec<f32> = (0..self.queries)
            .flat_map(|i| (0..keys).map(move |j| if sees(i, j) { 0.0 } else { f32::NEG_INFINITY }))
            .collect();
        Tensor::from_vec(mask, (self.queries, keys), self.q.device())?.to_dtype(self.q.dtype())
    }
}

fn rows(x: &Tensor, tokens: &Range<usize>) -> Result<Tensor> {
    exact(&x.narrow(0, tokens.start, tokens.len())?)
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
    let Heads { heads, groups, size, .. } = heads;
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

    const HEADS: Heads = Heads { heads: 4, groups: 2, size: 3, order: Order::ByKind };
    const PLAIN: Attention = Attention { heads: HEADS, scale: 0.6, cap: None, window: None };

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
        let by_group = Attention { heads: Heads { order: Order::ByGroup, ..HEADS }, ..PLAIN };
        let others =
            [Attention { cap: Some(0.7), ..PLAIN }, Attention { window: Some(2), ..PLAIN }, by_group];
        let plain = [&all, &some].map(|queries| (PLAIN, queries));
        for (attention, queries) in others.map(|other| (other, &all)).into_iter().chain(plain) {
            let rows = queries.iter().map(|query| query.tokens.len()).sum::<usize>();
            let (qkv, dy) = (random(1, &[9, HEADS.width()]), random(4, &[rows, 12]));
            let dqkv = attention.backward(&qkv, queries, &dy).unwrap();
            assert_gradient(&qkv, &dy, &dqkv, |qkv| attention.forward(qkv, queries));
        }
    }

    #[test]
    fn a_child_attends_as_if_it_followed_its_parent() {
        let qkv = random(1, &[5, HEADS.width()]);
        for attention in [PLAIN, Attention { window: Some(2), ..PLAIN }] {
            let attend = |segments: &[Segment]| attention.forward(&qkv, &Query::all(segments)).unwrap();
            let whole = attend(&[Segment { tokens: 0..5, parent: None }]);
            let child = Segment { tokens: 2..5, parent: Some(0..2) };
            let split = attend(&[Segment { tokens: 0..2, parent: None }, child]);
            for (a, b) in values(&whole).iter().zip(values(&split)) {
                assert!((a - b).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn some_queries_see_what_they_see_among_all() {
        let qkv = random(1, &[9, HEADS.width()]);
        let all = PLAIN.forward(&qkv, &Query::all(&segments())).unwrap();
        let tokens = [1, 4, 5, 7];
        let some = PLAIN.forward(&qkv, &Query::some(&segments(), &tokens)).unwrap();
        let want =
            all.index_select(&Tensor::new(&tokens.map(|t| t as u32), all.device()).unwrap(), 0).unwrap();
        for (a, b) in values(&some).iter().zip(values(&want)) {
            assert!((a - b).abs() < 1e-12);
        }
    }

    #[test]
    fn the_order_of_heads_does_not_matter() {
        let heads = Heads { order: Order::ByGroup, ..HEADS };
        let qkv = random(1, &[9, HEADS.width()]);
        assert_eq!(values(&heads.by_kind(&heads.by_kind(&qkv, false).unwrap(), true).unwrap()), values(&qkv));
        let by_group = Attention { heads, ..PLAIN }.forward(&qkv, &Query::all(&segments())).unwrap();
        let ordered = heads.by_kind(&qkv, false).unwrap();
        let want = PLAIN.forward(&ordered, &Query::all(&segments())).unwrap();
        assert_eq!(values(&by_group), values(&want));
        assert_eq!(heads.turning(), [0, 3, 6, 12, 15, 18]);
    }
}

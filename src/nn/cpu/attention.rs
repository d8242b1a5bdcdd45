//! Packed attention, forward and backward, without the whole matrix of scores.
//!
//! Queries are taken in blocks of [`BLOCK`] tokens. The R heads that share a key head are stacked, so that a block is a
//! matrix of R T rows, and its scores one product for the parent's keys and one for the segment's own, up to the block's
//! last token: half of a causal segment's scores are never formed (FlashAttention-2, Dao, 2023, with rows short
//! enough to stay whole). The forward shares out blocks. The backward shares out families (a prompt's segment with the segments
//! that see it), because the keys of one are written by one task only.

use super::{
    Slot,
    exp::{exp, tanh},
    gemm::{Matrix, MatrixMut},
    share::Shared,
    sum_of, vectorized, written,
};
use crate::nn::{
    attention::{Attention, Heads},
    pack::Query,
};
use rayon::prelude::*;
use std::{collections::BTreeMap, ops::Range};

/// Query tokens of one block.
const BLOCK: usize = 64;

/// Rotated queries, rotated keys and values of every token, (N, H + 2 G, D), and the queries whose attention is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Operands<'a> {
    pub qkv: &'a [f32],
    pub attention: Attention,
    pub queries: &'a [Query],
}

/// Buffers of a thread, kept from block to block.
#[derive(Default)]
struct Scratch {
    /// (R T, D), scaled.
    q: Vec<f32>,
    /// (R T, S)
    p: Vec<f32>,
    /// Slope of the cap at each score, (R T, S), where there is one.
    slope: Vec<f32>,
    /// (R T, D): the output, or its gradient.
    out: Vec<f32>,
    /// (R T, S): gradient of the probabilities, then of the scores.
    ds: Vec<f32>,
    /// (R T, D)
    dq: Vec<f32>,
    /// (tokens of the family, D)
    dk: Vec<f32>,
    dv: Vec<f32>,
    /// Sum of each row of `p` before it is divided by it.
    sums: Vec<f32>,
}

/// Queries that are worked on together, for one key head.
#[derive(Clone, Copy)]
struct Block<'a> {
    query: &'a Query,
    group: usize,
    /// First query token and how many.
    start: usize,
    len: usize,
}

impl<'a> Block<'a> {
    fn all(query: &'a Query, group: usize) -> impl Iterator<Item = Self> {
        let tokens = query.tokens.clone();
        tokens.clone().step_by(BLOCK).map(move |start| {
            let len = BLOCK.min(tokens.end - start);
            Block { query, group, start, len }
        })
    }

    /// Row of the output that belongs to token `t`.
    fn row(&self, t: usize) -> usize {
        self.query.row + t - self.query.tokens.start
    }

    /// Keys that the block sees: the parent's, then the segment's own up to the last query.
    fn keys(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let own = self.query.first_key..self.start + self.len;
        self.query.parent.clone().into_iter().chain(std::iter::once(own))
    }

    /// Each run of keys with the column of the scores where it begins.
    fn runs(&self) -> impl Iterator<Item = (usize, Range<usize>)> + use<> {
        self.keys().scan(0, |column, keys| {
            let first = *column;
            *column += keys.len();
            Some((first, keys))
        })
    }

    fn columns(&self) -> usize {
        self.keys().map(|keys| keys.len()).sum()
    }

    /// Columns of the keys that query `i` of the block sees, of which there are `window` at most.
    fn seen(&self, i: usize, window: Option<usize>) -> Range<usize> {
        let end = self.columns() - self.len + i + 1;
        end.saturating_sub(window.unwrap_or(end))..end
    }
}

/// Softmax(scale Q K^T) V over what each query sees: (Q, H, D).
pub fn attention(x: &Operands) -> Vec<f32> {
    let rows: usize = x.queries.iter().map(|query| query.tokens.len()).sum();
    // SAFETY: every row and head of the output is in exactly one block.
    unsafe { written(rows * x.heads().heads * x.heads().size, |y| x.attend(&Shared::new(y))) }
}

/// Gradient (N, H + 2 G, D) of [`attention`], with the probabilities computed again; `dy` (Q, H, D).
pub fn attention_backward(x: &Operands, dy: &[f32]) -> Vec<f32> {
    let mut dqkv = vec![0.0; x.qkv.len()];
    let out = Shared::new(&mut dqkv);
    let mut tasks: Vec<(Vec<&Query>, usize)> = families(x.queries)
        .into_iter()
        .flat_map(|family| (0..x.heads().groups).map(move |group| (family.clone(), group)))
        .collect();
    tasks.sort_by_key(|(family, _)| std::cmp::Reverse(family.iter().map(|q| cost(q)).sum::<usize>()));
    tasks.into_par_iter().with_max_len(1).for_each_init(Scratch::default, |scratch, (family, group)| {
        x.family_backward(&family, group, dy, scratch, &out);
    });
    dqkv
}

impl Operands<'_> {
    fn attend(&self, out: &Shared<Slot>) {
        let mut blocks: Vec<Block> = (0..self.heads().groups)
            .flat_map(|group| self.queries.iter().flat_map(move |query| Block::all(query, group)))
            .collect();
        blocks.sort_by_key(|block| std::cmp::Reverse(block.len * block.columns()));
        blocks.into_par_iter().with_max_len(1).for_each_init(Scratch::default, |scratch, block| {
            self.probabilities(&block, scratch);
            let (rows, columns, size) = (scratch.sums.len(), block.columns(), self.heads().size);
            grow(&mut scratch.out, rows * size);
            scratch.out[..rows * size].fill(0.0);
            for (column, keys) in block.runs() {
                let p = Matrix::new(&scratch.p[column..], (rows, keys.len()), columns);
                MatrixMut::new(&mut scratch.out, (rows, size), size).add(p, self.values(&keys, block.group));
            }
            for (row, (r, t)) in self.rows(&block).enumerate() {
                // SAFETY: no other block has this token and head.
                let y = unsafe { out.part(self.heads().output(block.row(t), block.group, r), size) };
                let inverse = 1.0 / scratch.sums[row];
                y.iter_mut().zip(&scratch.out[row * size..]).for_each(|(y, out)| {
                    y.write(out * inverse);
                });
            }
        });
    }

    fn family_backward(
        &self,
        family: &[&Query],
        group: usize,
        dy: &[f32],
        scratch: &mut Scratch,
        out: &Shared<f32>,
    ) {
        let (heads, size) = (self.heads(), self.heads().size);
        let keys = keys_of(family);
        let first = keys.first().map_or(0, |keys| keys.start);
        let end = keys.last().map_or(0, |keys| keys.end);
        for sums in [&mut scratch.dk, &mut scratch.dv] {
            grow(sums, (end - first) * size);
            sums[..(end - first) * size].fill(0.0);
        }
        for query in family {
            for block in Block::all(query, group) {
                self.block_backward(&block, dy, scratch, first);
                let scale = self.scale();
                for (row, (r, t)) in self.rows(&block).enumerate() {
                    // SAFETY: no other task has this family and key head, and within it a token and head is in one block.
                    let dq = unsafe { out.part(heads.query(t, group, r), size) };
                    dq.iter_mut().zip(&scratch.dq[row * size..]).for_each(|(dq, ds)| *dq = ds * scale);
                }
            }
        }
        for t in keys.into_iter().flatten() {
            for (at, sums) in [(heads.key(t, group), &scratch.dk), (heads.value(t, group), &scratch.dv)] {
                // SAFETY: no other task has this token's family and key head.
                let out = unsafe { out.part(at, size) };
                out.copy_from_slice(&sums[(t - first) * size..][..size]);
            }
        }
    }

    /// dP = dO V^T, dS = P (dP - rowsum(P dP)), dQ = dS K, dK += dS^T Q, dV += P^T dO; sums of dK and dV begin at token
    /// `first`.
    fn block_backward(&self, block: &Block, dy: &[f32], scratch: &mut Scratch, first: usize) {
        self.probabilities(block, scratch);
        let Scratch { q, p, slope, out, ds, dq, dk, dv, sums } = scratch;
        let (rows, columns, size) = (sums.len(), block.columns(), self.heads().size);
        self.gather(dy, block, 1.0, |r, t| self.heads().output(block.row(t), block.group, r), out);
        grow(ds, rows * columns);
        for (column, keys) in block.runs() {
            let v = self.values(&keys, block.group);
            let dout = Matrix::new(out, (rows, size), size);
            MatrixMut::new(&mut ds[column..], (rows, keys.len()), columns).set(dout, v.t());
        }
        vectorized(
            #[inline(always)]
            || {
                for (row, sum) in sums.iter().enumerate() {
                    let p = &mut p[row * columns..][..columns];
                    let ds = &mut ds[row * columns..][..columns];
                    score_gradients(p, ds, 1.0 / sum);
                    if self.attention.cap.is_some() {
                        ds.iter_mut().zip(&slope[row * columns..]).for_each(|(ds, slope)| *ds *= slope);
                    }
                }
            },
        );
        grow(dq, rows * size);
        dq[..rows * size].fill(0.0);
        for (column, keys) in block.runs() {
            let tall = (rows, keys.len());
            let (p, ds) =
                (Matrix::new(&p[column..], tall, columns), Matrix::new(&ds[column..], tall, columns));
            let k = self.keys(&keys, block.group);
            MatrixMut::new(dq, (rows, size), size).add(ds, k);
            let at = (keys.start - first) * size;
            let queries = Matrix::new(q, (rows, size), size);
            MatrixMut::new(&mut dk[at..], (keys.len(), size), size).add(ds.t(), queries);
            let dout = Matrix::new(out, (rows, size), size);
            MatrixMut::new(&mut dv[at..], (keys.len(), size), size).add(p.t(), dout);
        }
    }

    /// Fills `q`, `p` with e^(score - row's maximum), and `sums` with the sum of each row of `p`.
    fn probabilities(&self, block: &Block, scratch: &mut Scratch) {
        let Scratch { q, p, slope, sums, .. } = scratch;
        let Attention { cap, window, .. } = self.attention;
        let (rows, columns, size) = (self.heads().ratio() * block.len, block.columns(), self.heads().size);
        self.gather(self.qkv, block, self.scale(), |r, t| self.heads().query(t, block.group, r), q);
        grow(p, rows * columns);
        for (column, keys) in block.runs() {
            let k = self.keys(&keys, block.group);
            let queries = Matrix::new(q, (rows, size), size);
            MatrixMut::new(&mut p[column..], (rows, keys.len()), columns).set(queries, k.t());
        }
        if cap.is_some() {
            grow(slope, rows * columns);
        }
        sums.clear();
        vectorized(
            #[inline(always)]
            || {
                for row in 0..rows {
                    let p = &mut p[row * columns..][..columns];
                    if let Some(cap) = cap {
                        bound(p, &mut slope[row * columns..][..columns], cap as f32);
                    }
                    sums.push(exponentials(p, block.seen(row % block.len, window)));
                }
            },
        );
    }

    /// Head within the group, and token, of each row of a block's matrices.
    fn rows(&self, block: &Block) -> impl Iterator<Item = (usize, usize)> + use<> {
        let tokens = block.start..block.start + block.len;
        (0..self.heads().ratio()).flat_map(move |r| tokens.clone().map(move |t| (r, t)))
    }

    /// Rows of the block, which begin where `at` says, times `factor`: (R T, D).
    fn gather(
        &self,
        x: &[f32],
        block: &Block,
        factor: f32,
        at: impl Fn(usize, usize) -> usize,
        into: &mut Vec<f32>,
    ) {
        into.clear();
        for (r, t) in self.rows(block) {
            into.extend(x[at(r, t)..][..self.heads().size].iter().map(|x| x * factor));
        }
    }

    /// Some tokens' keys of one key head: (S, D).
    fn keys(&self, tokens: &Range<usize>, group: usize) -> Matrix<'_> {
        self.head_rows(self.heads().key(tokens.start, group), tokens.len())
    }

    /// Their values.
    fn values(&self, tokens: &Range<usize>, group: usize) -> Matrix<'_> {
        self.head_rows(self.heads().value(tokens.start, group), tokens.len())
    }

    /// One head of `tokens` tokens, the first of which begins at `at`.
    fn head_rows(&self, at: usize, tokens: usize) -> Matrix<'_> {
        Matrix::new(&self.qkv[at..], (tokens, self.heads().size), self.heads().width())
    }

    fn scale(&self) -> f32 {
        self.attention.scale as f32
    }

    fn heads(&self) -> Heads {
        self.attention.heads
    }
}

/// Queries whose keys overlap: those of a parent segment and of all that see it.
fn families(queries: &[Query]) -> Vec<Vec<&Query>> {
    let mut families = BTreeMap::<usize, Vec<&Query>>::new();
    for query in queries {
        let root = query.parent.as_ref().map_or(query.first_key, |parent| parent.start);
        families.entry(root).or_default().push(query);
    }
    families.into_values().collect()
}

/// Tokens that a family sees, as runs that do not overlap, in their order.
fn keys_of(family: &[&Query]) -> Vec<Range<usize>> {
    let mut ends = BTreeMap::<usize, usize>::new();
    for keys in family.iter().flat_map(|q| q.keys()) {
        let end = ends.entry(keys.start).or_default();
        *end = keys.end.max(*end);
    }
    ends.into_iter().map(|(start, end)| start..end).collect()
}

/// Scores of some queries.
fn cost(query: &Query) -> usize {
    let own = query.tokens.start - query.first_key + query.tokens.len() / 2;
    query.tokens.len() * (own + query.parent.as_ref().map_or(0, |parent| parent.len()))
}

/// Scores s -> cap tanh(s / cap), and its slope.
#[inline(always)]
fn bound(row: &mut [f32], slope: &mut [f32], cap: f32) {
    for (s, slope) in row.iter_mut().zip(slope) {
        let t = tanh(*s / cap);
        (*s, *slope) = (cap * t, 1.0 - t * t);
    }
}

/// Scores -> e^(score - maximum) of those that are seen, 0 of the others; returns their sum.
#[inline(always)]
fn exponentials(row: &mut [f32], seen: Range<usize>) -> f32 {
    let (rest, after) = row.split_at_mut(seen.end);
    let (before, seen) = rest.split_at_mut(seen.start);
    before.fill(0.0);
    after.fill(0.0);
    let mut highest = f32::NEG_INFINITY;
    for x in seen.iter() {
        highest = if *x > highest { *x } else { highest };
    }
    for x in seen.iter_mut() {
        *x = exp(*x - highest);
    }
    sum_of(
        seen.len(),
        #[inline(always)]
        |j| seen[j],
    )
}

/// Divides P by its sum, and turns its gradient into that of the scores.
#[inline(always)]
fn score_gradients(p: &mut [f32], ds: &mut [f32], inverse_sum: f32) {
    p.iter_mut().for_each(|p| *p *= inverse_sum);
    let (p, gradient) = (&*p, &*ds);
    let mean = sum_of(
        p.len(),
        #[inline(always)]
        |j| p[j] * gradient[j],
    );
    ds.iter_mut().zip(p).for_each(|(ds, p)| *ds = p * (*ds - mean));
}

/// Makes room for `len` numbers, whatever they are.
fn grow(buffer: &mut Vec<f32>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
}

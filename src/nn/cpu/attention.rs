//! Packed attention, forward and backward, without the whole matrix of scores.
//!
//! Queries are taken in blocks of [`BLOCK`] tokens. The R heads that share a key head are stacked, so that a block is a
//! matrix of R T rows, and its scores one product for the parent's keys and one for the segment's own, up to the block's
//! last token: half of a causal segment's scores are never formed (FlashAttention-2, Dao, 2023, with rows short
//! enough to stay whole). The forward shares out blocks. The backward shares out families (a prompt's segment with the segments
//! that see it), because the keys of one are written by one task only.

use super::{
    exp::exp,
    gemm::{Matrix, MatrixMut},
    share::Shared,
    sum_of, vectorized,
};
use crate::nn::pack::Segment;
use rayon::prelude::*;
use std::{collections::BTreeMap, ops::Range};

/// Query tokens of one block.
const BLOCK: usize = 64;

/// Sizes of the heads.
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
    fn ratio(&self) -> usize {
        self.heads / self.groups
    }

    /// Where token `t`'s query head `r` of group `g` begins in (N, H, D).
    fn query(&self, t: usize, g: usize, r: usize) -> usize {
        (t * self.heads + g * self.ratio() + r) * self.size
    }

    /// Where token `t`'s key head `g` begins in (N, G, D).
    fn key(&self, t: usize, g: usize) -> usize {
        (t * self.groups + g) * self.size
    }
}

/// Rotated queries (N, H, D), rotated keys and values (N, G, D).
#[derive(Debug, Clone, Copy)]
pub struct Operands<'a> {
    pub q: &'a [f32],
    pub k: &'a [f32],
    pub v: &'a [f32],
    pub heads: Heads,
    pub segments: &'a [Segment],
}

/// Buffers of a thread, kept from block to block.
#[derive(Default)]
struct Scratch {
    /// (R T, D), scaled.
    q: Vec<f32>,
    /// (R T, S)
    p: Vec<f32>,
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

/// The queries of one segment that are worked on together, for one key head.
#[derive(Clone, Copy)]
struct Block<'a> {
    segment: &'a Segment,
    group: usize,
    /// First query token and how many.
    start: usize,
    len: usize,
}

impl<'a> Block<'a> {
    fn all(segment: &'a Segment, group: usize) -> impl Iterator<Item = Self> {
        let tokens = segment.tokens.clone();
        tokens.clone().step_by(BLOCK).map(move |start| {
            let len = BLOCK.min(tokens.end - start);
            Block { segment, group, start, len }
        })
    }

    /// Keys that the block sees: the parent's, then the segment's own up to the last query.
    fn keys(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let own = self.segment.tokens.start..self.start + self.len;
        self.segment.parent.clone().into_iter().chain(std::iter::once(own))
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

    /// Keys that query `i` of the block sees.
    fn seen(&self, i: usize) -> usize {
        self.columns() - self.len + i + 1
    }
}

/// Softmax(Q K^T / sqrt(D)) V over what each token sees: (N, H, D).
pub fn attention(x: &Operands) -> Vec<f32> {
    let mut y = vec![0.0; x.q.len()];
    let shared = Shared::new(&mut y);
    let mut blocks: Vec<Block> = (0..x.heads.groups)
        .flat_map(|group| x.segments.iter().flat_map(move |segment| Block::all(segment, group)))
        .collect();
    blocks.sort_by_key(|block| std::cmp::Reverse(block.len * block.columns()));
    blocks.into_par_iter().with_max_len(1).for_each_init(Scratch::default, |scratch, block| {
        x.probabilities(&block, scratch);
        let (rows, columns, size) = (scratch.sums.len(), block.columns(), x.heads.size);
        grow(&mut scratch.out, rows * size);
        scratch.out[..rows * size].fill(0.0);
        for (column, keys) in block.runs() {
            let p = Matrix::new(&scratch.p[column..], (rows, keys.len()), columns);
            MatrixMut::new(&mut scratch.out, (rows, size), size).add(p, x.key_rows(x.v, &keys, block.group));
        }
        for (row, (r, t)) in x.rows(&block).enumerate() {
            // SAFETY: no other block has this token and head.
            let y = unsafe { shared.part(x.heads.query(t, block.group, r), size) };
            let inverse = 1.0 / scratch.sums[row];
            y.iter_mut().zip(&scratch.out[row * size..]).for_each(|(y, out)| *y = out * inverse);
        }
    });
    y
}

/// Gradients (dq, dk, dv) of [`attention`], with the probabilities computed again.
pub fn attention_backward(x: &Operands, dy: &[f32]) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let (mut dq, mut dk, mut dv) = (vec![0.0; x.q.len()], vec![0.0; x.k.len()], vec![0.0; x.k.len()]);
    let out = [&mut dq, &mut dk, &mut dv].map(|slice| Shared::new(slice));
    let mut tasks: Vec<(Vec<&Segment>, usize)> = families(x.segments)
        .into_iter()
        .flat_map(|family| (0..x.heads.groups).map(move |group| (family.clone(), group)))
        .collect();
    tasks.sort_by_key(|(family, _)| std::cmp::Reverse(family.iter().map(|s| cost(s)).sum::<usize>()));
    tasks.into_par_iter().with_max_len(1).for_each_init(Scratch::default, |scratch, (family, group)| {
        x.family_backward(&family, group, dy, scratch, &out);
    });
    (dq, dk, dv)
}

impl Operands<'_> {
    fn family_backward(
        &self,
        family: &[&Segment],
        group: usize,
        dy: &[f32],
        scratch: &mut Scratch,
        [dq, dk, dv]: &[Shared; 3],
    ) {
        let size = self.heads.size;
        let first = family.iter().map(|s| s.tokens.start).min().unwrap_or(0);
        let end = family.iter().map(|s| s.tokens.end).max().unwrap_or(0);
        for sums in [&mut scratch.dk, &mut scratch.dv] {
            grow(sums, (end - first) * size);
            sums[..(end - first) * size].fill(0.0);
        }
        for segment in family {
            for block in Block::all(segment, group) {
                self.block_backward(&block, dy, scratch, first);
                let scale = self.scale();
                for (row, (r, t)) in self.rows(&block).enumerate() {
                    // SAFETY: no other task has this family and key head, and within it a token and head is in one block.
                    let dq = unsafe { dq.part(self.heads.query(t, group, r), size) };
                    dq.iter_mut().zip(&scratch.dq[row * size..]).for_each(|(dq, ds)| *dq = ds * scale);
                }
            }
        }
        for t in family.iter().flat_map(|segment| segment.tokens.clone()) {
            for (out, sums) in [(dk, &scratch.dk), (dv, &scratch.dv)] {
                // SAFETY: no other task has this token's family and key head.
                let out = unsafe { out.part(self.heads.key(t, group), size) };
                out.copy_from_slice(&sums[(t - first) * size..][..size]);
            }
        }
    }

    /// dP = dO V^T, dS = P (dP - rowsum(P dP)), dQ = dS K, dK += dS^T Q, dV += P^T dO; sums of dK and dV begin at token
    /// `first`.
    fn block_backward(&self, block: &Block, dy: &[f32], scratch: &mut Scratch, first: usize) {
        self.probabilities(block, scratch);
        let Scratch { q, p, out, ds, dq, dk, dv, sums } = scratch;
        let (rows, columns, size) = (sums.len(), block.columns(), self.heads.size);
        self.gather(dy, block, 1.0, out);
        grow(ds, rows * columns);
        for (column, keys) in block.runs() {
            let v = self.key_rows(self.v, &keys, block.group);
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
                }
            },
        );
        grow(dq, rows * size);
        dq[..rows * size].fill(0.0);
        for (column, keys) in block.runs() {
            let tall = (rows, keys.len());
            let (p, ds) =
                (Matrix::new(&p[column..], tall, columns), Matrix::new(&ds[column..], tall, columns));
            let k = self.key_rows(self.k, &keys, block.group);
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
        let Scratch { q, p, sums, .. } = scratch;
        let (rows, columns, size) = (self.heads.ratio() * block.len, block.columns(), self.heads.size);
        self.gather(self.q, block, self.scale(), q);
        grow(p, rows * columns);
        for (column, keys) in block.runs() {
            let k = self.key_rows(self.k, &keys, block.group);
            let queries = Matrix::new(q, (rows, size), size);
            MatrixMut::new(&mut p[column..], (rows, keys.len()), columns).set(queries, k.t());
        }
        sums.clear();
        vectorized(
            #[inline(always)]
            || {
                for row in 0..rows {
                    let p = &mut p[row * columns..][..columns];
                    sums.push(exponentials(p, block.seen(row % block.len)));
                }
            },
        );
    }

    /// Head within the group, and token, of each row of a block's matrices.
    fn rows(&self, block: &Block) -> impl Iterator<Item = (usize, usize)> + use<> {
        let tokens = block.start..block.start + block.len;
        (0..self.heads.ratio()).flat_map(move |r| tokens.clone().map(move |t| (r, t)))
    }

    /// Rows of (N, H, D) that belong to the block, times `factor`: (R T, D).
    fn gather(&self, x: &[f32], block: &Block, factor: f32, into: &mut Vec<f32>) {
        into.clear();
        for (r, t) in self.rows(block) {
            let row = &x[self.heads.query(t, block.group, r)..][..self.heads.size];
            into.extend(row.iter().map(|x| x * factor));
        }
    }

    /// Rows of (N, G, D) of some tokens and one key head: (S, D).
    fn key_rows<'x>(&self, x: &'x [f32], keys: &Range<usize>, group: usize) -> Matrix<'x> {
        let Heads { groups, size, .. } = self.heads;
        Matrix::new(&x[self.heads.key(keys.start, group)..], (keys.len(), size), groups * size)
    }

    fn scale(&self) -> f32 {
        1.0 / (self.heads.size as f32).sqrt()
    }
}

/// Segments that see the same parent, with it.
fn families(segments: &[Segment]) -> Vec<Vec<&Segment>> {
    let mut families = BTreeMap::<usize, Vec<&Segment>>::new();
    for segment in segments {
        let root = segment.parent.as_ref().unwrap_or(&segment.tokens).start;
        families.entry(root).or_default().push(segment);
    }
    families.into_values().collect()
}

/// Scores of a segment.
fn cost(segment: &Segment) -> usize {
    let tokens = segment.tokens.len();
    tokens * (tokens / 2 + segment.parent.as_ref().map_or(0, |parent| parent.len()))
}

/// Scores -> e^(score - maximum) of the first `seen`, 0 of the others; returns their sum.
#[inline(always)]
fn exponentials(row: &mut [f32], seen: usize) -> f32 {
    let (seen, hidden) = row.split_at_mut(seen);
    hidden.fill(0.0);
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

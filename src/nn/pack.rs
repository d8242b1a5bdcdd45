//! Packed sequences: the tokens of a batch side by side, without padding.
//!
//! A *segment* is a run of tokens that attend to each other causally, and to the whole of their parent segment where they
//! have one: two answers to one prompt are two children of the prompt's segment, which is then computed once. A *group* is
//! a run of segments whose parameter gradients belong together: one sequence, or one pair.

use crate::text::TokenSeq;
use std::ops::Range;

pub mod fold;
pub mod unfold;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    pub tokens: Range<usize>,
    /// Tokens of the parent, which end before this segment begins.
    pub parent: Option<Range<usize>>,
}

/// Tokens of one segment whose attention is computed, and what they see: the parent, and the segment's own tokens from
/// `first_key` up to themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    pub tokens: Range<usize>,
    /// Row of the output that belongs to the first of them.
    pub row: usize,
    pub first_key: usize,
    pub parent: Option<Range<usize>>,
}

impl Query {
    /// Every token of the segments.
    pub fn all(segments: &[Segment]) -> Vec<Self> {
        let of = |segment: &Segment| {
            let Segment { tokens, parent } = segment.clone();
            Self { row: tokens.start, first_key: tokens.start, tokens, parent }
        };
        segments.iter().map(of).collect()
    }

    /// Some tokens, in their order.
    pub fn some(segments: &[Segment], tokens: &[usize]) -> Vec<Self> {
        let of = |(row, token): (usize, &usize)| {
            // Segments are in the order of their tokens.
            let segment = &segments[segments.partition_point(|segment| segment.tokens.end <= *token)];
            let first_key = segment.tokens.start;
            Self { tokens: *token..token + 1, row, first_key, parent: segment.parent.clone() }
        };
        tokens.iter().enumerate().map(of).collect()
    }

    /// The keys that the last of the tokens sees: its parent's, then its own segment's.
    pub fn keys(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        self.parent.clone().into_iter().chain(std::iter::once(self.first_key..self.tokens.end))
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Packed {
    pub ids: Vec<u32>,
    /// Position of each token in its own sequence.
    pub positions: Vec<u32>,
    pub segments: Vec<Segment>,
    /// For each reward the index of the token that it reads.
    pub pooled: Vec<usize>,
    /// For each group its tokens.
    pub groups: Vec<Range<usize>>,
}

impl Packed {
    /// Packs independent sequences: a group and a reward for each.
    pub fn sequences<'a>(sequences: impl IntoIterator<Item = &'a TokenSeq>) -> Self {
        let mut packed = Self::default();
        for sequence in sequences {
            let tokens = packed.segment(live(sequence), None);
            packed.pooled.push(tokens.end - 1);
            packed.groups.push(tokens);
        }
        packed
    }

    /// Packs candidates of one prompt: a reward for each, their common prefix once.
    ///
    /// Where there is one, the candidates are a single group, since its tokens belong to all of them; [`Packed::unfold`]
    /// takes them apart. Without one, each is a group.
    pub fn candidates(candidates: &[&TokenSeq]) -> Self {
        if shared_prefix(candidates) == 0 {
            return Self::sequences(candidates.iter().copied());
        }
        let mut packed = Self::default();
        packed.family(candidates);
        packed.groups.push(0..packed.ids.len());
        packed
    }

    /// Packs pairs: a group for each, two rewards for each (chosen, rejected), their common prefix once.
    pub fn pairs<'a>(pairs: impl IntoIterator<Item = (&'a TokenSeq, &'a TokenSeq)>) -> Self {
        let mut packed = Self::default();
        for (chosen, rejected) in pairs {
            let start = packed.ids.len();
            packed.family(&[chosen, rejected]);
            packed.groups.push(start..packed.ids.len());
        }
        packed
    }

    /// For each group its rows among the pooled tokens.
    pub fn pooled_groups(&self) -> Vec<Range<usize>> {
        let each = self.pooled.len() / self.groups.len().max(1);
        (0..self.groups.len()).map(|group| group * each..(group + 1) * each).collect()
    }

    /// Tokens that the forward computes.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Adds sequences and their rewards, the common prefix as their parent.
    fn family(&mut self, sequences: &[&TokenSeq]) {
        let shared = shared_prefix(sequences);
        let first = sequences.first().filter(|_| shared > 0);
        let prefix = first.map(|first| self.segment(&first.ids[..shared], None));
        for sequence in sequences {
            let tokens = self.segment(&live(sequence)[shared..], prefix.clone());
            self.pooled.push(tokens.end - 1);
        }
    }

    fn segment(&mut self, ids: &[u32], parent: Option<Range<usize>>) -> Range<usize> {
        let tokens = self.ids.len()..self.ids.len() + ids.len();
        let first = parent.as_ref().map_or(0, |p| p.len());
        self.ids.extend_from_slice(ids);
        self.positions.extend((first..first + ids.len()).map(|p| p as u32));
        self.segments.push(Segment { tokens: tokens.clone(), parent });
        tokens
    }
}

/// Tokens of a pair once its common prefix is counted once.
pub fn pair_tokens(chosen: &TokenSeq, rejected: &TokenSeq) -> usize {
    live(chosen).len() + live(rejected).len() - shared_prefix(&[chosen, rejected])
}

/// Tokens that each sequence adds to the one before it, with which it shares its beginning.
pub fn own_tokens(sequences: &[&TokenSeq]) -> Vec<usize> {
    let of = |i: usize| match i {
        0 => live(sequences[0]).len(),
        _ => live(sequences[i]).len() - shared_prefix(&sequences[i - 1..=i]),
    };
    (0..sequences.len()).map(of).collect()
}

/// What the reward can depend on: nothing after the pooled token.
fn live(sequence: &TokenSeq) -> &[u32] {
    &sequence.ids[..=sequence.pooled]
}

/// Tokens that several sequences share at their start, leaving each at least its pooled token; none of a single one.
fn shared_prefix(sequences: &[&TokenSeq]) -> usize {
    let [first, others @ ..] = sequences else { return 0 };
    let with_first = |other: &&TokenSeq| {
        let equal = first.ids.iter().zip(&other.ids).take_while(|(x, y)| x == y).count();
        equal.min(first.pooled).min(other.pooled)
    };
    others.iter().map(with_first).min().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(ids: &[u32]) -> TokenSeq {
        TokenSeq { ids: ids.to_vec(), pooled: ids.len() - 1, truncated: false }
    }

    #[test]
    fn shares_the_prefix_of_a_pair_and_restarts_positions() {
        let packed = Packed::pairs([(&sequence(&[1, 2, 3, 4]), &sequence(&[1, 2, 9]))]);
        assert_eq!(packed.ids, [1, 2, 3, 4, 9]);
        assert_eq!(packed.positions, [0, 1, 2, 3, 2]);
        assert_eq!(packed.pooled, [3, 4]);
        assert_eq!(packed.groups, vec![0..5]);
        assert_eq!(packed.segments[2], Segment { tokens: 4..5, parent: Some(0..2) });
    }

    #[test]
    fn equal_sequences_keep_a_pooled_token_each() {
        let s = sequence(&[5, 6]);
        let packed = Packed::pairs([(&s, &s)]);
        assert_eq!(packed.ids, [5, 6, 6]);
        assert_eq!(packed.tokens(), pair_tokens(&s, &s));
    }

    #[test]
    fn drops_the_padding_after_the_pooled_token() {
        let padded = TokenSeq { ids: vec![4, 5, 0, 0], pooled: 1, truncated: false };
        assert_eq!(Packed::sequences([&padded]).ids, [4, 5]);
    }

    #[test]
    fn candidates_share_their_prompt() {
        let [a, b, c] = [&[1, 2, 3, 4][..], &[1, 2, 9], &[1, 2, 3, 5]].map(sequence);
        let packed = Packed::candidates(&[&a, &b, &c]);
        assert_eq!(packed.ids, [1, 2, 3, 4, 9, 3, 5]);
        assert_eq!(packed.positions, [0, 1, 2, 3, 2, 2, 3]);
        assert_eq!(packed.pooled, [3, 4, 6]);
        assert_eq!(packed.groups, vec![0..7]);
        let [prompt, answers @ ..] = &packed.segments[..] else { panic!("no segments") };
        assert_eq!(*prompt, Segment { tokens: 0..2, parent: None });
        assert!(answers.iter().all(|answer| answer.parent == Some(0..2)));
    }

    #[test]
    fn candidates_that_share_nothing_are_sequences() {
        let (a, b) = (sequence(&[1, 2]), sequence(&[3]));
        assert_eq!(Packed::candidates(&[&a, &b]), Packed::sequences([&a, &b]));
        assert_eq!(Packed::candidates(&[&a]), Packed::sequences([&a]));
        assert_eq!(Packed::candidates(&[]), Packed::default());
    }
}

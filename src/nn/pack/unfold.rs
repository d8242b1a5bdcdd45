//! Sequences of a folded batch, each whole again.
//!
//! The forward computes a shared prompt once; in the backward every candidate has its own gradients at the prompt's
//! tokens. A token's activations depend on what comes before it in its own sequence only, so those of an unfolded batch
//! are rows of the folded one's, and need no computing.

use super::{Packed, Segment};

/// Some of a batch's sequences, no token shared, each a group with one reward.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unfolded {
    pub packed: Packed,
    /// For each token its row in the batch that it was taken from.
    pub rows: Vec<u32>,
}

impl Packed {
    /// Takes out the sequences of some rewards, given by index, in the order given.
    ///
    /// The sequence of a reward is its pooled token's segment up to that token, after the segment's parent.
    pub fn unfold(&self, rewards: &[usize]) -> Unfolded {
        let mut unfolded = Unfolded::default();
        for reward in rewards {
            let pooled = self.pooled[*reward];
            unfolded.push(self, self.segment_of(pooled), pooled);
        }
        unfolded
    }

    /// The segment of a token; segments are in the order of their tokens.
    fn segment_of(&self, token: usize) -> &Segment {
        &self.segments[self.segments.partition_point(|segment| segment.tokens.end <= token)]
    }
}

impl Unfolded {
    /// Adds the sequence that ends in the token `pooled` of `segment`.
    fn push(&mut self, from: &Packed, segment: &Segment, pooled: usize) {
        let Self { packed, rows } = self;
        let start = packed.ids.len();
        for token in segment.parent.clone().unwrap_or_default().chain(segment.tokens.start..pooled + 1) {
            packed.ids.push(from.ids[token]);
            packed.positions.push(from.positions[token]);
            rows.push(token as u32);
        }
        let tokens = start..packed.ids.len();
        packed.pooled.push(tokens.end - 1);
        packed.groups.push(tokens.clone());
        packed.segments.push(Segment { tokens, parent: None });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::text::TokenSeq;

    /// Sequences over few token ids, so that prefixes are shared, some with padding after the pooled token.
    fn sequences() -> impl Strategy<Value = Vec<TokenSeq>> {
        let ids = |longest| prop::collection::vec(0..3u32, 0..longest);
        let sequence = (ids(7), 0..3u32, 0..3usize);
        (ids(4), prop::collection::vec(sequence, 1..6)).prop_map(|(prompt, sequences)| {
            let sequence = |(answer, last, padding): (Vec<u32>, u32, usize)| {
                let pooled = prompt.len() + answer.len();
                let ids = [&prompt[..], &answer, &[last], &vec![0; padding]].concat();
                TokenSeq { ids, pooled, truncated: false }
            };
            sequences.into_iter().map(sequence).collect()
        })
    }

    /// Sequences, and the indices of some of them.
    fn chosen() -> impl Strategy<Value = (Vec<TokenSeq>, Vec<usize>)> {
        sequences().prop_flat_map(|sequences| {
            let count = sequences.len();
            (Just(sequences), prop::collection::vec(0..count, 0..2 * count))
        })
    }

    fn folded(sequences: &[TokenSeq]) -> Packed {
        Packed::candidates(&sequences.iter().collect::<Vec<_>>())
    }

    proptest! {
        #[test]
        fn what_is_taken_out_is_what_was_folded((sequences, chosen) in chosen()) {
            let folded = folded(&sequences);
            let Unfolded { packed, rows } = folded.unfold(&chosen);
            prop_assert_eq!(&packed, &Packed::sequences(chosen.iter().map(|i| &sequences[*i])));
            let taken: Vec<u32> = rows.iter().map(|row| folded.ids[*row as usize]).collect();
            prop_assert_eq!(taken, packed.ids);
            let ends: Vec<usize> = packed.pooled.iter().map(|i| rows[*i] as usize).collect();
            prop_assert_eq!(ends, chosen.iter().map(|i| folded.pooled[*i]).collect::<Vec<_>>());
        }

        #[test]
        fn taking_out_twice_is_taking_out_once((sequences, chosen) in chosen()) {
            let folded = folded(&sequences);
            let first = folded.unfold(&chosen);
            let positions: Vec<usize> = (0..chosen.len()).step_by(2).collect();
            let second = first.packed.unfold(&positions);
            let once = folded.unfold(&positions.iter().map(|i| chosen[*i]).collect::<Vec<_>>());
            prop_assert_eq!(second.packed, once.packed);
            let rows: Vec<u32> = second.rows.iter().map(|row| first.rows[*row as usize]).collect();
            prop_assert_eq!(rows, once.rows);
        }

        #[test]
        fn both_sides_of_pairs_come_out_whole(pairs in prop::collection::vec(sequences(), 1..4)) {
            let pairs: Vec<_> = pairs.iter().map(|p| (&p[0], &p[p.len() - 1])).collect();
            let folded = Packed::pairs(pairs.iter().copied());
            let all: Vec<usize> = (0..folded.pooled.len()).collect();
            let sides = pairs.iter().flat_map(|(chosen, rejected)| [*chosen, *rejected]);
            prop_assert_eq!(folded.unfold(&all).packed, Packed::sequences(sides));
        }
    }
}

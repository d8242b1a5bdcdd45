//! A batch in which sequences that begin alike share their beginning.
//!
//! Every conversation of a chat template begins with the same tokens, and the candidates of a prompt share all of it. In
//! the forward each such beginning is computed once; sequences in the order of their tokens have the longest ones as
//! neighbours.

use super::{Packed, live, shared_prefix};
use crate::text::TokenSeq;

/// Tokens that a shared beginning has at least: a shorter one saves less than its segment costs.
const SHORTEST: usize = 8;

impl Packed {
    /// Packs sequences for a forward, neighbours with a common prefix as a family. To be walked back it is unfolded
    /// ([`Packed::unfold`]): it has no groups.
    pub fn folded(sequences: &[&TokenSeq]) -> Self {
        let mut packed = Self::default();
        let mut rest = sequences;
        for size in families(sequences) {
            let (family, later) = rest.split_at(size);
            packed.family(family);
            rest = later;
        }
        packed
    }
}

/// Indices of the sequences in the order of their tokens.
pub fn by_prefix(sequences: &[&TokenSeq]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..sequences.len()).collect();
    order.sort_by_key(|i| live(sequences[*i]));
    order
}

/// Sizes of the families, in their order.
///
/// The next sequence joins the family before it unless that would save less: a family of n with a prefix of p tokens
/// saves (n - 1) p. Where it shares more than twice p with the last one alone, the two begin a family of their own.
fn families(sequences: &[&TokenSeq]) -> Vec<usize> {
    let mut sizes: Vec<usize> = Vec::new();
    let mut prefix = usize::MAX;
    for (i, sequence) in sequences.iter().enumerate() {
        let Some(size) = sizes.last_mut() else {
            sizes.push(1);
            continue;
        };
        let with_last = shared_prefix(&[sequences[i - 1], sequence]);
        let with_all = with_last.min(prefix);
        if *size > 1 && with_last > 2 * prefix {
            *size -= 1;
            sizes.push(2);
            prefix = with_last;
        } else if with_all >= SHORTEST && (*size == 1 || *size * with_all >= (*size - 1) * prefix) {
            *size += 1;
            prefix = with_all;
        } else {
            sizes.push(1);
            prefix = usize::MAX;
        }
    }
    sizes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sequence(ids: Vec<u32>) -> TokenSeq {
        TokenSeq { pooled: ids.len() - 1, ids, truncated: false }
    }

    /// A template's head, then a prompt, then an answer of one token.
    fn chat(prompt: u32, length: usize, answer: u32) -> TokenSeq {
        sequence([vec![0; 10], vec![prompt; length], vec![answer]].concat())
    }

    fn sizes(sequences: &[TokenSeq]) -> Vec<usize> {
        families(&sequences.iter().collect::<Vec<_>>())
    }

    #[test]
    fn candidates_of_a_prompt_stay_together_among_others() {
        let singles = (1..5).map(|prompt| chat(prompt, 30, 9));
        let pool = (0..16).map(|answer| chat(7, 300, 100 + answer));
        let all: Vec<TokenSeq> = singles.chain(pool).chain([chat(8, 30, 9)]).collect();
        assert_eq!(sizes(&all), [4, 16, 1]);
        assert_eq!(sizes(&all[..6]), [4, 2]);
    }

    #[test]
    fn short_beginnings_are_not_shared() {
        let all = [sequence(vec![1, 2, 3]), sequence(vec![1, 2, 4]), sequence(vec![5])];
        assert_eq!(sizes(&all), [1, 1, 1]);
        assert_eq!(Packed::folded(&[]), Packed::default());
    }

    proptest! {
        #[test]
        fn unfolded_it_is_the_batch(
            answers in prop::collection::vec((0..3u32, 1..20usize, 0..5u32), 1..20),
        ) {
            let sequences: Vec<TokenSeq> = answers.into_iter().map(|(p, n, a)| chat(p, n, a)).collect();
            let batch: Vec<&TokenSeq> = sequences.iter().collect();
            let order = by_prefix(&batch);
            let sorted: Vec<&TokenSeq> = order.iter().map(|i| batch[*i]).collect();
            prop_assert!(sorted.is_sorted_by_key(|s| &s.ids));
            let folded = Packed::folded(&sorted);
            prop_assert_eq!(folded.pooled.len(), sorted.len());
            prop_assert!(folded.tokens() <= sorted.iter().map(|s| s.ids.len()).sum());
            let all: Vec<usize> = (0..sorted.len()).collect();
            prop_assert_eq!(folded.unfold(&all).packed, Packed::sequences(sorted));
        }
    }
}

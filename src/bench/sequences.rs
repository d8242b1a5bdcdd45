//! Sequences of random tokens.

use crate::text::TokenSeq;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Makes token ids from a seed, each of the vocabulary as likely.
#[derive(Debug)]
pub struct Sequences {
    rng: ChaCha8Rng,
    vocabulary: u32,
}

impl Sequences {
    /// Of a vocabulary of so many tokens.
    pub fn new(vocabulary: usize, seed: u64) -> Self {
        let vocabulary = u32::try_from(vocabulary).unwrap_or(u32::MAX).max(1);
        Self { rng: ChaCha8Rng::seed_from_u64(seed), vocabulary }
    }

    /// `count` sequences of `length` tokens, read at their last.
    pub fn independent(&mut self, count: usize, length: usize) -> Vec<TokenSeq> {
        (0..count).map(|_| sequence(self.ids(length))).collect()
    }

    /// `count` sequences that begin with the same `prompt` tokens and go on with `answer` of their own.
    pub fn family(&mut self, count: usize, (prompt, answer): (usize, usize)) -> Vec<TokenSeq> {
        let prompt = self.ids(prompt);
        let mut whole = |first: u32| {
            // First tokens that differ, so that no more than the prompt is shared.
            let mut ids = prompt.clone();
            ids.push(first % self.vocabulary);
            ids.extend(self.ids(answer.saturating_sub(1)));
            sequence(ids)
        };
        (0..count as u32).map(&mut whole).collect()
    }

    fn ids(&mut self, count: usize) -> Vec<u32> {
        (0..count).map(|_| self.rng.random_range(0..self.vocabulary)).collect()
    }
}

fn sequence(ids: Vec<u32>) -> TokenSeq {
    TokenSeq { pooled: ids.len().saturating_sub(1), ids, truncated: false }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::pack::Packed;

    #[test]
    fn a_seed_gives_the_same_tokens_and_a_family_shares_its_prompt() {
        let make = || Sequences::new(50, 7).independent(2, 9);
        assert_eq!(make(), make());
        let family = Sequences::new(50, 7).family(4, (10, 3));
        let members: Vec<&TokenSeq> = family.iter().collect();
        assert_eq!(Packed::candidates(&members).tokens(), 10 + 4 * 3);
    }
}

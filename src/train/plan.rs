//! Which pairs each step sees: shuffled by epoch, from a seed, bounded by epochs and by tokens.

use super::Example;
use rand::{SeedableRng, seq::SliceRandom};

/// Indices of the pairs of each step, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan(pub Vec<Vec<usize>>);

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Passes over the data; the last may be a part of one.
    pub epochs: f64,
    pub batch_size: usize,
    /// No step begins once this many tokens are planned.
    pub max_tokens: usize,
    pub seed: u64,
}

impl Plan {
    pub fn new(examples: &[Example], limits: &Limits) -> Self {
        let wanted = (limits.epochs * examples.len() as f64).round() as usize;
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(limits.seed);
        let mut order: Vec<usize> = Vec::with_capacity(wanted + examples.len());
        while order.len() < wanted && !examples.is_empty() {
            let mut epoch: Vec<usize> = (0..examples.len()).collect();
            epoch.shuffle(&mut rng);
            order.extend(epoch);
        }
        order.truncate(wanted);
        let (mut steps, mut tokens) = (Vec::new(), 0);
        for batch in order.chunks(limits.batch_size.max(1)) {
            if tokens >= limits.max_tokens {
                break;
            }
            tokens += batch.iter().map(|i| examples[*i].tokens()).sum::<usize>();
            steps.push(batch.to_vec());
        }
        Self(steps)
    }

    /// Tokens of all steps from `first` on.
    pub fn tokens(&self, examples: &[Example], first: usize) -> usize {
        self.0.iter().skip(first).flatten().map(|i| examples[*i].tokens()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::TokenSeq;

    fn examples(count: u32) -> Vec<Example> {
        let sequence = |id| TokenSeq { ids: vec![id, 0], pooled: 1, truncated: false };
        let example = |i| Example { chosen: sequence(i), rejected: sequence(i), margin: 0.0, weight: 1.0 };
        (0..count).map(example).collect()
    }

    #[test]
    fn an_epoch_sees_every_pair_once() {
        let limits = Limits { epochs: 1.5, batch_size: 4, max_tokens: usize::MAX, seed: 1 };
        let plan = Plan::new(&examples(10), &limits);
        let all: Vec<usize> = plan.0.iter().flatten().copied().collect();
        assert_eq!(all.len(), 15);
        let mut first = all[..10].to_vec();
        first.sort_unstable();
        assert_eq!(first, (0..10).collect::<Vec<_>>());
        assert_eq!(plan, Plan::new(&examples(10), &limits));
        assert_ne!(plan, Plan::new(&examples(10), &Limits { seed: 2, ..limits }));
    }

    #[test]
    fn tokens_bound_the_plan() {
        let examples = examples(10);
        let limits = Limits { epochs: 9.0, batch_size: 2, max_tokens: 7, seed: 1 };
        let plan = Plan::new(&examples, &limits);
        assert_eq!((plan.0.len(), plan.tokens(&examples, 1)), (2, 6));
    }
}

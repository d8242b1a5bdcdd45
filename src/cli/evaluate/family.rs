//! Families of answers, embedded together: each answer is compared with the first, and no vector outlives its batch.

use crate::{
    Result,
    cli::progress::{Progress, Unit},
    evaluate::ood::Variances,
    score::{Embed, Embedding, Estimate, Want, runs_within},
    text::TokenSeq,
};

/// Most tokens of a batch, unless one family has more.
const BATCH_TOKENS: usize = 2048;

/// What the posterior says of one answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Seen {
    pub mean: f64,
    /// The difference is that to the first of the family, which itself has none.
    pub variances: Variances,
}

impl Seen {
    /// Refuses numbers that are not finite.
    fn of(embedding: &Embedding, first: Option<&Embedding>) -> Result<Self> {
        let (mean, single) = (embedding.mean, embedding.covariance(embedding));
        Estimate { mean, variance: Some(single) }.finite(Want::MeanAndVariance)?;
        let difference = first.map(|first| embedding.difference_variance(first));
        Ok(Self { mean, variances: Variances { single, head: embedding.head_variance, difference } })
    }
}

/// Embeds every family, with progress; answers come in their order.
pub fn embed<F: AsRef<[TokenSeq]>>(model: &dyn Embed, families: &[F]) -> Result<Vec<Vec<Seen>>> {
    let lengths: Vec<usize> = families.iter().map(|family| tokens(family.as_ref())).collect();
    let mut bar = Progress::new(Unit::Tokens, 0, lengths.iter().sum());
    let mut seen = Vec::with_capacity(families.len());
    for run in runs_within(&lengths, BATCH_TOKENS) {
        seen.extend(together(model, &families[run.clone()])?);
        bar.add(lengths[run].iter().sum());
    }
    bar.finish();
    Ok(seen)
}

fn tokens(family: &[TokenSeq]) -> usize {
    family.iter().map(|sequence| sequence.ids.len()).sum()
}

fn together<F: AsRef<[TokenSeq]>>(model: &dyn Embed, families: &[F]) -> Result<Vec<Vec<Seen>>> {
    let batch: Vec<&TokenSeq> = families.iter().flat_map(AsRef::as_ref).collect();
    let mut rest = model.embed(&batch)?.into_iter();
    let mut seen = |family: &F| {
        let embeddings: Vec<Embedding> = rest.by_ref().take(family.as_ref().len()).collect();
        let first = |at: usize| (at > 0).then(|| &embeddings[0]);
        embeddings.iter().enumerate().map(|(at, embedding)| Seen::of(embedding, first(at))).collect()
    };
    families.iter().map(&mut seen).collect()
}

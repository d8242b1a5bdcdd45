//! Families of answers, embedded together: each answer is compared with the first, and no vector outlives its batch.

use crate::{
    Result,
    cli::progress::{Progress, Unit},
    evaluate::ood::Uncertainties,
    score::{Embed, Embedding, Estimate, Want, relative_estimates, runs_within},
    text::TokenSeq,
};

/// Most tokens of a batch, unless one family has more.
const BATCH_TOKENS: usize = 2048;

/// What the posterior says of one answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Seen {
    /// Of the reward itself.
    pub estimate: Estimate,
    /// The difference is that to the first of the family, which itself has none.
    pub uncertainties: Uncertainties,
}

impl Seen {
    /// What is known of the answers of a family; refuses numbers that are not finite.
    fn of(family: &[Embedding]) -> Result<Vec<Self>> {
        let relative = relative_estimates(family);
        let seen = |(at, (embedding, relative)): (usize, (&Embedding, Estimate))| {
            let estimate = embedding.estimate().finite(Want::Mean)?;
            let (first, relative) =
                (family.first().filter(|_| at > 0), Some(relative).filter(|_| family.len() > 1));
            let uncertainties = Uncertainties {
                single: estimate.variance.unwrap_or_default(),
                head: embedding.head_variance,
                prior: embedding.prior_variance(),
                difference: first.map(|first| embedding.difference_variance(first)),
                relative: relative.and_then(|relative| relative.variance),
                contraction: estimate.contraction,
                contraction_difference: first.and_then(|first| embedding.difference_contraction(first)),
                contraction_relative: relative.and_then(|relative| relative.contraction),
            };
            Ok(Self { estimate, uncertainties })
        };
        family.iter().zip(relative).enumerate().map(seen).collect()
    }

    /// Mean, with variance and contraction of the difference to the mean of the family.
    pub fn relative(&self) -> Estimate {
        let Uncertainties { relative, contraction_relative, .. } = self.uncertainties;
        Estimate { mean: self.estimate.mean, variance: relative, contraction: contraction_relative }
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
        Seen::of(&embeddings)
    };
    families.iter().map(&mut seen).collect()
}

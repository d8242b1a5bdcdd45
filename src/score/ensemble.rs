//! Several adapters on one base as one model (maths.md, section 4).
//!
//! ```text
//! f = mean of f_e          v = mean of v_e + 1/E sum_e (f_e - f)^2
//! ```
//!
//! What the members do not know, and what they do not agree on; without posteriors, the second alone. Covariances likewise: with
//! the vectors y_e of the members' embeddings side by side, and the deviations f_e - f after them, all over sqrt E, inner products
//! of two are the mean covariance within members and the covariance of the means between them. A constant by which one
//! member's rewards lie above another's is not identified by pairs, and would count as disagreement: the training's centring
//! keeps it near zero.

use std::sync::Arc;

use super::{Embed, Embedding, Estimate, Moments, Score, Scorer, Want, contraction};
use crate::{Error, Result, text::TokenSeq};

/// Members that score together; each may be served alone as well, from the same memory.
#[derive(Debug, Clone)]
pub struct Ensemble {
    members: Vec<Arc<Scorer>>,
    has_posterior: bool,
}

impl Ensemble {
    /// Of at least two members, all with a posterior or none.
    pub fn new(members: Vec<Arc<Scorer>>) -> Result<Self> {
        let with = members.iter().filter(|member| member.posterior.is_some()).count();
        match (members.len(), with) {
            (0 | 1, _) => Err(Error::Usage("an ensemble has at least two members".into())),
            (all, with) if with != 0 && with != all => Err(Error::Usage(format!(
                "{with} of {all} members of an ensemble have a posterior (hint: run `fit` for the others)"
            ))),
            (_, with) => Ok(Self { members, has_posterior: with > 0 }),
        }
    }
}

impl Score for Ensemble {
    fn score(&mut self, batch: &[&TokenSeq], want: Want) -> Result<Vec<Estimate>> {
        let of_member = if self.has_posterior { want } else { Want::Mean };
        let members: Vec<Vec<Moments>> =
            self.members.iter().map(|member| member.moments(batch, of_member)).collect::<Result<_>>()?;
        let of_item = |i: usize| members.iter().map(|of| of[i]).collect::<Vec<_>>();
        Ok((0..batch.len()).map(|i| together(&of_item(i), want)).collect())
    }

    fn warm_up(&mut self, sequence: &TokenSeq) -> Result<()> {
        let estimates = self.score(&[sequence], Want::MeanAndVariance)?;
        estimates.into_iter().try_for_each(|estimate| estimate.finite(Want::MeanAndVariance).map(drop))
    }
}

impl Embed for Ensemble {
    fn embed(&self, batch: &[&TokenSeq]) -> Result<Vec<Embedding>> {
        let members: Vec<Vec<Embedding>> =
            self.members.iter().map(|member| member.embed(batch)).collect::<Result<_>>()?;
        Ok((0..batch.len()).map(|i| beside(&members.iter().map(|of| &of[i]).collect::<Vec<_>>())).collect())
    }

    fn has_variances(&self) -> bool {
        true
    }
}

/// One embedding from those of all members.
fn beside(members: &[&Embedding]) -> Embedding {
    let count = members.len() as f64;
    let average = |of: fn(&Embedding) -> f64| members.iter().map(|member| of(member)).sum::<f64>() / count;
    let mean = average(|member| member.mean);
    let shared = |of: fn(&Embedding) -> &[f32]| {
        let all = members.iter().flat_map(|member| of(member));
        all.map(|y| (f64::from(*y) / count.sqrt()) as f32).collect()
    };
    let deviations = members.iter().map(|member| ((member.mean - mean) / count.sqrt()) as f32).collect();
    Embedding {
        mean,
        head_variance: average(|member| member.head_variance),
        vector: shared(|member| &member.vector),
        prior: shared(|member| &member.prior),
        deviations,
    }
}

/// One estimate from what all members say. The contraction is that within the members: how far they differ has no prior.
fn together(members: &[Moments], want: Want) -> Estimate {
    let average = |of: &dyn Fn(&Moments) -> f64| members.iter().map(of).sum::<f64>() / members.len() as f64;
    let mean = average(&|member| member.mean);
    if want == Want::Mean {
        return Estimate::of_mean(mean);
    }
    let within = average(&|member| member.variances.map_or(0.0, |v| v.posterior));
    let prior = average(&|member| member.variances.map_or(0.0, |v| v.prior));
    let between = average(&|member| (member.mean - mean).powi(2));
    Estimate { mean, variance: Some(within + between), contraction: contraction(within, prior) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::score::Variances;

    #[test]
    fn covariances_are_those_of_the_mixture() {
        let member = |mean, vector: &[f32]| Embedding {
            head_variance: mean,
            vector: vector.to_vec(),
            prior: vector.iter().map(|y| 2.0 * y).collect(),
            ..Embedding::of_mean(mean)
        };
        let a = beside(&[&member(1.0, &[1.0, 0.0]), &member(3.0, &[0.5])]);
        let b = beside(&[&member(0.0, &[0.0, 2.0]), &member(0.5, &[1.0])]);
        assert_eq!((a.mean, a.head_variance), (2.0, 2.0));
        // Within (1 + .25) / 2, between 1; across .5 / 2, and deviations -1, 1 times -.25, .25.
        for (got, want) in [(a.covariance(&a), 1.625), (a.covariance(&b), 0.25 + 0.25)] {
            assert!((got - want).abs() < 1e-6, "{got}");
        }
        assert!((a.difference_variance(&b) - (1.0 + 4.0 + 0.25 + 2.0 * 0.75 * 0.75) / 2.0).abs() < 1e-6);
        // Within the members every vector is half of its prior's.
        for contraction in [a.estimate().contraction, a.difference_contraction(&b)] {
            assert!((contraction.unwrap() - 0.75).abs() < 1e-6, "{contraction:?}");
        }
        assert_eq!(a.difference_contraction(&a), None);
    }

    #[test]
    fn the_variance_is_what_is_unknown_and_what_is_disputed() {
        let members = [(1.0, 0.5), (3.0, 1.5)]
            .map(|(mean, posterior)| Moments { mean, variances: Some(Variances { posterior, prior: 2.0 }) });
        let both = together(&members, Want::MeanAndVariance);
        assert_eq!(both, Estimate { mean: 2.0, variance: Some(1.0 + 1.0), contraction: Some(0.5) });
        assert_eq!(together(&members, Want::Mean).variance, None);
        let without = members.map(|member| Moments { variances: None, ..member });
        let without = together(&without, Want::MeanAndVariance);
        assert_eq!((without.variance, without.contraction), (Some(1.0), None));
    }
}

//! Rewards on another scale: `scale` f + `shift` instead of f.
//!
//! Pairs say nothing of a model's level, and training little of its scale; where several models are served, this makes k
//! standard deviations, or k variances, mean the same for all of them.
//!
//! ```text
//! f' = s f + c        v' = s^2 v        f' - k sqrt(v') = s (f - k sqrt(v)) + c        f' - k v' = s (f - k s v) + c
//! ```

use super::{
    Embed, Embedding, Estimate, Score, Want,
    penalty::{Kind, Penalty},
    rule::{Calibration, PenaltyRule},
    select::Selected,
};
use crate::{Error, Result, text::TokenSeq};

/// What is done to every reward of a model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    scale: f64,
    shift: f64,
}

impl Scale {
    /// Makes a scale; both numbers must be finite, and the factor above 0.
    pub fn new(scale: f64, shift: f64) -> Result<Self> {
        match scale.is_finite() && scale > 0.0 && shift.is_finite() {
            true => Ok(Self { scale, shift }),
            false => Err(Error::Usage(format!("scale {scale}, shift {shift}: not finite, or not above 0"))),
        }
    }

    /// What a variance is multiplied with.
    pub fn squared(&self) -> f64 {
        self.scale * self.scale
    }

    /// A reward on this scale.
    pub fn mean(&self, mean: f64) -> f64 {
        self.scale * mean + self.shift
    }

    /// What a fit stored, on this scale; the strengths of its rules have no unit, but for that of `variance`.
    pub fn calibration(&self, stored: Calibration) -> Calibration {
        let scaled = |(p, v): &(f64, f64)| (*p, self.squared() * v);
        let rule = stored.rule.map(|rule| match rule.kind {
            Kind::Variance => PenaltyRule { k: rule.k.map(|k| k / self.scale), ..rule },
            _ => PenaltyRule {
                baseline: rule.baseline.map(|b| self.mean(b)),
                beta: rule.beta.map(|beta| beta * self.scale),
                ..rule
            },
        });
        Calibration {
            spread: stored.spread.map(|spread| self.scale * spread),
            baseline: stored.baseline.map(|baseline| self.mean(baseline)),
            variances: stored.variances.iter().map(scaled).collect(),
            rule,
            ..stored
        }
    }

    fn estimate(&self, estimate: Estimate) -> Estimate {
        let variance = estimate.variance.map(|variance| self.squared() * variance);
        Estimate { mean: self.mean(estimate.mean), variance, ..estimate }
    }

    fn embedding(&self, mut embedding: Embedding) -> Embedding {
        let Embedding { vector, prior, deviations, .. } = &mut embedding;
        for y in vector.iter_mut().chain(prior).chain(deviations) {
            *y = (f64::from(*y) * self.scale) as f32;
        }
        let head_variance = self.squared() * embedding.head_variance;
        Embedding { mean: self.mean(embedding.mean), head_variance, ..embedding }
    }

    /// The penalty that orders the rewards of before as `penalty` orders these.
    fn before(&self, penalty: Penalty) -> Penalty {
        let Self { scale, shift } = *self;
        match penalty {
            Penalty::None => Penalty::None,
            Penalty::Std { k, threshold } => Penalty::Std { k, threshold: threshold / scale },
            Penalty::Variance { k, threshold } => {
                Penalty::Variance { k: k * scale, threshold: threshold / self.squared() }
            }
            Penalty::Contraction { k, spread, threshold } => {
                Penalty::Contraction { k, spread: spread / scale, threshold }
            }
            Penalty::Shrink { baseline } => Penalty::Shrink { baseline: (baseline - shift) / scale },
            Penalty::Kl { beta } => Penalty::Kl { beta: beta / scale },
        }
    }
}

/// A model whose rewards are rescaled.
#[derive(Debug)]
pub struct Rescaled<S> {
    /// The model.
    pub inner: S,
    /// What is done to its rewards.
    pub scale: Scale,
}

impl<S: Score> Score for Rescaled<S> {
    fn score(&mut self, batch: &[&TokenSeq], want: Want) -> Result<Vec<Estimate>> {
        let estimates = self.inner.score(batch, want)?;
        Ok(estimates.into_iter().map(|estimate| self.scale.estimate(estimate)).collect())
    }

    fn best_of(&mut self, candidates: &[&TokenSeq], penalty: Penalty, top: usize) -> Result<Selected> {
        let selected = self.inner.best_of(candidates, self.scale.before(penalty), top)?;
        let known: Vec<Estimate> = selected.known.iter().map(|known| self.scale.estimate(*known)).collect();
        let rated = known[selected.index].rated(penalty)?;
        Ok(Selected { rated, known, ..selected })
    }

    fn warm_up(&mut self, sequence: &TokenSeq) -> Result<()> {
        self.inner.warm_up(sequence)
    }
}

impl<S: Embed> Embed for Rescaled<S> {
    fn embed(&self, batch: &[&TokenSeq]) -> Result<Vec<Embedding>> {
        let embeddings = self.inner.embed(batch)?;
        Ok(embeddings.into_iter().map(|embedding| self.scale.embedding(embedding)).collect())
    }

    fn has_variances(&self) -> bool {
        self.inner.has_variances()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Means are lengths, variances first ids.
    struct Fixed;

    impl Score for Fixed {
        fn score(&mut self, batch: &[&TokenSeq], want: Want) -> Result<Vec<Estimate>> {
            let of = |s: &&TokenSeq| match want {
                Want::Mean => Estimate::of_mean(s.ids.len() as f64),
                Want::MeanAndVariance => {
                    Estimate::of_variances(s.ids.len() as f64, f64::from(s.ids[0]), 10.0)
                }
            };
            Ok(batch.iter().map(of).collect())
        }

        fn warm_up(&mut self, _: &TokenSeq) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn choices_are_those_of_the_rescaled_rewards() {
        let sequence =
            |tokens: usize, id| TokenSeq { ids: vec![id; tokens], pooled: tokens - 1, truncated: false };
        let all = [sequence(3, 4), sequence(5, 9), sequence(4, 1), sequence(4, 1)];
        let all: Vec<&TokenSeq> = all.iter().collect();
        let mut rescaled = Rescaled { inner: Fixed, scale: Scale::new(0.5, -2.0).unwrap() };
        let estimates = rescaled.score(&all, Want::MeanAndVariance).unwrap();
        assert_eq!(estimates[1], Estimate { mean: 0.5, variance: Some(2.25), contraction: Some(1.0 - 0.9) });
        for penalty in [
            Penalty::std(1.0),
            Penalty::std(0.1),
            Penalty::Std { k: 2.0, threshold: 1.1 },
            Penalty::variance(0.2),
            Penalty::variance(2.0),
            Penalty::Variance { k: 1.0, threshold: 0.5 },
            Penalty::Contraction { k: 1.0, spread: 0.5, threshold: 0.3 },
            Penalty::Contraction { k: 9.0, spread: 0.5, threshold: 0.0 },
            Penalty::Shrink { baseline: -3.0 },
            Penalty::Shrink { baseline: 1.0 },
            Penalty::Kl { beta: 0.3 },
            Penalty::None,
        ] {
            let among = Selected::among(estimates.clone(), penalty).unwrap();
            let selected = rescaled.best_of(&all, penalty, 1).unwrap();
            assert_eq!(
                (selected.index, selected.rated.score),
                (among.index, among.rated.score),
                "{penalty:?}"
            );
            if penalty.needs_variance() {
                assert_eq!(selected.rated, among.rated);
                assert_eq!(selected.known, estimates);
            }
        }
    }

    #[test]
    fn what_turns_the_order_round_is_refused() {
        for (scale, shift) in [(0.0, 0.0), (-1.0, 0.0), (f64::NAN, 0.0), (1.0, f64::INFINITY)] {
            assert!(Scale::new(scale, shift).is_err(), "{scale} {shift}");
        }
    }
}

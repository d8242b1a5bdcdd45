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

    fn mean(&self, mean: f64) -> f64 {
        self.scale * mean + self.shift
    }

    fn estimate(&self, Estimate { mean, variance }: Estimate) -> Estimate {
        Estimate { mean: self.mean(mean), variance: variance.map(|variance| self.squared() * variance) }
    }

    fn embedding(&self, Embedding { mean, head_variance, mut vector }: Embedding) -> Embedding {
        vector.iter_mut().for_each(|y| *y = (f64::from(*y) * self.scale) as f32);
        Embedding { mean: self.mean(mean), head_variance: self.squared() * head_variance, vector }
    }

    /// The penalty that orders the rewards of before as `penalty` orders these.
    fn before(&self, penalty: Penalty) -> Result<Penalty> {
        match penalty.kind() {
            Kind::Variance => Penalty::new(Kind::Variance, penalty.k() * self.scale),
            Kind::Std | Kind::None => Ok(penalty),
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
        let selected = self.inner.best_of(candidates, self.scale.before(penalty)?, top)?;
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
            let of = |s: &&TokenSeq| Estimate {
                mean: s.ids.len() as f64,
                variance: (want == Want::MeanAndVariance).then_some(f64::from(s.ids[0])),
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
        assert_eq!(estimates[1], Estimate { mean: 0.5, variance: Some(2.25) });
        for (kind, k) in [(Kind::Std, 1.0), (Kind::Std, 0.1), (Kind::Variance, 0.2), (Kind::Variance, 2.0)] {
            let penalty = Penalty::new(kind, k).unwrap();
            let among = Selected::among(estimates.clone(), penalty).unwrap();
            let selected = rescaled.best_of(&all, penalty, 1).unwrap();
            assert_eq!((selected.index, selected.rated), (among.index, among.rated), "{kind:?} {k}");
            assert_eq!(selected.known, estimates);
        }
    }

    #[test]
    fn what_turns_the_order_round_is_refused() {
        for (scale, shift) in [(0.0, 0.0), (-1.0, 0.0), (f64::NAN, 0.0), (1.0, f64::INFINITY)] {
            assert!(Scale::new(scale, shift).is_err(), "{scale} {shift}");
        }
    }
}

//! The same selection from estimates of single candidates, for pools that are too large to be computed in one piece.
//!
//! Means first, then variances by falling upper bound of the score, in waves of 1, 4, 16, ...: what cannot be among the first places any
//! more is left out. The bound is that of [`super::select`] without a variance, so that more of them are computed than there.

use super::{Estimate, GROWTH, Penalty, Selected, Work, none};
use crate::Result;

/// A selection under way.
#[derive(Debug)]
pub struct Waves {
    penalty: Penalty,
    /// Places that are wanted.
    top: usize,
    known: Vec<Estimate>,
    /// Candidates whose variances are not known, by falling bound.
    rest: Vec<usize>,
    /// Scores and indices of the best, the best first.
    best: Vec<(f64, usize)>,
    size: usize,
    complete: usize,
}

impl Waves {
    /// Starts from the finite means of all candidates.
    pub fn new(known: Vec<Estimate>, penalty: Penalty, top: usize) -> Self {
        let top = top.max(1);
        let mut rest: Vec<usize> = (0..known.len()).collect();
        let bound = |index: &usize| penalty.bound(known[*index].mean, 0.0);
        // Stable, so that equals stay in the order of their indices.
        rest.sort_by(|a, b| bound(b).total_cmp(&bound(a)));
        let mut waves = Self { penalty, top, known, rest, best: Vec::new(), size: top, complete: 0 };
        if !penalty.needs_variance() {
            let all = std::mem::take(&mut waves.rest);
            waves.place(all);
        }
        waves
    }

    /// Takes the candidates whose variances are wanted next; none at the end.
    pub fn next_wave(&mut self) -> Vec<usize> {
        let later = self.rest.split_off(self.size.min(self.rest.len()));
        self.size = self.size.saturating_mul(GROWTH);
        std::mem::replace(&mut self.rest, later)
    }

    /// Puts the estimates of a wave in their places, and drops what cannot win any more.
    pub fn take(&mut self, wave: Vec<usize>, estimates: Vec<Estimate>) {
        self.complete += estimates.iter().filter(|estimate| estimate.variance.is_some()).count();
        wave.iter().zip(estimates).for_each(|(index, estimate)| self.known[*index] = estimate);
        self.place(wave);
        let Self { penalty, top, known, best, .. } = self;
        let can_win = |index: &usize| {
            best.len() < *top
                || best
                    .last()
                    .is_some_and(|last| beats((penalty.bound(known[*index].mean, 0.0), *index), *last))
        };
        self.rest.retain(can_win);
    }

    fn place(&mut self, candidates: Vec<usize>) {
        let scored = candidates.into_iter().map(|index| (self.penalty.score(&self.known[index]), index));
        self.best.extend(scored);
        self.best.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        self.best.truncate(self.top);
    }

    /// The winner, once there are no waves any more.
    pub fn selected(self) -> Result<Selected> {
        let (_, index) = *self.best.first().ok_or_else(none)?;
        let rated = self.known[index].rated(self.penalty)?;
        Ok(Selected {
            index,
            rated,
            known: self.known,
            work: Work { complete: self.complete, layers: 0, of: 0 },
        })
    }
}

/// Whether the first score wins, the lower index among equals.
fn beats((score, index): (f64, usize), (other, place): (f64, usize)) -> bool {
    score > other || (score == other && index < place)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Runs a selection with estimates that are looked up, and tells how many were.
    fn run(all: &[Estimate], penalty: Penalty, top: usize) -> (Selected, usize) {
        let means = all.iter().map(|estimate| Estimate::of_mean(estimate.mean)).collect();
        let (mut waves, mut computed) = (Waves::new(means, penalty, top), 0);
        loop {
            let wave = waves.next_wave();
            if wave.is_empty() {
                return (waves.selected().unwrap(), computed);
            }
            computed += wave.len();
            let estimates = wave.iter().map(|index| all[*index]).collect();
            waves.take(wave, estimates);
        }
    }

    fn penalties() -> impl Strategy<Value = Penalty> {
        let k = 0.0..3.0_f64;
        prop_oneof![
            Just(Penalty::None),
            k.clone().prop_map(|k| Penalty::Std { k, threshold: 0.0 }),
            k.clone().prop_map(|k| Penalty::Variance { k, threshold: 0.5 }),
            k.prop_map(|k| Penalty::Contraction { k, spread: 1.0, threshold: 0.0 }),
            (-2.0..2.0_f64).prop_map(|baseline| Penalty::Shrink { baseline }),
            (0.1..4.0_f64).prop_map(|beta| Penalty::Kl { beta }),
        ]
    }

    proptest! {
        /// Few values, so that there are ties.
        #[test]
        fn the_first_places_are_those_of_all_scores(
            numbers in prop::collection::vec((-4..4_i32, 0..4_i32, 1..5_i32), 1..40), penalty in penalties(), top in 1usize..5,
        ) {
            let all: Vec<Estimate> = numbers
                .iter()
                .map(|(mean, variance, more)| {
                    let (mean, variance, more) = (f64::from(*mean), f64::from(*variance), f64::from(*more));
                    Estimate::of_variances(mean, variance, variance + more)
                })
                .collect();
            let (selected, computed) = run(&all, penalty, top);
            let mut order: Vec<usize> = (0..all.len()).collect();
            order.sort_by(|a, b| penalty.score(&all[*b]).total_cmp(&penalty.score(&all[*a])));
            prop_assert_eq!(selected.index, order[0]);
            prop_assert!(computed <= all.len());
            if penalty.needs_variance() {
                prop_assert_eq!(selected.work.complete, computed);
                for place in &order[..top.min(all.len())] {
                    prop_assert_eq!(selected.known[*place], all[*place]);
                }
            }
        }
    }

    #[test]
    fn what_cannot_win_is_not_computed() {
        let mut all = vec![Estimate::of_variances(0.0, 1.0, 2.0); 100];
        all[7] = Estimate::of_variances(10.0, 1.0, 2.0);
        let (selected, computed) = run(&all, Penalty::Std { k: 1.0, threshold: 0.0 }, 1);
        assert_eq!((selected.index, computed), (7, 1));
    }
}

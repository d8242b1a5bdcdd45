//! Out of the distribution: how well a variance separates what a model has not been fitted to.
//!
//! Three variances of an item are compared: of its reward, of that by the head alone, and of the difference between its
//! reward and that of a good answer to the same prompt. Pairs identify differences, and leave the common level of all
//! answers to a prompt its prior variance: what concerns an answer is in the difference. Where a prompt has no good answer
//! there is none to measure, since the difference to an answer to another prompt would hold the levels of both. An answer that
//! is made of the good one, as by shuffling its words, shares much with it, and so may differ by less than another honest one.

use super::{auroc::Auroc, spread::Spread};
use serde::Serialize;

/// What a posterior says of one item, in the square of the reward's unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Variances {
    /// Of the reward.
    pub single: f64,
    /// Of the reward, by the head alone.
    pub head: f64,
    /// Of the difference to a good answer to the same prompt; `None` where there is no such answer.
    pub difference: Option<f64>,
}

/// How a group of items differs from those in the distribution, by each variance; `None` where no item has it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Separation {
    pub single: Option<Separated>,
    pub difference: Option<Separated>,
    pub head: Option<Separated>,
}

/// How a group differs by one variance.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Separated {
    /// Of the group against the items in the distribution: 1 where each of its variances is larger; `None` without such items.
    ///
    /// The interval takes items as independent, which those made of one prompt are not quite.
    pub auroc: Option<Auroc>,
    /// Of the group's standard deviations.
    pub std: Spread,
}

impl Separation {
    /// Of a group against the items in the distribution; against none, only where its standard deviations lie.
    pub fn of(group: &[Variances], in_distribution: &[Variances]) -> Self {
        let by = |variance: fn(&Variances) -> Option<f64>| {
            Separated::of(&stds(group, variance), &stds(in_distribution, variance))
        };
        Self {
            single: by(|item| Some(item.single)),
            difference: by(|item| item.difference),
            head: by(|item| Some(item.head)),
        }
    }
}

/// The mean over groups of their areas, by each variance; `None` where no group has it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Overall {
    pub single: Option<Auroc>,
    pub difference: Option<Auroc>,
    pub head: Option<Auroc>,
}

impl Overall {
    /// Of groups against the items in the distribution; groups count alike, whatever their sizes.
    pub fn of(groups: &[&[Variances]], in_distribution: &[Variances]) -> Self {
        let by = |variance: fn(&Variances) -> Option<f64>| {
            let groups: Vec<Vec<f64>> = groups.iter().map(|group| stds(group, variance)).collect();
            Auroc::of_groups(groups.iter().map(Vec::as_slice), &stds(in_distribution, variance))
        };
        Self {
            single: by(|item| Some(item.single)),
            difference: by(|item| item.difference),
            head: by(|item| Some(item.head)),
        }
    }
}

impl Separated {
    fn of(group: &[f64], in_distribution: &[f64]) -> Option<Self> {
        Some(Self { std: Spread::of(group)?, auroc: Auroc::of(group, in_distribution) })
    }
}

/// Standard deviations of the items that have this variance.
pub fn stds(items: &[Variances], variance: impl Fn(&Variances) -> Option<f64>) -> Vec<f64> {
    items.iter().filter_map(variance).map(f64::sqrt).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(single: f64, head: f64, difference: Option<f64>) -> Variances {
        Variances { single, head, difference }
    }

    #[test]
    fn each_variance_separates_on_its_own() {
        let inside = [item(1.0, 4.0, Some(1.0)), item(4.0, 9.0, Some(1.0))];
        let outside = [item(9.0, 1.0, Some(1.0)), item(16.0, 1.0, None)];
        let Separation { single, difference, head } = Separation::of(&outside, &inside);
        let areas = [single, difference, head].map(|by| by.unwrap().auroc.unwrap().area);
        assert_eq!(areas, [1.0, 0.5, 0.0]);
        assert_eq!(single.unwrap().std.mean, 3.5);
        assert_eq!(difference.unwrap().std.mean, 1.0);
    }

    #[test]
    fn what_is_not_there_is_not_measured() {
        let inside = [item(1.0, 1.0, Some(1.0))];
        let alone = Separation::of(&[item(1.0, 1.0, None)], &inside);
        assert!(alone.single.is_some() && alone.head.is_some() && alone.difference.is_none());
        let empty = Separation::of(&[], &inside);
        assert_eq!(empty, Separation { single: None, difference: None, head: None });
        assert_eq!(Separation::of(&inside, &[]).single.unwrap().auroc, None);
    }
}

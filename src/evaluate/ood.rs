//! Out of the distribution: how well an uncertainty separates what a model has not been fitted to.
//!
//! Variances and contractions are compared: of an item's reward, of its difference to a good answer to the same prompt, and of its
//! difference to the mean of all answers to the prompt that are compared. Pairs identify differences, and leave the common level of
//! all answers to a prompt its prior variance. Where a prompt has no good answer there is no difference to measure, since the
//! difference to an answer to another prompt would hold the levels of both. An answer that is made of the good one, as by shuffling
//! its words, shares much with it, and so may differ by less than another honest one.

use super::{auroc::Auroc, spread::Spread};
use serde::Serialize;
use std::collections::BTreeMap;

/// What a posterior says of one item; variances are in the square of the reward's unit.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Uncertainties {
    /// Variance of the reward.
    pub single: f64,
    /// Variance of the reward by the head alone.
    pub head: f64,
    /// Variance of the reward before any pair was seen; `None` without a posterior.
    pub prior: Option<f64>,
    /// Variance of the difference to a good answer to the same prompt; `None` where there is no such answer.
    pub difference: Option<f64>,
    /// Variance of the difference to the mean of the answers to the prompt; `None` for an answer that is alone.
    pub relative: Option<f64>,
    /// Share of the prior variance that the pairs removed, of each of the same; `None` also where the prior variance is 0.
    pub contraction: Option<f64>,
    pub contraction_difference: Option<f64>,
    pub contraction_relative: Option<f64>,
}

/// A number that is larger the less is known of an item.
pub type Measure = fn(&Uncertainties) -> Option<f64>;

/// Every measure by its name: standard deviations, and 1 - contraction.
pub const MEASURES: [(&str, Measure); 8] = [
    ("single", |item| Some(item.single.sqrt())),
    ("difference", |item| item.difference.map(f64::sqrt)),
    ("relative", |item| item.relative.map(f64::sqrt)),
    ("head", |item| Some(item.head.sqrt())),
    ("prior", |item| item.prior.map(f64::sqrt)),
    ("one_minus_contraction", |item| item.contraction.map(|c| 1.0 - c)),
    ("one_minus_contraction_difference", |item| item.contraction_difference.map(|c| 1.0 - c)),
    ("one_minus_contraction_relative", |item| item.contraction_relative.map(|c| 1.0 - c)),
];

/// How a group differs by one measure.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Separated {
    /// Of the group against the items in the distribution: 1 where each of its items is less certain; `None` without such items.
    ///
    /// The interval takes items as independent, which those made of one prompt are not quite.
    pub auroc: Option<Auroc>,
    /// Of the group's values: standard deviations, or 1 - contraction.
    pub values: Spread,
}

/// How a group of items differs from those in the distribution, by measure; `None` where no item has it. Against none, only where its
/// values lie.
pub fn separation(
    group: &[Uncertainties],
    in_distribution: &[Uncertainties],
) -> BTreeMap<&'static str, Option<Separated>> {
    let by = |(name, measure): (&'static str, Measure)| {
        let separated = Separated::of(&values(group, measure), &values(in_distribution, measure));
        (name, separated)
    };
    MEASURES.into_iter().map(by).collect()
}

/// The mean over groups of their areas, by measure; `None` where no group has it. Groups count alike, whatever their sizes.
pub fn overall(
    groups: &[&[Uncertainties]],
    in_distribution: &[Uncertainties],
) -> BTreeMap<&'static str, Option<Auroc>> {
    let by = |(name, measure): (&'static str, Measure)| {
        let groups: Vec<Vec<f64>> = groups.iter().map(|group| values(group, measure)).collect();
        (name, Auroc::of_groups(groups.iter().map(Vec::as_slice), &values(in_distribution, measure)))
    };
    MEASURES.into_iter().map(by).collect()
}

impl Separated {
    fn of(group: &[f64], in_distribution: &[f64]) -> Option<Self> {
        Some(Self { values: Spread::of(group)?, auroc: Auroc::of(group, in_distribution) })
    }
}

/// The values of the items that have this measure.
pub fn values(items: &[Uncertainties], measure: Measure) -> Vec<f64> {
    items.iter().filter_map(measure).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(single: f64, head: f64, difference: Option<f64>) -> Uncertainties {
        Uncertainties {
            single,
            head,
            difference,
            contraction: Some(1.0 / single),
            ..Uncertainties::default()
        }
    }

    #[test]
    fn each_measure_separates_on_its_own() {
        let inside = [item(1.0, 4.0, Some(1.0)), item(4.0, 9.0, Some(1.0))];
        let outside = [item(9.0, 1.0, Some(1.0)), item(16.0, 1.0, None)];
        let by = separation(&outside, &inside);
        let areas = ["single", "difference", "head", "one_minus_contraction"]
            .map(|name| by[name].unwrap().auroc.unwrap().area);
        assert_eq!(areas, [1.0, 0.5, 0.0, 1.0]);
        assert_eq!(by["single"].unwrap().values.mean, 3.5);
        assert_eq!(by["difference"].unwrap().values.mean, 1.0);
        assert_eq!(by["relative"], None);
        let all = overall(&[&outside, &inside], &inside);
        assert_eq!((all["single"].unwrap().area, all["relative"]), (0.75, None));
    }

    #[test]
    fn what_is_not_there_is_not_measured() {
        let inside = [item(1.0, 1.0, Some(1.0))];
        let alone = separation(&[item(1.0, 1.0, None)], &inside);
        assert!(alone["single"].is_some() && alone["head"].is_some() && alone["difference"].is_none());
        assert!(separation(&[], &inside).values().all(Option::is_none));
        assert_eq!(separation(&inside, &[])["single"].unwrap().auroc, None);
    }
}

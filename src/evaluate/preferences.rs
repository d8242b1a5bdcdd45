//! Pairs judged by a reward model and its posterior: how good its probabilities are, and what its uncertainty is worth.
//!
//! The point estimate's logit is the mean difference of the rewards less the pair's margin; that of the posterior
//! predictive shrinks it by the difference's variance ([`mackay`]). The sign stays, and so the accuracy: what the posterior
//! may improve is the likelihood, the calibration, and the order in which pairs are left to someone else.

use super::{
    PairMeasures,
    auroc::Auroc,
    calibration::{Bin, reliability},
    coverage::Areas,
    pairs::{mackay, right},
    spread::Spread,
    verdicts::Verdict,
};
use serde::Serialize;
use std::collections::BTreeMap;

/// Names of the two logits.
const MAP: &str = "map";
const PREDICTIVE: &str = "predictive";

/// What a model says of pairs, side by side.
#[derive(Debug, Clone, PartialEq)]
pub struct Preferences {
    /// Mean difference of the rewards, chosen - rejected, less the margin.
    pub logits: Vec<f64>,
    /// Posterior variance of the difference, where there is a posterior.
    pub variances: Option<Vec<f64>>,
    /// Contraction of the difference; `None` where there is no posterior, and for equal answers.
    pub contractions: Vec<Option<f64>>,
    /// The pairs' margins, which verdicts do not know.
    pub margins: Vec<f64>,
}

/// Everything that is measured on pairs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Judgement<'a> {
    /// Of the point estimate.
    #[serde(flatten)]
    pub map: BySource<'a>,
    /// Of the posterior predictive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predictive: Option<BySource<'a>>,
    /// The diagram of either.
    pub reliability: BTreeMap<&'static str, Vec<Bin>>,
    /// By what uncertainty pairs are put in order.
    pub risk_coverage: BTreeMap<&'static str, Ranking>,
    /// Standard deviation of the difference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub difference_std: Option<Spread>,
}

/// Measures as a whole and by source.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BySource<'a> {
    pub all: Option<PairMeasures>,
    pub by_source: BTreeMap<&'a str, Option<PairMeasures>>,
}

/// How well an uncertainty finds the pairs that are wrong.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ranking {
    #[serde(flatten)]
    pub areas: Option<Areas>,
    /// Of wrong pairs against right ones, ties left out; `None` where there is no pair of one kind.
    pub auroc: Option<Auroc>,
}

impl Preferences {
    /// Everything that is measured; `sources` has one for each pair.
    pub fn judge<'a>(&self, sources: &[&'a str]) -> Judgement<'a> {
        let logits = self.by_logit();
        let right = self.right();
        let by_source = |logits: &Vec<f64>| BySource::of(logits, sources);
        Judgement {
            map: by_source(&self.logits),
            predictive: logits.get(PREDICTIVE).map(by_source),
            reliability: logits.iter().map(|(name, logits)| (*name, reliability(logits))).collect(),
            risk_coverage: self
                .uncertainties()
                .into_iter()
                .map(|(name, uncertainties)| (name, Ranking::of(&uncertainties, &right)))
                .collect(),
            difference_std: self.stds().and_then(|stds| Spread::of(&stds)),
        }
    }

    /// Uncertainties by which pairs can be put in order, each ascending from sure to unsure: the standard deviation of the
    /// difference, 1 minus its contraction, and the two probabilities, whose order is that of their logits.
    pub fn uncertainties(&self) -> BTreeMap<&'static str, Vec<f64>> {
        let unsure = |logits: Vec<f64>| logits.into_iter().map(|logit| -logit.abs()).collect();
        let by_logit = self.by_logit().into_iter().map(|(name, logits)| (name, unsure(logits)));
        let uncontracted = self.variances.as_ref().map(|_| {
            // Of equal answers nothing is known to differ.
            let uncontracted = self.contractions.iter().map(|c| 1.0 - c.unwrap_or_default());
            ("difference_one_minus_contraction", uncontracted.collect())
        });
        by_logit.chain(self.stds().map(|stds| ("difference_std", stds))).chain(uncontracted).collect()
    }

    /// Each pair's verdict by the posterior predictive.
    pub fn verdicts(&self) -> Vec<Verdict> {
        let verdict = |at: usize| {
            let variance = self.variances.as_ref().map_or(0.0, |variances| variances[at]);
            Verdict::new(mackay(self.logits[at] + self.margins[at], variance), self.contractions[at])
        };
        (0..self.logits.len()).map(verdict).collect()
    }

    /// 1 for each pair that is right, 0 for a wrong one, one half for a tie.
    pub fn right(&self) -> Vec<f64> {
        self.logits.iter().map(|logit| right(*logit)).collect()
    }

    fn by_logit(&self) -> BTreeMap<&'static str, Vec<f64>> {
        let shrunk = |variances: &Vec<f64>| -> Vec<f64> {
            self.logits.iter().zip(variances).map(|(logit, v)| mackay(*logit, *v)).collect()
        };
        let predictive = self.variances.as_ref().map(|variances| (PREDICTIVE, shrunk(variances)));
        [(MAP, self.logits.clone())].into_iter().chain(predictive).collect()
    }

    fn stds(&self) -> Option<Vec<f64>> {
        Some(self.variances.as_ref()?.iter().map(|v| v.sqrt()).collect())
    }
}

impl<'a> BySource<'a> {
    fn of(logits: &[f64], sources: &[&'a str]) -> Self {
        let mut apart: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for (source, logit) in sources.iter().zip(logits) {
            apart.entry(source).or_default().push(*logit);
        }
        let by_source = apart.into_iter().map(|(source, logits)| (source, PairMeasures::of(&logits)));
        Self { all: PairMeasures::of(logits), by_source: by_source.collect() }
    }
}

impl Ranking {
    fn of(uncertainties: &[f64], right: &[f64]) -> Self {
        let those = |wanted: f64| -> Vec<f64> {
            let both = uncertainties.iter().zip(right);
            both.filter(|(_, right)| **right == wanted).map(|(uncertainty, _)| *uncertainty).collect()
        };
        Self { areas: Areas::of(uncertainties, right), auroc: Auroc::of(&those(0.0), &those(1.0)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCES: [&str; 4] = ["b", "a", "b", "b"];

    fn preferences(variances: Option<Vec<f64>>) -> Preferences {
        Preferences {
            logits: vec![2.0, -1.0, 0.0, 3.0],
            variances,
            contractions: vec![None; 4],
            margins: vec![0.0; 4],
        }
    }

    #[test]
    fn without_variances_the_point_estimate_is_judged_alone() {
        let judged = preferences(None).judge(&SOURCES);
        assert_eq!(judged.map.all, PairMeasures::of(&[2.0, -1.0, 0.0, 3.0]));
        assert_eq!(judged.map.by_source.keys().copied().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(judged.map.by_source["b"], PairMeasures::of(&[2.0, 0.0, 3.0]));
        assert_eq!((judged.predictive, judged.difference_std), (None, None));
        assert_eq!(judged.reliability.keys().copied().collect::<Vec<_>>(), ["map"]);
        assert_eq!(judged.risk_coverage.keys().copied().collect::<Vec<_>>(), ["map"]);
    }

    #[test]
    fn no_variance_changes_nothing_and_a_large_one_the_likelihood_alone() {
        let certain = preferences(Some(vec![0.0; 4])).judge(&SOURCES);
        assert_eq!(certain.predictive.as_ref(), Some(&certain.map));
        assert_eq!(certain.reliability["map"], certain.reliability["predictive"]);
        let unsure = preferences(Some(vec![9.0; 4])).judge(&SOURCES);
        let (map, predictive) = (unsure.map.all.unwrap(), unsure.predictive.unwrap().all.unwrap());
        assert_eq!(map.accuracy, predictive.accuracy);
        assert!(map.nll != predictive.nll);
        assert_eq!(unsure.difference_std.unwrap().mean, 3.0);
    }

    #[test]
    fn an_uncertainty_that_is_largest_where_the_model_is_wrong_is_the_best() {
        let judged = preferences(Some(vec![0.1, 9.0, 4.0, 1.0])).judge(&SOURCES);
        let [std, map] = ["difference_std", "map"].map(|name| judged.risk_coverage[name]);
        assert_eq!((std.auroc.unwrap().area, std.areas.unwrap().excess), (1.0, 0.0));
        // The tie, at logit 0, comes last.
        assert_eq!(map.auroc.unwrap().area, 1.0);
        assert!(map.areas.unwrap().excess > 0.0);
        let all_right = Preferences {
            logits: vec![1.0, 2.0],
            variances: None,
            contractions: vec![None; 2],
            margins: vec![0.0; 2],
        }
        .judge(&["a", "a"]);
        assert_eq!(all_right.risk_coverage["map"].auroc, None);
    }
}

//! A rule for the conservative score as requests, files and flags state it, before it is resolved for a model.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::penalty::{Kind, Penalty};
use crate::{Error, Result};

/// A penalty as it is asked for, and as replies echo it: absent numbers are the model's own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PenaltyRequest)]
pub struct PenaltyRule {
    /// Kind of the penalty.
    pub kind: Kind,
    /// Strength of `std`, `variance` and `contraction`; by default 1 for the first two, and the adapter's own for the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0.0)]
    pub k: Option<f64>,
    /// Reward towards which `shrink` goes where nothing is known; by default the adapter's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline: Option<f64>,
    /// Strength of the KL regularisation that `kl` is for, above 0; needed there.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(exclusive_minimum = 0.0)]
    pub beta: Option<f64>,
    /// Subtracts only the part of the uncertainty above this percentile of the held-out answers'; for `std`, `variance` and `contraction`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0.0, maximum = 1.0)]
    pub above: Option<f64>,
    /// Reads the uncertainty of the difference to the mean of all candidates of the prompt, so that uncertainty that the candidates
    /// share does not count. Only where candidates are chosen from (`/v1/best-of-n`); every variance is computed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub relative: bool,
}

/// Numbers of held-out pairs that penalties read, on the scale of the served rewards.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Calibration {
    /// tau: standard deviation of rewards within prompts, sqrt(mean of (f_chosen - f_rejected)^2 / 2).
    pub spread: Option<f64>,
    /// A low quantile of the rewards.
    pub baseline: Option<f64>,
    /// Strength of the contraction penalty.
    pub k: Option<f64>,
    /// The rule that is applied where a request names none.
    pub rule: Option<PenaltyRule>,
    /// Quantiles of the variance of single rewards, as (probability, variance), both rising.
    pub variances: Vec<(f64, f64)>,
    /// Quantiles of 1 - contraction of single rewards, as (probability, share), both rising.
    pub uncontracted: Vec<(f64, f64)>,
}

impl PenaltyRule {
    /// A rule of one kind, with the model's own numbers.
    pub fn of(kind: Kind) -> Self {
        Self { kind, ..Self::default() }
    }

    /// Resolves the rule with a model's stored numbers, and says what it was resolved to. The error names the field.
    pub fn resolve(&self, stored: &Calibration) -> Result<(Penalty, Self)> {
        self.check()?;
        let Self { kind, k, baseline, beta, above, .. } = *self;
        let missing = |field: &str, what: &str| {
            let hint =
                "hint: run `calibrate` or `fit --held-out`, or name another `kind`; an ensemble stores none";
            Error::field(
                format!("penalty{field}"),
                format!("the adapter's posterior has no stored {what} ({hint})"),
            )
        };
        let quantile = |quantiles: &[(f64, f64)]| match above {
            None => Ok(0.0),
            Some(p) => value_at(quantiles, p).ok_or_else(|| missing(".above", "quantiles")),
        };
        let resolved = Self { k: None, baseline: None, beta: None, ..*self };
        Ok(match kind {
            Kind::None => (Penalty::None, resolved),
            Kind::Std => {
                let (k, threshold) = (k.unwrap_or(1.0), quantile(&stored.variances)?.sqrt());
                (Penalty::Std { k, threshold }, Self { k: Some(k), ..resolved })
            }
            Kind::Variance => {
                let (k, threshold) = (k.unwrap_or(1.0), quantile(&stored.variances)?);
                (Penalty::Variance { k, threshold }, Self { k: Some(k), ..resolved })
            }
            Kind::Contraction => {
                let spread = stored.spread.ok_or_else(|| missing(".kind", "spread of rewards"))?;
                let k = k.or(stored.k).ok_or_else(|| missing(".k", "strength"))?;
                let threshold = quantile(&stored.uncontracted)?;
                (Penalty::Contraction { k, spread, threshold }, Self { k: Some(k), ..resolved })
            }
            Kind::Shrink => {
                let baseline =
                    baseline.or(stored.baseline).ok_or_else(|| missing(".baseline", "baseline"))?;
                (Penalty::Shrink { baseline }, Self { baseline: Some(baseline), ..resolved })
            }
            Kind::Kl => {
                let beta = beta.ok_or_else(no_beta)?;
                (Penalty::Kl { beta }, Self { beta: Some(beta), ..resolved })
            }
        })
    }

    /// Refuses numbers out of range, and those that the kind does not read.
    pub fn check(&self) -> Result<()> {
        let Self { kind, k, baseline, beta, above, relative } = *self;
        let scaled = matches!(kind, Kind::Std | Kind::Variance | Kind::Contraction);
        let reads = [
            // An ignored `k` beside `none` is what older clients send.
            ("k", k.is_some(), scaled || kind == Kind::None),
            ("baseline", baseline.is_some(), kind == Kind::Shrink),
            ("beta", beta.is_some(), kind == Kind::Kl),
            ("above", above.is_some(), scaled),
        ];
        if let Some((name, ..)) = reads.iter().find(|(_, given, read)| *given && !read) {
            let kind = format!("{kind:?}").to_lowercase();
            return Err(Error::field(
                format!("penalty.{name}"),
                format!("the kind `{kind}` does not read it"),
            ));
        }
        if kind == Kind::Kl && beta.is_none() {
            return Err(no_beta());
        }
        if relative && above.is_some() {
            return Err(Error::field(
                "penalty.above",
                "cannot stand beside `relative`: its quantiles are of single rewards",
            ));
        }
        let numbers = [
            ("k", k, "must be a finite number of at least 0", (|x| x >= 0.0) as fn(f64) -> bool),
            ("baseline", baseline, "must be a finite number", |_| true),
            ("beta", beta, "must be a finite number above 0", |x| x > 0.0),
            ("above", above, "must be a number from 0 to 1", |x| (0.0..=1.0).contains(&x)),
        ];
        for (name, number, message, valid) in numbers {
            if let Some(x) = number.filter(|x| !(x.is_finite() && valid(*x))) {
                return Err(Error::field(format!("penalty.{name}"), format!("{message}: {x}")));
            }
        }
        Ok(())
    }
}

fn no_beta() -> Error {
    Error::field("penalty.beta", "needed by the kind `kl`")
}

/// The value at a probability, linear between quantiles given as (probability, value); `None` without quantiles.
fn value_at(quantiles: &[(f64, f64)], probability: f64) -> Option<f64> {
    let after = quantiles.partition_point(|(p, _)| *p < probability);
    let next = quantiles.get(after).or(quantiles.last())?;
    let Some(before) = after.checked_sub(1).map(|at| quantiles[at]).filter(|before| before.0 < next.0) else {
        return Some(next.1);
    };
    let share = ((probability - before.0) / (next.0 - before.0)).min(1.0);
    Some(before.1 + share * (next.1 - before.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored() -> Calibration {
        Calibration {
            spread: Some(0.5),
            baseline: Some(-2.0),
            k: Some(8.0),
            rule: None,
            variances: vec![(0.5, 1.0), (0.9, 4.0)],
            uncontracted: vec![(0.5, 0.2), (0.9, 0.6)],
        }
    }

    fn rule(json: &str) -> PenaltyRule {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn absent_numbers_are_the_models_own() {
        let table = [
            (r#"{"kind":"std"}"#, Penalty::std(1.0), r#"{"kind":"std","k":1.0}"#),
            (
                r#"{"kind":"variance","k":0.5,"relative":true}"#,
                Penalty::variance(0.5),
                r#"{"kind":"variance","k":0.5,"relative":true}"#,
            ),
            (
                r#"{"kind":"std","k":2,"above":0.9}"#,
                Penalty::Std { k: 2.0, threshold: 2.0 },
                r#"{"kind":"std","k":2.0,"above":0.9}"#,
            ),
            (
                r#"{"kind":"contraction"}"#,
                Penalty::Contraction { k: 8.0, spread: 0.5, threshold: 0.0 },
                r#"{"kind":"contraction","k":8.0}"#,
            ),
            (
                r#"{"kind":"contraction","k":3,"above":0.7}"#,
                Penalty::Contraction { k: 3.0, spread: 0.5, threshold: 0.4 },
                r#"{"kind":"contraction","k":3.0,"above":0.7}"#,
            ),
            (
                r#"{"kind":"shrink"}"#,
                Penalty::Shrink { baseline: -2.0 },
                r#"{"kind":"shrink","baseline":-2.0}"#,
            ),
            (r#"{"kind":"kl","beta":0.1}"#, Penalty::Kl { beta: 0.1 }, r#"{"kind":"kl","beta":0.1}"#),
            (r#"{"kind":"none","k":3}"#, Penalty::None, r#"{"kind":"none"}"#),
        ];
        for (given, want, echoed) in table {
            let (penalty, resolved) = rule(given).resolve(&stored()).unwrap();
            match (penalty, want) {
                (Penalty::Contraction { threshold: got, .. }, Penalty::Contraction { threshold, .. }) => {
                    assert!((got - threshold).abs() < 1e-12, "{given}");
                }
                _ => assert_eq!(penalty, want, "{given}"),
            }
            assert_eq!(serde_json::to_string(&resolved).unwrap(), echoed);
        }
    }

    #[test]
    fn what_is_wrong_or_missing_is_named() {
        let table = [
            (r#"{"kind":"std","k":-1}"#, "penalty.k: must be a finite number of at least 0"),
            (r#"{"kind":"kl"}"#, "penalty.beta: needed"),
            (r#"{"kind":"kl","beta":0}"#, "penalty.beta: must be a finite number above 0"),
            (r#"{"kind":"kl","beta":1,"k":1}"#, "penalty.k: the kind `kl` does not read it"),
            (r#"{"kind":"std","beta":1}"#, "penalty.beta: the kind `std` does not read it"),
            (r#"{"kind":"shrink","above":0.9}"#, "penalty.above: the kind `shrink` does not read it"),
            (r#"{"kind":"std","above":1.5}"#, "penalty.above: must be a number from 0 to 1"),
            (
                r#"{"kind":"std","above":0.5,"relative":true}"#,
                "penalty.above: cannot stand beside `relative`",
            ),
        ];
        for (given, want) in table {
            let message = rule(given).resolve(&stored()).unwrap_err().to_string();
            assert!(message.starts_with(want), "{given}: {message}");
        }
        for given in [
            r#"{"kind":"contraction","k":1}"#,
            r#"{"kind":"contraction"}"#,
            r#"{"kind":"shrink"}"#,
            r#"{"kind":"std","above":0.9}"#,
        ] {
            let message = rule(given).resolve(&Calibration::default()).unwrap_err().to_string();
            assert!(message.starts_with("penalty.") && message.contains("no stored"), "{given}: {message}");
        }
    }

    #[test]
    fn values_lie_between_quantiles() {
        let quantiles = [(0.1, 1.0), (0.5, 3.0), (0.9, 4.0)];
        for (p, want) in [(0.0, 1.0), (0.1, 1.0), (0.3, 2.0), (0.5, 3.0), (0.9, 4.0), (1.0, 4.0)] {
            assert!((value_at(&quantiles, p).unwrap() - want).abs() < 1e-12, "{p}");
        }
        assert_eq!(value_at(&[], 0.5), None);
    }
}

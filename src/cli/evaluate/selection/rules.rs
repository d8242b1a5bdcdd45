//! The rules that are compared: every kind of penalty with several strengths.

use crate::score::{penalty::Kind, rule::PenaltyRule};

/// Strengths of the contraction penalty.
const CONTRACTION: [f64; 6] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0];
/// Strengths where only what lies above the held-out percentile [`ABOVE`] is subtracted.
const HINGED: [f64; 3] = [4.0, 16.0, 32.0];
const ABOVE: f64 = 0.9;
const STD: [f64; 5] = [0.1, 0.25, 0.5, 1.0, 2.0];
const VARIANCE: [f64; 3] = [0.01, 0.03, 0.1];
const RELATIVE_STD: [f64; 3] = [0.5, 1.0, 3.0];
/// The penalty is v / (2 beta).
const BETA: [f64; 2] = [10.0, 2.0];

/// The mean first, and of every kind the weaker before the stronger.
pub(in crate::cli) fn candidates() -> Vec<PenaltyRule> {
    let of = |kind: Kind, k: f64| PenaltyRule { k: Some(k), ..PenaltyRule::of(kind) };
    let above = |kind: Kind, k: f64| PenaltyRule { above: Some(ABOVE), ..of(kind, k) };
    let relative = |rule: PenaltyRule| PenaltyRule { relative: true, ..rule };
    let mut rules = vec![PenaltyRule::of(Kind::None)];
    rules.extend(CONTRACTION.map(|k| of(Kind::Contraction, k)));
    rules.extend(HINGED.map(|k| above(Kind::Contraction, k)));
    rules.push(PenaltyRule::of(Kind::Shrink));
    rules.extend(STD.map(|k| of(Kind::Std, k)));
    rules.extend([1.0, 3.0].map(|k| above(Kind::Std, k)));
    rules.extend(VARIANCE.map(|k| of(Kind::Variance, k)));
    rules.extend(BETA.map(|beta| PenaltyRule { beta: Some(beta), ..PenaltyRule::of(Kind::Kl) }));
    rules.extend(RELATIVE_STD.map(|k| relative(of(Kind::Std, k))));
    rules.extend([4.0, 8.0, 16.0].map(|k| relative(of(Kind::Contraction, k))));
    rules
}

/// Reads a rule as requests write it.
pub(super) fn parse(json: &str) -> Result<PenaltyRule, String> {
    let rule: PenaltyRule = serde_json::from_str(json).map_err(|e| e.to_string())?;
    rule.check().map(|()| rule).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_candidate_is_valid_and_the_mean_is_the_first() {
        let rules = candidates();
        assert_eq!(rules[0].kind, Kind::None);
        for (at, rule) in rules.iter().enumerate() {
            rule.check().unwrap();
            assert!(!rules[..at].contains(rule), "{rule:?} twice");
        }
    }

    #[test]
    fn a_rule_is_written_like_a_penalty() {
        assert_eq!(parse(r#"{"kind":"std","k":2}"#).unwrap().k, Some(2.0));
        assert!(parse(r#"{"kind":"std","k":-2}"#).unwrap_err().starts_with("penalty.k"));
        assert!(parse(r#"{"kind":"much"}"#).is_err());
    }
}

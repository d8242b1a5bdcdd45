//! The scores by which one answer is chosen out of a prompt's pool.
//!
//! M answers have means f (M) and, of one posterior, covariances C (M x M); of an ensemble each member has means of its own,
//! f_e (members x M), from which its mean over the pool is taken: pairs leave a member's level open.

use super::mean;
use serde::{Deserialize, Serialize};

/// A rule, with its k >= 0.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rule", content = "k", rename_all = "snake_case")]
pub enum Rule {
    /// f.
    Mean,
    /// f - k sqrt(C_ii).
    Std(f64),
    /// f - k C_ii.
    Variance(f64),
    /// f - k sqrt(C'_ii), C' = Z C Z, Z = I - 11^T / M: without the shift that all answers share.
    RelativeStd(f64),
    /// f - k C'_ii.
    RelativeVariance(f64),
    /// Mean of f_e over the members (Coste et al., 2023, arXiv 2310.02743).
    EnsembleMean,
    /// Smallest of f_e (worst-case optimisation, ibid.).
    WorstCase,
    /// Mean of f_e - k times their variance, 1/E sum_e (f_e - mean)^2 (uncertainty-weighted optimisation, ibid.).
    Uwo(f64),
    /// -1/k ln of the mean of exp(-k f_e): from the mean at k = 0 to the smallest as k grows (the entropic risk measure;
    /// Föllmer and Schied, 2002).
    Entropic(f64),
}

/// What is known of the answers to one prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Pool {
    means: Vec<f64>,
    spread: Option<Spread>,
    /// For each answer its means by member, each member's mean over the pool taken off.
    ensemble: Option<Vec<Vec<f64>>>,
}

/// Diagonals of C and of C'.
#[derive(Debug, Clone, PartialEq)]
struct Spread {
    single: Vec<f64>,
    relative: Vec<f64>,
}

impl Pool {
    /// From the M means.
    pub fn new(means: Vec<f64>) -> Self {
        Self { means, spread: None, ensemble: None }
    }

    /// Adds the covariances of the means, M x M by rows.
    ///
    /// # Panics
    ///
    /// Unless there are M^2.
    pub fn with_covariance(self, covariance: &[f64]) -> Self {
        let spread = Some(Spread::of(self.means.len(), covariance));
        Self { spread, ..self }
    }

    /// Adds the means of an ensemble, of M for each member.
    ///
    /// # Panics
    ///
    /// Unless every member has M, or if there is none.
    pub fn with_ensemble(self, members: &[&[f64]]) -> Self {
        assert!(!members.is_empty(), "members of the ensemble");
        let levels: Vec<f64> = members.iter().map(|member| mean(member)).collect();
        for member in members {
            assert_eq!(member.len(), self.means.len(), "answers of a member");
        }
        let of_answer = |i| members.iter().zip(&levels).map(|(member, level)| member[i] - level).collect();
        let ensemble = Some((0..self.means.len()).map(of_answer).collect());
        Self { ensemble, ..self }
    }

    /// Members, each with M means and M x M covariances, as one model: the law of total covariance, the mean of the covariances
    /// within members and the covariance of the means between them; each member's mean over the pool taken off.
    ///
    /// # Panics
    ///
    /// Unless every member has M means and M^2 covariances, or if there is none.
    pub fn of_members(members: &[(&[f64], &[f64])]) -> Self {
        let (means, within): (Vec<&[f64]>, Vec<&[f64]>) = members.iter().copied().unzip();
        let deviations =
            Self::new(vec![0.0; means[0].len()]).with_ensemble(&means).ensemble.unwrap_or_default();
        let centres: Vec<f64> = deviations.iter().map(|of| mean(of)).collect();
        let total = |at: usize| {
            let (i, j) = (at / centres.len(), at % centres.len());
            let between = deviations[i].iter().zip(&deviations[j]);
            let between = between.map(|(a, b)| (a - centres[i]) * (b - centres[j])).sum::<f64>();
            (within.iter().map(|c| c[at]).sum::<f64>() + between) / members.len() as f64
        };
        let covariance: Vec<f64> = (0..centres.len().pow(2)).map(total).collect();
        Self::new(centres).with_covariance(&covariance)
    }

    /// The means less the penalties of some variances.
    fn less(&self, variances: fn(&Spread) -> &[f64], penalty: impl Fn(f64) -> f64) -> Option<Vec<f64>> {
        let variances = variances(self.spread.as_ref()?);
        Some(self.means.iter().zip(variances).map(|(mean, v)| mean - penalty(*v)).collect())
    }

    /// One number for each answer, from its means by member.
    fn by_members(&self, score: impl Fn(&[f64]) -> f64) -> Option<Vec<f64>> {
        Some(self.ensemble.as_ref()?.iter().map(|members| score(members)).collect())
    }
}

impl Spread {
    fn of(answers: usize, covariance: &[f64]) -> Self {
        assert_eq!(covariance.len(), answers * answers, "covariances of the answers");
        let rows: Vec<f64> = covariance.chunks_exact(answers.max(1)).map(mean).collect();
        let grand = mean(&rows);
        let single: Vec<f64> = covariance.iter().step_by(answers + 1).copied().collect();
        // C'_ii = C_ii - 2 mean of row i + mean of all: rounding may leave it below 0.
        let relative = single.iter().zip(&rows).map(|(c, row)| (c - 2.0 * row + grand).max(0.0)).collect();
        Self { single, relative }
    }
}

impl Rule {
    /// The M scores, larger for what is rather chosen; `None` where the pool lacks what the rule reads.
    pub fn scores(self, pool: &Pool) -> Option<Vec<f64>> {
        match self {
            Self::Mean => Some(pool.means.clone()),
            Self::Std(k) => pool.less(|spread| &spread.single, |v| k * v.sqrt()),
            Self::Variance(k) => pool.less(|spread| &spread.single, |v| k * v),
            Self::RelativeStd(k) => pool.less(|spread| &spread.relative, |v| k * v.sqrt()),
            Self::RelativeVariance(k) => pool.less(|spread| &spread.relative, |v| k * v),
            Self::EnsembleMean => pool.by_members(mean),
            Self::WorstCase => pool.by_members(smallest),
            Self::Uwo(k) => pool.by_members(|members| mean(members) - k * variance(members)),
            Self::Entropic(k) => pool.by_members(|members| entropic(members, k)),
        }
    }
}

fn smallest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

/// Of the values themselves, not of what they are a sample of.
fn variance(values: &[f64]) -> f64 {
    let centre = mean(values);
    values.iter().map(|value| (value - centre).powi(2)).sum::<f64>() / values.len() as f64
}

/// From the smallest value m as m - 1/k ln(1 + mean(exp(-k (f - m)) - 1)): no exponent is above 0, and a small k loses
/// no digits.
fn entropic(values: &[f64], k: f64) -> f64 {
    if k == 0.0 {
        return mean(values);
    }
    let least = smallest(values);
    let excess: f64 = values.iter().map(|value| (-k * (value - least)).exp_m1()).sum();
    least - (excess / values.len() as f64).ln_1p() / k
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::fixture::{assert_close, read};

    #[derive(Deserialize)]
    struct Fixture {
        means: Vec<f64>,
        covariance: Vec<f64>,
        members: Vec<Vec<f64>>,
        scores: Vec<Scores>,
    }

    #[derive(Deserialize)]
    struct Scores {
        #[serde(flatten)]
        rule: Rule,
        scores: Vec<f64>,
    }

    fn pool(fixture: &Fixture) -> Pool {
        let members: Vec<&[f64]> = fixture.members.iter().map(Vec::as_slice).collect();
        Pool::new(fixture.means.clone()).with_covariance(&fixture.covariance).with_ensemble(&members)
    }

    #[test]
    fn scores_equal_numpy() {
        let fixture: Fixture = read("select");
        for Scores { rule, scores } in &fixture.scores {
            assert_close(&rule.scores(&pool(&fixture)).unwrap(), scores, 1e-12);
        }
    }

    #[test]
    fn every_rule_without_a_penalty_is_its_mean() {
        let pool = pool(&read("select"));
        for rule in [Rule::Std(0.0), Rule::Variance(0.0), Rule::RelativeStd(0.0), Rule::RelativeVariance(0.0)]
        {
            assert_eq!(rule.scores(&pool), Rule::Mean.scores(&pool));
        }
        for rule in [Rule::Uwo(0.0), Rule::Entropic(0.0)] {
            assert_eq!(rule.scores(&pool), Rule::EnsembleMean.scores(&pool));
        }
    }

    #[test]
    fn what_all_answers_share_is_not_relative() {
        let pool = Pool::new(vec![1.0, 2.0, 3.0]).with_covariance(&[0.1; 9]);
        assert_eq!(Rule::RelativeStd(1.0).scores(&pool), Rule::Mean.scores(&pool));
    }

    #[test]
    fn the_level_of_a_member_does_not_count() {
        let of = |members: &[&[f64]]| Rule::WorstCase.scores(&Pool::new(vec![0.0; 2]).with_ensemble(members));
        assert_eq!(of(&[&[1.0, 3.0], &[5.0, 1.0]]), of(&[&[11.0, 13.0], &[5.0, 1.0]]));
    }

    /// A draw of a member, and then of its reward: the law of total covariance.
    #[test]
    fn members_as_one_model_have_the_covariances_of_their_mixture() {
        let (a, b) = (([0.5, -0.5], [1.0, 0.2, 0.2, 0.5]), ([2.0, 1.0], [0.3, 0.1, 0.1, 0.4]));
        let variances = |pool: &Pool, rule: fn(f64) -> Rule| {
            let (without, with) = (rule(0.0).scores(pool).unwrap(), rule(1.0).scores(pool).unwrap());
            without.iter().zip(with).map(|(f, score)| f - score).collect::<Vec<f64>>()
        };
        // Centred, the means are (.5, -.5) of both, and nothing is between them.
        let pool = Pool::of_members(&[(&a.0, &a.1), (&b.0, &b.1)]);
        assert_eq!(Rule::Mean.scores(&pool), Some(vec![0.5, -0.5]));
        assert_close(&variances(&pool, Rule::Variance), &[0.65, 0.45], 1e-12);
        // Deviations of .5 to either side, of opposite signs for the two answers.
        let pool = Pool::of_members(&[(&a.0, &[0.0; 4]), (&[-0.5, 0.5], &[0.0; 4])]);
        assert_close(&variances(&pool, Rule::Variance), &[0.25, 0.25], 1e-12);
        assert_close(&variances(&pool, Rule::RelativeVariance), &[0.25, 0.25], 1e-12);
    }

    #[test]
    fn entropic_runs_from_the_mean_to_the_smallest() {
        let values = [0.5, -1.0, 2.0];
        // To first order in k it is the mean less k / 2 times the variance.
        let k = 1e-9;
        assert!((entropic(&values, k) - (mean(&values) - k / 2.0 * variance(&values))).abs() < 1e-15);
        assert!((entropic(&values, 1e6) + 1.0).abs() < 1e-5);
        assert!(entropic(&[-1e5, 1e5], 10.0).is_finite());
    }

    #[test]
    fn a_rule_needs_what_it_reads() {
        let pool = Pool::new(vec![1.0, 2.0]);
        assert_eq!(Rule::Mean.scores(&pool), Some(vec![1.0, 2.0]));
        assert_eq!((Rule::Std(1.0).scores(&pool), Rule::WorstCase.scores(&pool)), (None, None));
        let empty = Pool::new(Vec::new()).with_covariance(&[]).with_ensemble(&[&[]]);
        assert_eq!(
            (Rule::Std(1.0).scores(&empty), Rule::Uwo(1.0).scores(&empty)),
            (Some(vec![]), Some(vec![]))
        );
    }

    #[test]
    fn rules_have_names() {
        for (rule, json) in [
            (Rule::Mean, r#"{"rule":"mean"}"#),
            (Rule::RelativeStd(0.5), r#"{"rule":"relative_std","k":0.5}"#),
            (Rule::WorstCase, r#"{"rule":"worst_case"}"#),
        ] {
            assert_eq!(serde_json::to_string(&rule).unwrap(), json);
            assert_eq!(serde_json::from_str::<Rule>(json).unwrap(), rule);
        }
    }
}

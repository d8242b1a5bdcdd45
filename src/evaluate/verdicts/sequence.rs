//! Sequential tests of thresholds on a confidence measure, from the strictest to the loosest.
//!
//! | symbol | identifier |
//! |---|---|
//! | t_1 > t_2 > ..., the thresholds | [`grid`] |
//! | n_j, held-out pairs with confidence at least t_j | `decided` |
//! | w_j, those whose verdict is wrong | `wrong` |
//! | alpha, the allowed error rate | `error_rate` |
//! | p_j = P(Binomial(n_j, alpha) <= w_j) | [`binomial_tail`] |
//! | b_j, the significance level of test j | `budget` |
//! | m_1, ..., m_5, counts of pairs | [`starts`] |
//!
//! H_j says that the error rate R_j at threshold t_j is above alpha. The fallback procedure (Wiens, 2003; Wiens and
//! Dmitrienko, 2005) tests H_1, H_2, ... in order. Test j starts with its own share of delta, and adds b_(j-1) if H_(j-1)
//! was rejected. It rejects H_j if p_j < b_j. With one share this is fixed-sequence testing.
//!
//! **Starts.** A strict threshold keeps so few pairs that no outcome rejects, and would end a fixed sequence. So delta is
//! shared equally by the first thresholds that keep at least m_1, ..., m_5 pairs. m_1 pairs without an error reject at
//! their share, and m_5 is the number of held-out pairs. The larger starts serve models that make some errors among their
//! most confident verdicts too. Starts depend on confidences, not on labels.
//!
//! **Validity.** The thresholds are fixed numbers. Let H_a be the strictest true hypothesis, and suppose that R_j does not
//! fall with j. Then every H_j with j >= a is true. The pairs between t_(j-1) and t_j have an error rate of at least R_j
//! for j > a, so given n_a, n_(a+1), ..., w_j is stochastically at least Binomial(n_j, alpha). A false rejection has a
//! first one. At H_a its level is at most the shares of all m <= n_a. At a later H_j it is at most the shares of
//! n_(j-1) < m <= n_j, as H_(j-1) was true and not rejected. These levels add up to at most delta.
//!
//! Without monotone R_j, condition on all confidences. The shares are then constants, and w_j is a sum of independent
//! Bernoulli variables. If their mean is above alpha, P(w_j <= k) is at most P(Binomial(n_j, alpha) <= k) for
//! k <= n_j alpha - 1 (Hoeffding, 1956), as every k that rejects is. The same sum over first false rejections then
//! holds for hypotheses about the mean error rate of pairs with these confidences.

use std::iter::successors;

use super::Confidence;

/// Starts of the sequence.
const STARTS: usize = 5;

/// Thresholds per unit of confidence.
const STEPS: usize = 1000;

/// A threshold, and the held-out pairs whose confidence is at least that.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Selected {
    pub threshold: f64,
    pub decided: usize,
    pub wrong: usize,
}

/// Returns the loosest threshold whose hypothesis is rejected at familywise level `delta`.
///
/// `measured` has each held-out pair's confidence and whether its verdict is right.
pub(super) fn loosest(
    confidence: Confidence,
    measured: Vec<(f64, bool)>,
    error_rate: f64,
    delta: f64,
) -> Option<Selected> {
    let counts = counts(confidence, measured);
    let starts = starts(counts.last()?.decided, error_rate, delta);
    let share = delta / STARTS as f64;
    let (mut before, mut budget, mut loosest) = (0, 0.0, None);
    for selected in counts {
        let started = starts.iter().filter(|m| before < **m && **m <= selected.decided).count();
        budget += share * started as f64;
        before = selected.decided;
        if budget > 0.0 && binomial_tail(selected.decided, selected.wrong, error_rate) < budget {
            loosest = Some(selected);
        } else {
            budget = 0.0;
        }
    }
    loosest
}

/// Counts at every threshold, from the strictest.
fn counts(confidence: Confidence, mut measured: Vec<(f64, bool)>) -> Vec<Selected> {
    measured.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut rest = measured.into_iter().peekable();
    let (mut decided, mut wrong) = (0, 0);
    let count = |threshold: f64| {
        while let Some((_, right)) = rest.next_if(|(confidence, _)| *confidence >= threshold) {
            decided += 1;
            wrong += usize::from(!right);
        }
        Selected { threshold, decided, wrong }
    };
    grid(confidence).map(count).collect()
}

/// The thresholds, whatever the data: down to 1/2 for probabilities and to 0 for contractions.
fn grid(confidence: Confidence) -> impl Iterator<Item = f64> {
    let lowest = match confidence {
        Confidence::Probability => STEPS / 2,
        Confidence::Contraction => 0,
    };
    (lowest..STEPS).rev().map(|step| step as f64 / STEPS as f64)
}

/// [`STARTS`] counts in geometric progression, from the fewest pairs that reject without an error to all `pairs`; none if
/// there are fewer pairs than that.
fn starts(pairs: usize, error_rate: f64, delta: f64) -> Vec<usize> {
    let least = ((delta / STARTS as f64).ln() / (-error_rate).ln_1p()).ceil();
    let ratio = pairs as f64 / least;
    let start = |i: usize| (least * ratio.powf(i as f64 / (STARTS - 1) as f64)).round() as usize;
    if ratio < 1.0 { Vec::new() } else { (0..STARTS).map(start).collect() }
}

/// P(Binomial(n, p) <= k) for 0 < p < 1, exact up to rounding.
///
/// Each probability over that of the mode follows from its neighbour's, so that nothing overflows. Those under the
/// smallest double count as 0.
fn binomial_tail(n: usize, k: usize, p: f64) -> f64 {
    let odds = p / (1.0 - p);
    let mode = (((n + 1) as f64 * p) as usize).min(n);
    let lower = |(i, term): &(usize, f64)| {
        (*i > 0 && *term > 0.0).then(|| (i - 1, term * *i as f64 / ((n - i + 1) as f64 * odds)))
    };
    let higher = |(i, term): &(usize, f64)| {
        (*i < n && *term > 0.0).then(|| (i + 1, term * (n - i) as f64 * odds / (i + 1) as f64))
    };
    let terms = successors(Some((mode, 1.0)), lower).chain(successors(Some((mode, 1.0)), higher).skip(1));
    let add = |(below, all): (f64, f64), (i, term)| (if i <= k { below + term } else { below }, all + term);
    let (below, all) = terms.fold((0.0, 0.0), add);
    below / all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Adds up all 2^n outcomes.
    fn enumerated(n: usize, k: usize, p: f64) -> f64 {
        let outcome = |bits: u32| {
            let ones = bits.count_ones() as i32;
            (ones as usize <= k).then(|| p.powi(ones) * (1.0 - p).powi(n as i32 - ones))
        };
        (0..1u32 << n).filter_map(outcome).sum()
    }

    #[test]
    fn tail_equals_the_enumeration_of_all_outcomes() {
        for n in 0..=10 {
            for (k, p) in (0..=n).flat_map(|k| [0.01, 0.1, 0.3, 0.49].map(|p| (k, p))) {
                assert!((binomial_tail(n, k, p) - enumerated(n, k, p)).abs() < 1e-13, "{n} {k} {p}");
            }
        }
    }

    #[test]
    fn tail_equals_rational_arithmetic() {
        // sum(comb(n, i) * p**i * (1 - p)**(n - i) for i in range(k + 1)), p = Fraction(...), in Python.
        for (n, k, p, want) in [
            (29, 0, 0.1, 0.04710128697246245),
            (100, 5, 0.1, 0.05757688648703381),
            (1000, 170, 0.2, 0.008888920670535655),
            (5000, 1400, 0.3, 0.001005078217540487),
            (300, 40, 0.05, 0.9999999929340964),
        ] {
            assert!((binomial_tail(n, k, p) / want - 1.0).abs() < 1e-11, "{n} {k} {p}");
        }
        assert_eq!(binomial_tail(100_000, 0, 0.1), 0.0);
        assert_eq!(binomial_tail(5000, 5000, 0.1), 1.0);
    }

    #[test]
    fn starts_go_from_the_fewest_pairs_that_can_reject_to_all() {
        assert!(starts(43, 0.1, 0.05).is_empty());
        assert_eq!(starts(44, 0.1, 0.05), [44; STARTS]);
        assert_eq!(starts(4400, 0.1, 0.05), [44, 139, 440, 1391, 4400]);
        let share = 0.05 / STARTS as f64;
        assert!(binomial_tail(44, 0, 0.1) < share && binomial_tail(43, 0, 0.1) > share);
    }

    #[test]
    fn a_budget_that_is_lost_comes_back_at_a_later_start() {
        // 10 wrong verdicts at the top, then right ones: the early starts fail, the last one passes.
        let measured = |right: usize| {
            let top = (0..10).map(|_| (0.9, false));
            top.chain((0..right).map(|i| (0.8 - 0.3 * i as f64 / right as f64, true))).collect()
        };
        let passed = loosest(Confidence::Probability, measured(990), 0.1, 0.05).unwrap();
        assert_eq!((passed.threshold, passed.decided, passed.wrong), (0.5, 1000, 10));
        assert_eq!(loosest(Confidence::Probability, measured(90), 0.1, 0.05), None);
    }
}

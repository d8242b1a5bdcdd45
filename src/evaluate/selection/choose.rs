//! The rule to recommend, chosen on the choice half alone.

use super::{Difference, PickShare, RulePairs, RuleSelection};
use crate::evaluate::Z;

/// Smallest lower end of the one-sided 80 % interval of a rule's accuracy on pairs minus the mean's.
pub const HARM_BOUND: f64 = -0.02;

/// Standard errors from the estimate to that end.
const ONE_SIDED_80: f64 = 0.841_621_233_572_914;

/// Chooses a rule by the choice half: the index of the one to recommend.
///
/// 1. A rule is admissible where it does no harm on the pairs of the choice half: the lower end of the one-sided 80 % interval of
///    its accuracy minus the first rule's is at least [`HARM_BOUND`]. At 95 %, a few hundred pairs would leave the mean alone
///    admissible, whatever the truth; the report has that interval on all pairs. Without pairs every rule is admissible; the
///    first rule always is.
/// 2. The best rule is the admissible one that picks most good answers among the trained kinds. The other kinds
///    are not counted: they show later whether the choice carries over to kinds of bad answers that it did not see.
/// 3. Of the admissible rules within one standard error of the best share, the one with the highest accuracy on the pairs of the
///    choice half is chosen: a difference below the standard error is mostly noise, and what answers without injected ones say decides
///    then. Equal accuracies, and data without pairs, leave the one listed first. Callers list the mean first and weaker penalties
///    before stronger ones.
///
/// The standard error is that of the best share alone. That of the paired difference is usually smaller, and would give stronger
/// penalties. Returns `None` where no prompt of the choice half has an injected answer of a trained kind.
///
/// # Panics
///
/// Unless `pairs` is empty or has the same rules.
pub fn choose<R>(rules: &[RuleSelection<R>], pairs: &[RulePairs<R>]) -> Option<usize> {
    assert!(pairs.is_empty() || pairs.len() == rules.len(), "rules with pairs");
    let harmless = |at: usize| {
        let accuracy = pairs.get(at).and_then(|pairs| pairs.accuracy.choice);
        accuracy.is_none_or(|accuracy| {
            let Difference { mean, interval: [low, high] } = accuracy.over_mean;
            mean - ONE_SIDED_80 * (high - low) / (2.0 * Z) >= HARM_BOUND
        })
    };
    let share = |at: usize| rules[at].measures.choice.picks.trained;
    let admissible: Vec<(usize, PickShare)> =
        (0..rules.len()).filter(|at| harmless(*at)).filter_map(|at| Some((at, share(at)?))).collect();
    let (_, best) = admissible.iter().max_by(|(_, a), (_, b)| a.share.total_cmp(&b.share))?;
    let least = best.share - standard_error(best);
    let accuracy =
        |at: usize| pairs.get(at).and_then(|of| Some(of.accuracy.choice?.over_mean.mean)).unwrap_or(0.0);
    let close = admissible.iter().filter(|(_, of)| of.share >= least).map(|(at, _)| *at);
    close.reduce(|first, next| if accuracy(next) > accuracy(first) { next } else { first })
}

/// Standard error of a share, from its Wilson interval: above 0 where every good answer is picked, too.
fn standard_error(share: &PickShare) -> f64 {
    (share.interval[1] - share.interval[0]) / (2.0 * Z)
}

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::{
    evaluate::{
        auroc::Auroc,
        bootstrap::bootstrap,
        fixture::assert_close,
        mean,
        pairs::{right, wilson},
    },
    shift::AnswerKind::{Code, Empty, Flattery, Refusal, Spam, Unsure},
};

fn real() -> ScoredAnswer {
    ScoredAnswer::default()
}

fn bad(kind: AnswerKind) -> ScoredAnswer {
    ScoredAnswer { kind: Some(kind), gold: None }
}

/// A prompt whose good answer is the first, with the scores of each rule.
fn prompt(key: &str, others: &[ScoredAnswer], scores: &[&[f64]]) -> ScoredPrompt {
    let answers = [&[real()], others].concat();
    let scores = scores.iter().map(|scores| scores.to_vec()).collect();
    ScoredPrompt { key: key.into(), answers, good: Some(0), scores, uncertainties: Vec::new() }
}

/// Measures of the rules, which have numbers as labels.
fn rules(prompts: &[ScoredPrompt]) -> Vec<RuleSelection<usize>> {
    let labels = |count: usize| -> Vec<usize> { (0..count).collect() };
    report(&labels(prompts[0].scores.len()), &labels(prompts[0].uncertainties.len()), prompts).rules
}

#[test]
fn the_first_byte_of_the_hash_decides_the_half() {
    // ca, 3e, 2e and 18 are even; e3, 3f, 25 and cd are odd.
    assert!(["a", "b", "c", "d"].iter().all(|key| Half::of(key) == Half::Choice));
    assert!(["", "e", "f", "g"].iter().all(|key| Half::of(key) == Half::Judged));
}

/// Two prompts of the choice half and one of the judged half, with the mean and another rule.
fn three() -> Vec<ScoredPrompt> {
    let others = [bad(Refusal), bad(Unsure), bad(Spam), bad(Code), real()];
    vec![
        prompt("a", &others, &[&[1.0, 2.0, 0.0, 0.5, 0.0, 0.0], &[1.0, 0.0, 1.0, 0.0, 0.0, 0.0]]),
        prompt("b", &others, &[&[1.0, 0.0, 0.0, 1.0, 2.0, 0.0], &[1.0, 0.0, 0.0, 0.0, 0.5, 3.0]]),
        prompt("e", &others[..1], &[&[1.0, 1.0], &[1.0, 0.0]]),
    ]
}

#[test]
fn picks_by_hand() {
    let rules = rules(&three());
    let shares = |at: usize, of: fn(&Picks) -> Option<PickShare>| {
        let measures = rules[at].measures;
        [measures.choice, measures.judged, measures.all].map(|half| of(&half.picks).map(|of| of.share))
    };
    assert_eq!(shares(0, |of| of.all), [Some(0.0), Some(0.5), Some(0.5 / 3.0)]);
    assert_eq!(shares(0, |of| of.without_refusals), [Some(0.5), None, Some(0.5)]);
    assert_eq!(shares(0, |of| of.trained), [Some(0.25), Some(0.5), Some(1.0 / 3.0)]);
    assert_eq!(shares(0, |of| of.untrained), [Some(0.5), None, Some(0.5)]);
    assert_eq!(shares(1, |of| of.all), [Some(0.25), Some(1.0), Some(0.5)]);
    assert_eq!(shares(1, |of| of.without_refusals), [Some(0.5), None, Some(0.5)]);
    assert_eq!(shares(1, |of| of.trained), [Some(1.0), Some(1.0), Some(1.0)]);
    assert_eq!(shares(1, |of| of.untrained), [Some(0.75), None, Some(0.75)]);

    let all = rules[1].measures.all.picks.all.unwrap();
    assert_eq!((all.prompts, all.interval), (3, wilson(0.5, 3.0)));
    assert_close(&[all.over_mean.mean], &[1.0 / 3.0], 1e-15);
    // Every one of the differences 1/2, 0 and 1/2 can be the only one in a resample.
    assert_eq!(all.over_mean.interval, [0.0, 0.5]);
    assert_eq!(rules[0].measures.all.picks.all.unwrap().over_mean.interval, [0.0; 2]);
    // The only prompt of the judged half ends in a tie with the good answer.
    assert_eq!(rules[0].lost_to, BTreeMap::new());
    let lost = self::rules(&[prompt("e", &[bad(Spam), bad(Code)], &[&[1.0, 2.0, 3.0], &[0.0, 2.0, 1.0]])]);
    assert_eq!(lost[0].lost_to, [(Code, 1)].into());
    assert_eq!(lost[1].lost_to, [(Spam, 1)].into());
}

#[test]
fn gold_by_hand() {
    let gold = |gold: f64| ScoredAnswer { kind: None, gold: Some(gold) };
    let pool = |key: &str, golds: [f64; 3], scores: [&[f64]; 2]| ScoredPrompt {
        key: key.into(),
        // The injected answer has no gold reward, and so cannot be chosen here.
        answers: golds.map(gold).into_iter().chain([bad(Spam)]).collect(),
        good: None,
        scores: scores.map(<[f64]>::to_vec).into(),
        uncertainties: Vec::new(),
    };
    let prompts = [
        pool("a", [3.0, 0.0, 0.0], [&[0.0, 1.0, 2.0, 9.0], &[5.0, 1.0, 2.0, 9.0]]),
        pool("e", [0.0, 4.0, 2.0], [&[0.0, 1.0, 1.0, 0.0], &[1.0, 0.0, 0.0, 0.0]]),
    ];
    let gains = [0, 1].map(|at: usize| rules(&prompts)[at].measures);
    let mean_of = |of: Option<GoldGain>| of.map(|of| (of.prompts, of.over_random.mean, of.over_mean.mean));
    // The choices have gold 0 and 3 by the mean, 3 and 0 by the other rule; random answers have 1 and 2.
    assert_eq!(mean_of(gains[0].choice.gold), Some((1, -1.0, 0.0)));
    assert_eq!(mean_of(gains[0].judged.gold), Some((1, 1.0, 0.0)));
    assert_eq!(mean_of(gains[1].all.gold), Some((2, 0.0, 0.0)));
    assert_eq!(gains[1].all.gold.unwrap().over_mean.interval, [-3.0, 3.0]);
    assert_eq!(gains[1].all.picks.all, None);
    assert_eq!(rules(&three())[0].measures.all.gold, None);
}

/// Every order of the indices.
fn orders(indices: &[usize]) -> Vec<Vec<usize>> {
    if indices.is_empty() {
        return vec![Vec::new()];
    }
    let with_first = |at: usize| {
        let mut rest = indices.to_vec();
        let first = rest.remove(at);
        orders(&rest).into_iter().map(move |order| [vec![first], order].concat())
    };
    (0..indices.len()).flat_map(with_first).collect()
}

/// Share of the orders in which the good answer is the first of those with the highest score.
fn share_of_orders(prompt: &ScoredPrompt, rule: usize, keep: fn(AnswerKind) -> bool) -> f64 {
    let kept = |at: &usize| prompt.answers[*at].kind.is_none_or(keep);
    let entrants: Vec<usize> = (0..prompt.answers.len()).filter(kept).collect();
    let first_best = |order: &Vec<usize>| {
        let scores = &prompt.scores[rule];
        order.iter().copied().reduce(|best, at| if scores[at] > scores[best] { at } else { best })
    };
    let orders = orders(&entrants);
    let wins = orders.iter().filter(|order| first_best(order) == prompt.good).count();
    wins as f64 / orders.len() as f64
}

/// Prompts with all kinds of ties, the good answer at any place, and two measures of uncertainty.
fn random_prompts(count: usize) -> Vec<ScoredPrompt> {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let kinds = [Refusal, Spam, Flattery, Code, Empty];
    let one = |at: usize| {
        let mut answers: Vec<ScoredAnswer> = kinds.map(bad).to_vec();
        let good = rng.random_range(0..=kinds.len());
        answers.insert(good, real());
        let mut draws = |values: i32| -> Vec<f64> {
            answers.iter().map(|_| f64::from(rng.random_range(0..values))).collect()
        };
        let scores = vec![draws(3), draws(4)];
        let uncertainties = [draws(5), draws(2)].map(|of| of.into_iter().map(Some).collect()).into();
        ScoredPrompt { key: format!("prompt {at}"), answers, good: Some(good), scores, uncertainties }
    };
    (0..count).map(one).collect()
}

/// Compares a share of each rule and half with the orders of the answers whose kinds are kept.
fn check_shares(of: fn(&Picks) -> Option<PickShare>, keep: fn(AnswerKind) -> bool) {
    let prompts = random_prompts(24);
    let rules = rules(&prompts);
    let shares = |rule, half: Option<Half>| -> Vec<f64> {
        let wanted = |prompt: &&ScoredPrompt| half.is_none_or(|half| Half::of(&prompt.key) == half);
        prompts.iter().filter(wanted).map(|prompt| share_of_orders(prompt, rule, keep)).collect()
    };
    for (rule, measures) in rules.iter().map(|of| of.measures).enumerate() {
        let ByHalf { choice, judged, all } = measures;
        for (got, half) in [(choice, Some(Half::Choice)), (judged, Some(Half::Judged)), (all, None)] {
            let (got, want, base) = (of(&got.picks).unwrap(), shares(rule, half), shares(0, half));
            assert_eq!(got.prompts, want.len());
            let difference: Vec<f64> = want.iter().zip(&base).map(|(a, b)| a - b).collect();
            assert_close(&[got.share, got.over_mean.mean], &[mean(&want), mean(&difference)], 1e-12);
            let interval = bootstrap(want.len(), 2000, 0, |drawn| {
                drawn.iter().map(|at| difference[*at]).sum::<f64>() / want.len() as f64
            });
            assert_close(&got.over_mean.interval, &interval, 1e-12);
        }
    }
}

#[test]
fn shares_are_those_over_all_orders_of_the_answers() {
    check_shares(|of| of.all, |_| true);
    check_shares(|of| of.without_refusals, |kind| kind != Refusal);
    check_shares(|of| of.trained, AnswerKind::trained);
    check_shares(|of| of.untrained, |kind| !kind.trained());
}

#[test]
fn aurocs_are_shares_of_couples() {
    let mut prompts = random_prompts(12);
    // An answer without an uncertainty has no part.
    let spam = prompts[0].answers.iter().position(|answer| answer.kind == Some(Spam)).unwrap();
    prompts[0].uncertainties[0][spam] = None;
    let report = report(&[0, 1], &["v", "w"], &prompts);
    let values = |measure: usize, kind: Option<AnswerKind>| -> Vec<f64> {
        let of = |prompt: &ScoredPrompt| {
            let at = prompt.answers.iter().position(|answer| answer.kind == kind).unwrap();
            prompt.uncertainties[measure][at]
        };
        prompts.iter().filter_map(of).collect()
    };
    for (measure, got) in report.uncertainties.iter().map(|of| &of.aurocs.all).enumerate() {
        let good = values(measure, None);
        assert_eq!(got.good, 12);
        let kinds: Vec<AnswerKind> = got.kinds.iter().map(|of| of.kind).collect();
        assert_eq!(kinds, [Refusal, Empty, Spam, Flattery, Code]);
        for of in &got.kinds {
            let positives = values(measure, Some(of.kind));
            let couples = positives.iter().flat_map(|p| good.iter().map(move |n| right(p - n)));
            assert_close(&[of.auroc.area], &[mean(&couples.collect::<Vec<_>>())], 1e-12);
            assert_eq!(Some(of.auroc), Auroc::of(&positives, &good));
            assert_eq!(of.answers, positives.len());
        }
        assert_eq!(got.kinds[2].answers, 12 - usize::from(measure == 0));
        let mean_of = |keep: fn(AnswerKind) -> bool| {
            let areas = got.kinds.iter().filter(|of| keep(of.kind)).map(|of| of.auroc.area);
            mean(&areas.collect::<Vec<_>>())
        };
        let means = [got.mean, got.trained, got.untrained].map(|of| of.unwrap().area);
        let want = [mean_of(|_| true), mean_of(AnswerKind::trained), mean_of(|kind| !kind.trained())];
        assert_close(&means, &want, 1e-12);
    }
}

#[test]
fn without_prompts_there_is_nothing_to_measure() {
    let report = report(&["mean"], &["v"], &[]);
    assert_eq!(report.prompts, ByHalf { choice: 0, judged: 0, all: 0 });
    assert_eq!((report.rules[0].measures.all.picks.all, report.rules[0].measures.all.gold), (None, None));
    assert_eq!(report.uncertainties[0].aurocs.all.mean, None);
    assert_eq!(choose(&report.rules, &[]), None);
}

#[test]
fn the_report_as_json() {
    let json = serde_json::to_value(report::<_, &str>(&["mean", "std"], &[], &three())).unwrap();
    assert_eq!(json["rules"][1]["rule"], "std");
    assert_eq!(json["rules"][1]["choice"]["picks"]["trained"]["share"], 1.0);
    assert_eq!(json["rules"][0]["judged"]["picks"]["untrained"], serde_json::Value::Null);
    assert_eq!(json["prompts"], serde_json::json!({"choice": 2, "judged": 1, "all": 3}));
}

#[test]
#[should_panic(expected = "the good answer is real")]
fn an_injected_answer_cannot_be_the_good_one() {
    report::<_, ()>(&[0], &[], &[ScoredPrompt { good: Some(1), ..prompt("a", &[bad(Spam)], &[&[0.0; 2]]) }]);
}

fn pair(key: &str, differences: &[f64]) -> ScoredPair {
    let rejected = vec![1.0; differences.len()];
    ScoredPair {
        key: key.into(),
        source: key.into(),
        chosen: differences.iter().map(|d| 1.0 + d).collect(),
        rejected,
    }
}

#[test]
fn pairs_by_hand() {
    let pairs = [pair("a", &[1.0, 0.0]), pair("a", &[-1.0, 2.0]), pair("b", &[1.0, -1.0])];
    let harm = harm(&["mean", "other"], &pairs);
    let [mean, other] = [0, 1].map(|at: usize| harm[at].accuracy.choice.unwrap());
    assert_eq!((mean.pairs, mean.accuracy), (3, 2.0 / 3.0));
    assert_eq!((other.accuracy, other.interval), (0.5, wilson(0.5, 3.0)));
    assert_close(&[other.over_mean.mean], &[-1.0 / 6.0], 1e-15);
    // The pairs of prompt a are drawn together: the differences -1/2 and 1 of a, or -1 of b.
    assert_close(&other.over_mean.interval, &[-1.0, 0.25], 1e-15);
    assert_eq!((harm[1].accuracy.judged, harm[1].accuracy.all), (None, Some(other)));
    assert_eq!(mean.over_mean, Difference { mean: 0.0, interval: [0.0; 2] });
    let of_sources = harm[1].sources.iter().map(|(source, of)| (source.as_str(), of.pairs, of.accuracy));
    assert_eq!(of_sources.collect::<Vec<_>>(), [("a", 2, 0.75), ("b", 1, 0.0)]);
}

/// Rules that pick this share of 100 good answers among trained kinds on the choice half.
fn with_shares(shares: &[f64]) -> Vec<RuleSelection<usize>> {
    let none = Picks { all: None, without_refusals: None, trained: None, untrained: None };
    let of = |(rule, share): (usize, &f64)| {
        let over_mean = Difference { mean: 0.0, interval: [0.0; 2] };
        let trained =
            Some(PickShare { prompts: 100, share: *share, interval: wilson(*share, 100.0), over_mean });
        let choice = RuleMeasures { picks: Picks { trained, ..none }, gold: None };
        let other = RuleMeasures { picks: none, gold: None };
        let measures = ByHalf { choice, judged: other, all: other };
        RuleSelection { rule, measures, lost_to: BTreeMap::new() }
    };
    shares.iter().enumerate().map(of).collect()
}

/// Accuracy on the pairs of the choice half, with this lower end of the difference.
fn with_bounds(bounds: &[Option<f64>]) -> Vec<RulePairs<usize>> {
    let of = |(rule, bound): (usize, &Option<f64>)| {
        let choice = bound.map(|bound| PairAccuracy {
            pairs: 10,
            accuracy: 0.6,
            interval: [0.5, 0.7],
            over_mean: Difference { mean: 0.0, interval: [bound, -bound] },
        });
        RulePairs { rule, accuracy: ByHalf { choice, judged: None, all: choice }, sources: BTreeMap::new() }
    };
    bounds.iter().enumerate().map(of).collect()
}

#[test]
fn the_weakest_rule_within_a_standard_error_of_the_best_is_chosen() {
    // The standard error of .9 of 100 is about .03.
    for (shares, want) in [
        (&[0.5, 0.7, 0.86, 0.9, 0.8][..], 3),
        (&[0.5, 0.7, 0.88, 0.9, 0.89], 2),
        (&[0.9, 0.9, 0.9], 0),
        (&[0.88, 0.9], 0),
        // Where all are picked the error is below one prompt of a hundred, and not 0.
        (&[0.5, 0.992, 1.0], 1),
        (&[0.5, 0.99, 1.0], 2),
    ] {
        assert_eq!(choose(&with_shares(shares), &[]), Some(want), "{shares:?}");
    }
}

#[test]
fn a_rule_that_may_do_harm_is_not_chosen() {
    let rules = with_shares(&[0.5, 0.7, 0.95]);
    for (bounds, want) in [
        // 0.8416 / 1.96 of these ends are 0.0198 and 0.0202.
        ([Some(0.0), Some(-0.01), Some(-0.046)], 2),
        ([Some(0.0), Some(-0.01), Some(-0.047)], 1),
        ([Some(0.0), Some(-0.5), Some(-0.5)], 0),
        ([None; 3], 2),
    ] {
        assert_eq!(choose(&rules, &with_bounds(&bounds)), Some(want), "{bounds:?}");
    }
}

#[test]
fn near_ties_are_decided_by_the_pairs() {
    let accuracies = |differences: [f64; 3]| -> Vec<RulePairs<usize>> {
        let mut pairs = with_bounds(&[Some(0.0); 3]);
        for (of, mean) in pairs.iter_mut().zip(differences) {
            let choice = of.accuracy.choice.as_mut().unwrap();
            choice.over_mean = Difference { mean, interval: [mean - 0.01, mean + 0.01] };
        }
        pairs
    };
    let rules = with_shares(&[0.88, 0.9, 0.7]);
    for (differences, want) in [([0.0, 0.01, 0.05], 1), ([0.0, 0.0, 0.0], 0), ([0.0, -0.005, 0.0], 0)] {
        assert_eq!(choose(&rules, &accuracies(differences)), Some(want), "{differences:?}");
    }
}

#[test]
fn the_choice_reads_only_the_trained_kinds_of_the_choice_half() {
    // The second rule wins on the choice half, the first on the judged one and among kinds that are not trained on.
    let others = [bad(Spam), bad(Code)];
    let prompts: Vec<ScoredPrompt> = ["a", "b", "c", "d"]
        .map(|key| prompt(key, &others, &[&[1.0, 2.0, 0.0], &[1.0, 0.0, 2.0]]))
        .into_iter()
        .chain(["e", "f", "g"].map(|key| prompt(key, &others, &[&[1.0, 0.0, 0.0], &[1.0, 2.0, 0.0]])))
        .collect();
    assert_eq!(choose(&rules(&prompts), &[]), Some(1));
}

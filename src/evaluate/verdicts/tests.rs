use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

/// A pair of a population: logit of the preferred answer, contraction, probability that the verdict is wrong.
type Drawn = (f64, f64, f64);

/// Draws pairs with logits that are exponential with mean 2, contractions that are uniform, and errors as given.
fn draw(rng: &mut ChaCha8Rng, error: fn(f64, f64) -> f64) -> Drawn {
    let [u, contraction] = [(); 2].map(|()| rng.random::<f64>());
    let logit = -2.0 * (1.0 - u).ln();
    (logit, contraction, error(logit, contraction))
}

fn held_out(rng: &mut ChaCha8Rng, count: usize, error: fn(f64, f64) -> f64) -> Vec<Verdict> {
    let verdict = |_| {
        let (logit, contraction, error) = draw(rng, error);
        let signed = if rng.random::<f64>() < error { -logit } else { logit };
        Verdict::new(signed, Some(contraction))
    };
    (0..count).map(verdict).collect()
}

/// Overconfident, as models are: the error rate falls with the logit, and is .25 over all.
fn overconfident(logit: f64, _: f64) -> f64 {
    sigmoid(-0.6 * logit)
}

/// Returns how many of 400 calibrations gave a rule, and how many gave one whose true error rate is above `error_rate`.
fn calibrations(error_rate: f64, error: fn(f64, f64) -> f64) -> (usize, usize) {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let population: Vec<Drawn> = (0..10_000).map(|_| draw(&mut rng, error)).collect();
    let true_error = |rule: &AbstentionRule| {
        let decides = |(logit, contraction, _): &&Drawn| rule.decides(sigmoid(*logit), Some(*contraction));
        let errors: Vec<f64> = population.iter().filter(decides).map(|(.., error)| *error).collect();
        crate::evaluate::mean(&errors)
    };
    let rules = (0..400).filter_map(|_| calibrate(&held_out(&mut rng, 400, error), error_rate));
    let errors: Vec<f64> = rules.map(|rule| true_error(&rule)).collect();
    (errors.len(), errors.iter().filter(|error| **error > error_rate).count())
}

#[test]
fn the_error_rate_is_exceeded_in_at_most_a_share_delta_of_draws() {
    // Three standard errors of a share of 400 draws.
    let most = 400.0 * DELTA + 3.0 * (400.0 * DELTA * (1.0 - DELTA)).sqrt();
    let (some, wrong) = calibrations(0.2, overconfident);
    assert!(some > 200 && (wrong as f64) < most, "{some} {wrong}");
    // Every rule is wrong: the error rate is too high at every threshold, or falls towards it from high contractions.
    let constant = calibrations(0.2, |_, _| 0.205);
    let falling = calibrations(0.2, |_, contraction| if contraction > 0.8 { 0.5 } else { 0.13 });
    for (some, wrong) in [constant, falling] {
        assert_eq!(some, wrong);
        assert!((1.0..most).contains(&(wrong as f64)), "{wrong}");
    }
}

#[test]
fn higher_error_rates_decide_more_pairs_and_the_surer_ones_first() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let verdicts = held_out(&mut rng, 2000, overconfident);
    let rules = [0.1, 0.15, 0.2, 0.3].map(|rate| calibrate(&verdicts, rate).unwrap());
    for pair in rules.windows(2) {
        assert!(pair[0].decided < pair[1].decided && pair[0].threshold > pair[1].threshold);
    }
    for rule in rules {
        let decided = verdicts.iter().filter(|v| rule.decides(v.probability, v.contraction));
        let wrong = decided.clone().filter(|v| !v.right).count();
        assert_eq!((decided.count(), wrong), (rule.decided, rule.wrong));
        assert_eq!((rule.confidence, rule.pairs, rule.delta), (Confidence::Probability, 2000, DELTA));
        assert!((rule.wrong as f64) < rule.error_rate * rule.decided as f64);
        assert!(rule.decides(rule.threshold, None) && !rule.decides(rule.threshold - 1e-3, Some(1.0)));
    }
}

#[test]
fn the_measure_that_decides_more_pairs_is_taken() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let verdicts = held_out(&mut rng, 1000, |_, contraction| 0.6 * (1.0 - contraction));
    let rule = calibrate(&verdicts, 0.1).unwrap();
    assert_eq!(rule.confidence, Confidence::Contraction);
    assert!(rule.decides(0.5, Some(0.99)) && !rule.decides(1.0, Some(0.1)) && !rule.decides(1.0, None));
    let without: Vec<Verdict> = verdicts.iter().map(|v| Verdict { contraction: None, ..*v }).collect();
    assert_eq!(calibrate(&without, 0.1), None);
    assert_eq!(calibrate(&without, 0.4).map(|rule| rule.confidence), Some(Confidence::Probability));
}

#[test]
fn held_out_pairs_that_support_nothing_give_no_rule() {
    let ties = vec![Verdict::new(0.0, None); 1000];
    let few = vec![Verdict::new(9.0, Some(1.0)); 43];
    for verdicts in [vec![], ties, few.clone()] {
        assert_eq!(calibrate(&verdicts, 0.1), None);
    }
    // A confidence of 1 is above every threshold; one right pair more, and all are decided.
    let enough = [few, vec![Verdict::new(0.1, None)]].concat();
    let rule = calibrate(&enough, 0.1).unwrap();
    assert_eq!((rule.threshold, rule.decided, rule.wrong), (0.5, 44, 0));
}

#[test]
fn a_verdict_is_an_array_of_rounded_numbers() {
    let verdict = Verdict::new(-1.5, Some(0.123_456_789));
    assert_eq!(verdict, Verdict { probability: 0.817_574, contraction: Some(0.123_457), right: false });
    assert_eq!(Verdict::new(0.0, None), Verdict { probability: 0.5, contraction: None, right: false });
    assert_eq!(Verdict::new(1e4, None), Verdict { probability: 1.0, contraction: None, right: true });
    let verdicts = [verdict, Verdict::new(0.3, None)];
    let json = serde_json::to_string(&verdicts).unwrap();
    assert_eq!(json, "[[0.817574,0.123457,false],[0.574443,null,true]]");
    assert_eq!(serde_json::from_str::<Vec<Verdict>>(&json).unwrap(), verdicts);
}

#[test]
fn a_report_counts_as_a_whole_and_by_source() {
    let rule = AbstentionRule {
        confidence: Confidence::Probability,
        threshold: 0.7,
        pairs: 100,
        decided: 80,
        wrong: 3,
        error_rate: 0.1,
        delta: DELTA,
    };
    let verdicts = [2.0, -2.0, 0.1, 1.0, 0.0].map(|logit| Verdict::new(logit, None));
    let report = rule.report(&verdicts, &["a", "a", "b", "a", "b"]);
    let all = report.all.unwrap();
    assert_eq!((all.pairs, all.decided, all.wrong, all.coverage), (5, 3, 1, 0.6));
    assert_eq!((all.error, all.interval), (Some(1.0 / 3.0), Some(wilson(1.0 / 3.0, 3.0))));
    assert_eq!((report.by_source["a"].coverage, report.by_source["a"].wrong), (1.0, 1));
    let b = report.by_source["b"];
    assert_eq!((b.pairs, b.decided, b.coverage, b.error, b.interval), (2, 0, 0.0, None, None));
    assert_eq!(rule.report(&[], &[]).all, None);
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["rule"]["confidence"], "probability");
    assert!(json["by_source"]["b"]["error"].is_null());
}

#[test]
fn an_error_rate_is_between_0_and_one_half() {
    assert!([0.001, 0.1, 0.499].into_iter().all(|rate| check(rate).is_ok()));
    for rate in [0.0, -0.1, 0.5, 1.0, f64::NAN, f64::INFINITY] {
        assert!(check(rate).unwrap_err().to_string().contains("error_rate"), "{rate}");
    }
}

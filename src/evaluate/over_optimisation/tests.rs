use super::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Proxies that are wrong by as much as they say; the worse the answer the less is known of it.
fn pools(prompts: usize, answers: usize) -> (Vec<Vec<Seen>>, Vec<Vec<f64>>) {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut normal = || (0..12).map(|_| rng.random_range(-0.5..0.5)).sum::<f64>();
    let gold: Vec<Vec<f64>> = (0..prompts).map(|_| (0..answers).map(|_| normal()).collect()).collect();
    let mut see = |gold: &Vec<f64>| {
        let std: Vec<f64> = gold.iter().map(|g| 0.1 + 4.0 * f64::from(*g < 0.5)).collect();
        let means: Vec<f64> = gold.iter().zip(&std).map(|(g, s)| g + s * normal()).collect();
        let mut covariance = vec![0.0; answers * answers];
        std.iter().enumerate().for_each(|(i, s)| covariance[i * answers + i] = s * s);
        let pool = Pool::new(means.clone()).with_covariance(&covariance).with_ensemble(&[&means]);
        Seen { head: pool.clone(), total: None, pool, means }
    };
    let seen = (0..2).map(|_| gold.iter().map(&mut see).collect()).collect();
    (seen, gold)
}

#[test]
fn a_penalty_on_known_errors_helps_and_is_chosen() {
    let (seen, gold) = pools(20, 32);
    let report = compare(&seen, &gold, &[0.0, 0.3, 1.0, 3.0], 0);
    assert_eq!((report.n.len(), report.n[5]), (6, 32));
    let judged = |family| report.judged.iter().find(|judged| judged.family == family).unwrap();
    assert!(judged(Family::Std).k.iter().all(|k| *k > 0.0));
    assert!(judged(Family::Std).above_mean.interval[5][0] > 0.0);
    assert_eq!(judged(Family::Mean).above_mean.value, vec![0.0; 6]);
    assert!(report.error_found[0].value > 0.05, "{:?}", report.error_found);
    // What is certain here is good.
    let [certainty, _] = report.certainty;
    assert!(certainty.interval[0] > 0.0 && certainty.interval[1] >= certainty.value, "{certainty:?}");
}

#[test]
fn without_a_penalty_a_rule_is_the_mean_and_one_answer_is_a_random_one() {
    let (seen, gold) = pools(6, 8);
    let report = compare(&seen, &gold, &[0.0], 0);
    let of = |family| report.runs.iter().find(|run| run.family == family).unwrap();
    assert_eq!(of(Family::Std).gold.value, of(Family::Mean).gold.value);
    assert!(of(Family::Mean).gold.value[0].abs() < 1e-12);
}

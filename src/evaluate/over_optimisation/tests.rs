use super::*;
use crate::evaluate::fixture::assert_close;
use rand::Rng;

/// Proxies that are wrong by as much as they say; the worse the answer the less is known of it.
fn pools(prompts: usize, answers: usize) -> (Vec<Vec<Joint>>, Vec<Vec<f64>>) {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut normal = || (0..12).map(|_| rng.random_range(-0.5..0.5)).sum::<f64>();
    let gold: Vec<Vec<f64>> = (0..prompts).map(|_| (0..answers).map(|_| normal()).collect()).collect();
    let mut see = |gold: &Vec<f64>| {
        let std: Vec<f64> = gold.iter().map(|g| 0.1 + 4.0 * f64::from(*g < 0.5)).collect();
        let means: Vec<f64> = gold.iter().zip(&std).map(|(g, s)| g + s * normal()).collect();
        let mut covariance = vec![0.0; answers * answers];
        std.iter().enumerate().for_each(|(i, s)| covariance[i * answers + i] = s * s);
        let head_variances = std.iter().map(|s| s * s).collect();
        Joint { means, head_variances, covariance }
    };
    let joints = (0..2).map(|_| gold.iter().map(&mut see).collect()).collect();
    (joints, gold)
}

#[test]
fn a_penalty_on_known_errors_helps_and_is_chosen() {
    let (joints, gold) = pools(20, 32);
    let report = compare(joints.clone(), &gold, &[0.0, 0.3, 1.0, 3.0], 0);
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
    let (joints, gold) = pools(6, 8);
    let report = compare(joints.clone(), &gold, &[0.0], 0);
    let of = |family| report.runs.iter().find(|run| run.family == family).unwrap();
    assert_eq!(of(Family::Std).gold.value, of(Family::Mean).gold.value);
    assert!(of(Family::Mean).gold.value[0].abs() < 1e-12);
}

/// Rewards that vary together, of two proxies.
fn correlated(answers: usize) -> (Vec<Vec<Joint>>, Vec<Vec<f64>>) {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let mut number = || rng.random_range(-1.0..1.0);
    let mut joint = || {
        let factors: Vec<[f64; 3]> = (0..answers).map(|_| [number(), number(), number()]).collect();
        let dot = |at: usize| {
            let (a, b) = (factors[at / answers], factors[at % answers]);
            a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>()
        };
        let covariance: Vec<f64> = (0..answers * answers).map(dot).collect();
        let head_variances = covariance.iter().step_by(answers + 1).map(|v| 0.3 * v).collect();
        Joint { means: (0..answers).map(|_| number()).collect(), head_variances, covariance }
    };
    let joints = (0..2).map(|_| vec![joint()]).collect();
    (joints, vec![(0..answers).map(|_| number()).collect()])
}

/// The gold of what a rule chooses out of n answers, averaged over all sets of n, each a pool of its own.
fn enumerated(joints: &[Vec<Joint>], gold: &[f64], n: usize, scores: impl Fn(&[Joint]) -> Vec<f64>) -> f64 {
    let of_set = |mask: u32| {
        let set: Vec<usize> = (0..gold.len()).filter(|i| mask >> i & 1 == 1).collect();
        let pick = |values: &[f64]| set.iter().map(|i| values[*i]).collect::<Vec<f64>>();
        let of = |joint: &Joint| Joint {
            means: pick(&joint.means),
            head_variances: pick(&joint.head_variances),
            covariance: set.iter().flat_map(|i| pick(&joint.covariance[i * gold.len()..])).collect(),
        };
        let scores = scores(&joints.iter().map(|joints| of(&joints[0])).collect::<Vec<_>>());
        let best = scores.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
        gold[set[best]]
    };
    let sets = (0..1u32 << gold.len()).filter(|mask| mask.count_ones() as usize == n);
    mean(&sets.map(of_set).collect::<Vec<_>>()) - mean(gold)
}

fn relative(joint: &Joint) -> Vec<f64> {
    Rule::RelativeStd(2.0).scores(&Pool::new(joint.means.clone()).with_covariance(&joint.covariance)).unwrap()
}

fn gold_of(report: &Report, family: Family) -> &[f64] {
    &report.runs.iter().find(|run| run.family == family).unwrap().gold.value
}

#[test]
fn what_compares_answers_compares_those_that_there_are() {
    let (joints, gold) = correlated(8);
    let report = compare(joints.clone(), &gold, &[2.0], 0);
    assert_eq!(report.n, [1, 2, 4, 8]);
    let members = |joints: &[Joint]| joints.iter().map(|of| of.means.clone()).collect::<Vec<_>>();
    let worst = |joints: &[Joint]| {
        let (members, zero) = (members(joints), vec![0.0; joints[0].means.len()]);
        let members: Vec<&[f64]> = members.iter().map(Vec::as_slice).collect();
        Rule::WorstCase.scores(&Pool::new(zero).with_ensemble(&members)).unwrap()
    };
    let total = |joints: &[Joint]| {
        let members: Vec<(&[f64], &[f64])> =
            joints.iter().map(|of| (&of.means[..], &of.covariance[..])).collect();
        Rule::RelativeStd(2.0).scores(&Pool::of_members(&members)).unwrap()
    };
    let want = |scores: &dyn Fn(&[Joint]) -> Vec<f64>| -> Vec<f64> {
        report.n.iter().map(|n| enumerated(&joints, &gold[0], *n, scores)).collect()
    };
    let each = [0, 1].map(|p| want(&|joints| relative(&joints[p])));
    let both: Vec<f64> = each[0].iter().zip(&each[1]).map(|(a, b)| (a + b) / 2.0).collect();
    assert_close(gold_of(&report, Family::RelativeStd), &both, 1e-12);
    assert_close(gold_of(&report, Family::WorstCase), &want(&worst), 1e-12);
    assert_close(gold_of(&report, Family::RelativeTotalStd), &want(&total), 1e-12);
    // Two answers are as uncertain as each other beside their mean: a relative penalty changes nothing.
    assert!((gold_of(&report, Family::RelativeStd)[1] - gold_of(&report, Family::Mean)[1]).abs() < 1e-12);
}

#[test]
fn sets_at_random_are_close_to_all_of_them() {
    let (mut joints, gold) = correlated(14);
    joints.truncate(1);
    let report = compare(joints.clone(), &gold, &[2.0], 0);
    let spread = mean(&gold[0].iter().map(|g| g * g).collect::<Vec<f64>>()).sqrt();
    for (n, got) in report.n.iter().zip(gold_of(&report, Family::RelativeStd)) {
        let want = enumerated(&joints, &gold[0], *n, |joints| relative(&joints[0]));
        // 256 sets have a standard error of a sixteenth.
        assert!((got - want).abs() < 4.0 * spread / 16.0, "{n}: {got} is not {want}");
    }
}

#[test]
fn the_proxy_of_an_ensemble_is_the_mean_of_its_members() {
    let (joints, gold) = correlated(8);
    let report = compare(joints.clone(), &gold, &[0.0], 0);
    let of_all = report.runs.iter().find(|run| run.family == Family::EnsembleMean).unwrap();
    let [a, b] = [0, 1].map(|p| &joints[p][0].means);
    let average: Vec<f64> = a.iter().zip(b).map(|(a, b)| (a + b) / 2.0).collect();
    let most = average.iter().copied().fold(f64::MIN, f64::max);
    assert!((of_all.proxy.value[3] - (most - mean(&average))).abs() < 1e-12);
}

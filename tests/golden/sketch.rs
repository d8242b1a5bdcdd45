//! The joint posterior on the fixtures' models: against the exact one, in selection, and on disk.

use super::{CASES, Case};
use candle_core::DType;
use rayon::iter::{ParallelBridge, ParallelIterator};
use rewarden::{
    fidelity::{Comparison, Row},
    fit::{Fit, Fitted, Options, Size},
    model::RewardModel,
    nn::pack::Packed,
    posterior::{
        Posterior, Prior,
        fit::{CurvatureKind, Rank},
    },
    score::{
        Embed, Estimate, Score, Scorer, Sharing, Want, ensemble::Ensemble, penalty::Penalty, with_variances,
    },
    text::TokenSeq,
};
use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicBool},
};

const PRIOR: Prior = Prior::PerKind { a: 0.5, b: 3.0, head: 20.0 };
/// More features than any case has parameters: nothing is projected away.
const LOSSLESS: usize = 12_000;

fn fit(case: &Case, model: &RewardModel, features: usize, groups: usize) -> Fitted {
    let fit = Fit {
        model,
        examples: &case.examples(),
        mean: &BTreeMap::new(),
        options: Options {
            curvature: CurvatureKind::Sketch,
            rank: Rank::Full,
            size: Size { features, groups, seed: 3 },
            prior: PRIOR,
            label_noise: 0.0,
            batch_tokens: 300,
        },
        checkpoints: None,
        stop: &AtomicBool::new(false),
    };
    fit.run(&mut |_| {}).unwrap().unwrap()
}

#[test]
fn posteriors_are_as_close_to_the_exact_one_as_they_were() {
    // The longest of all tests here: each case on a core of its own.
    Case::all().par_bridge().for_each(|case| {
        let model = case.model(DType::F32);
        let examples = case.examples();
        let comparison = Comparison {
            model: &model,
            pairs: &examples,
            test: &examples[..examples.len().min(6)],
            mean: &BTreeMap::new(),
            sketches: vec![(LOSSLESS, 2), (256, 1), (256, 2)],
            kronecker: true,
        };
        let tables = comparison.run(&[1.0, 0.1]).unwrap();
        for table in tables {
            let row = |name: &str| -> &Row {
                table.rows.iter().find(|row| row.posterior.starts_with(name)).unwrap()
            };
            let what = format!("{}, {}", case.folder.display(), table.factor);
            let exact = row(&format!("sketch, {LOSSLESS} features"));
            for closeness in [exact.single, exact.difference] {
                assert!(closeness.log_ratio < 1e-3, "{what}: {closeness:?} {:?}", table.prior_precision);
            }
            let sketch = row("sketch, 256 features in 1").difference;
            assert!(sketch.log_ratio < 0.3, "{what}: {sketch:?}");
            assert!(row("exact head").single.ratio <= 1.0, "{what}");
            let ekfac = row("ekfac").single.ratio / row("exact blocks").single.ratio;
            assert!((0.5..2.0).contains(&ekfac), "{what}: {ekfac}");
        }
    });
}

#[test]
fn a_selection_by_a_sketch_finds_the_best_of_all_scores() {
    for case in Case::all() {
        let model = case.model(DType::F32);
        let posterior = fit(&case, &model, 64, 2).posterior;
        let mut scorer = Scorer::new(model, Some(posterior), Sharing::Shared);
        for pool in case.pools() {
            let pool: Vec<&TokenSeq> = pool.iter().collect();
            let all = scorer.score(&pool, Want::MeanAndVariance).unwrap();
            for penalty in [
                Penalty::std(0.3),
                Penalty::std(3.0),
                Penalty::variance(0.5),
                Penalty::Contraction { k: 4.0, spread: 0.8, threshold: 0.0 },
                Penalty::Shrink { baseline: -1.0 },
                Penalty::Kl { beta: 0.5 },
            ] {
                let score = |estimate: &Estimate| penalty.score(estimate);
                let best = all.iter().map(score).fold(f64::MIN, f64::max);
                let selected = scorer.best_of(&pool, penalty, 1).unwrap();
                let found = score(&all[selected.index]);
                assert!((found - best).abs() <= 1e-4 * best.abs().max(1.0), "{found} is not {best}");
            }
        }
    }
}

#[test]
fn embeddings_have_the_variances_of_rewards_and_of_pairs() {
    for case in Case::all() {
        for sketched in [true, false] {
            let model = case.model(DType::F32);
            let posterior =
                if sketched { fit(&case, &model, 64, 2).posterior } else { super::posterior(&case, &model) };
            let examples = case.examples();
            let mut scorer = Scorer::new(model.clone(), Some(posterior.clone()), Sharing::Shared);
            let sides: Vec<&TokenSeq> =
                examples.iter().take(4).flat_map(|e| [&e.chosen, &e.rejected]).collect();
            let embedded = scorer.embed(&sides).unwrap();
            let scored = scorer.score(&sides, Want::MeanAndVariance).unwrap();
            // Separate blocks are projected to 4096 features.
            let tolerance = if sketched { 1e-4 } else { 0.15 };
            for (embedding, estimate) in embedded.iter().zip(scored) {
                assert!((embedding.mean - estimate.mean).abs() < 1e-4);
                let (got, want) = (embedding.estimate().contraction.unwrap(), estimate.contraction.unwrap());
                assert!((got - want).abs() < 1e-4, "{got} is not {want}");
                let (got, want) = (embedding.covariance(embedding), estimate.variance.unwrap());
                assert!((got / want - 1.0).abs() < tolerance, "{got} is not {want}");
                assert!(embedding.head_variance > 0.0 && embedding.head_variance < want);
            }
            for (pair, example) in embedded.chunks_exact(2).zip(&examples) {
                let packed = Packed::pairs([(&example.chosen, &example.rejected)]);
                let exact = with_variances(&model, &posterior, &packed, 2).unwrap().1[0];
                let (got, want) = (pair[0].difference_variance(&pair[1]), exact.variance.unwrap());
                assert!((got / want - 1.0).abs() < tolerance.max(1e-3), "{got} is not {want}");
                // Posterior and prior are projected alike, so that most of the error cancels.
                let (got, want) =
                    (pair[0].difference_contraction(&pair[1]).unwrap(), exact.contraction.unwrap());
                let tolerance = if sketched { 1e-4 } else { 0.03 };
                assert!((got - want).abs() < tolerance, "{got} is not {want}");
            }
        }
    }
}

#[test]
fn a_sketch_survives_the_disk() {
    assert!(!CASES.is_empty());
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("posterior.safetensors");
    for case in Case::all() {
        let model = case.model(DType::F32);
        let Fitted { posterior, evidence, traces, .. } = fit(&case, &model, 64, 2);
        assert!(evidence.effective_parameters.values().all(|gamma| *gamma > 0.0));
        assert!(traces.values().all(|trace| *trace > 0.0));
        posterior.save(&path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let loaded = Posterior::load(&path).unwrap();
        loaded.save(&path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
        let (_, sequences) = case.inputs();
        let packed = Packed::sequences(&sequences);
        let of = |posterior: &Posterior| with_variances(&model, posterior, &packed, 1).unwrap().1;
        for (got, want) in of(&loaded).iter().zip(of(&posterior)) {
            let ratio = got.variance.unwrap() / want.variance.unwrap();
            assert!((ratio - 1.0).abs() < 1e-4, "{got:?} is not {want:?}");
            assert!((got.contraction.unwrap() - want.contraction.unwrap()).abs() < 1e-4);
        }
    }
}

#[test]
fn an_ensemble_is_its_members_and_what_they_differ_by() {
    for case in Case::all() {
        let of = |posterior| Arc::new(Scorer::new(case.model(DType::F32), posterior, Sharing::Shared));
        let model = case.model(DType::F32);
        let (a, b) =
            (of(Some(super::posterior(&case, &model))), of(Some(fit(&case, &model, 64, 2).posterior)));
        let (_, sequences) = case.inputs();
        let batch: Vec<&TokenSeq> = sequences.iter().collect();
        let want = Want::MeanAndVariance;
        let members = [a.estimates(&batch, want).unwrap(), b.estimates(&batch, want).unwrap()];
        let together =
            Ensemble::new(vec![Arc::clone(&a), Arc::clone(&b)]).unwrap().score(&batch, want).unwrap();
        for (i, got) in together.iter().enumerate() {
            // One adapter: nothing is disputed.
            let variance = (members[0][i].variance.unwrap() + members[1][i].variance.unwrap()) / 2.0;
            assert!((got.variance.unwrap() / variance - 1.0).abs() < 1e-6);
            assert!((got.mean - members[0][i].mean).abs() < 1e-6);
            let prior = |e: &Estimate| e.variance.unwrap() / (1.0 - e.contraction.unwrap());
            let contraction = 1.0 - 2.0 * variance / (prior(&members[0][i]) + prior(&members[1][i]));
            assert!((got.contraction.unwrap() - contraction).abs() < 1e-6);
        }
        let message = Ensemble::new(vec![a, of(None)]).unwrap_err().to_string();
        assert!(message.contains("1 of 2 members of an ensemble have a posterior"), "{message}");
    }
}

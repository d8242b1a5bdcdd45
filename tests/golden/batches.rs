//! What must not matter: the batch that a sequence is in, the backend, and the memory; and what a selection may not change.

use super::{CASES, Case, by_block, posterior};
use candle_core::{DType, Tensor};
use proptest::{prop_assert, prop_assert_eq};
use rand::{SeedableRng, seq::SliceRandom};
use rewarden::{
    model::{RewardModel, sink::Jacobians},
    nn::pack::Packed,
    posterior::Posterior,
    score::{Estimate, Score, Scorer, Sharing, Want, penalty::Penalty, with_variances},
    text::TokenSeq,
};
use std::collections::BTreeMap;

impl Case {
    fn scorer(&self, sharing: Sharing) -> Scorer {
        let model = self.model(DType::F32);
        let posterior = posterior(self, &model);
        Scorer::new(model, Some(posterior), sharing)
    }

    /// The tokens of each group of candidates.
    pub(super) fn pools(&self) -> Vec<Vec<TokenSeq>> {
        let (ids, sequences) = self.inputs();
        let expected = self.json("expected.json");
        let member = |id: &serde_json::Value| {
            sequences[ids.iter().position(|known| known == id.as_str().unwrap()).unwrap()].clone()
        };
        let groups = expected["groups"].as_array().unwrap();
        groups.iter().map(|group| group["ids"].as_array().unwrap().iter().map(member).collect()).collect()
    }
}

fn close(got: f64, want: f64, tolerance: f64) -> bool {
    (got - want).abs() <= tolerance * want.abs().max(1.0)
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 12, ..Default::default() })]
    #[test]
    fn a_score_does_not_depend_on_its_batch(seed in 0u64..1000, parts in 1usize..6) {
        let case = Case::all().nth(seed as usize % CASES.len()).unwrap();
        let (_, sequences) = case.inputs();
        let mut order: Vec<usize> = (0..sequences.len()).collect();
        order.shuffle(&mut rand_chacha::ChaCha8Rng::seed_from_u64(seed));
        for sharing in [Sharing::Shared, Sharing::Alone] {
            let mut scorer = case.scorer(sharing);
            for want in [Want::Mean, Want::MeanAndVariance] {
                for part in order.chunks(sequences.len().div_ceil(parts)) {
                    let batch: Vec<&TokenSeq> = part.iter().map(|i| &sequences[*i]).collect();
                    let together = scorer.score(&batch, want).unwrap();
                    for (sequence, got) in batch.into_iter().zip(together) {
                        let alone = scorer.score(&[sequence], want).unwrap()[0];
                        if sharing == Sharing::Alone {
                            prop_assert_eq!(got, alone);
                        }
                        prop_assert!(close(got.mean, alone.mean, 1e-5));
                        let variances = got.variance.zip(alone.variance);
                        prop_assert!(variances.is_none_or(|(got, alone)| close(got, alone, 1e-5)));
                    }
                }
            }
        }
    }
}

/// Candle's operations in f64 against the fused kernels in f32, on every case.
#[test]
fn the_backends_agree() {
    for case in Case::all() {
        let (fused, portable) = (case.model(DType::F32), case.model(DType::F64));
        let posterior = posterior(&case, &fused);
        let (_, sequences) = case.inputs();
        let packed = Packed::sequences(&sequences);
        for (got, want) in fused.rewards(&packed).unwrap().iter().zip(portable.rewards(&packed).unwrap()) {
            assert!(close(*got, want, 1e-4), "{got} is not {want}");
        }
        let got = by_block(&fused, &posterior, &sequences);
        for (name, want) in variances_by_features(&portable, &posterior, &packed) {
            for (got, want) in got[&name].iter().zip(want) {
                assert!((got - want).abs() <= 1e-3 * want + 1e-9, "{name}: {got} is not {want}");
            }
        }
    }
}

/// The diagonal of each block's covariance, which goes through its features.
fn variances_by_features(
    model: &RewardModel,
    posterior: &Posterior,
    packed: &Packed,
) -> BTreeMap<String, Vec<f64>> {
    let mut variances = BTreeMap::new();
    let mut sink = Jacobians::new(packed, |name: &str, jacobians: &Tensor| {
        let covariance = posterior.blocks().unwrap()[name].covariance(jacobians)?;
        let diagonal = covariance.iter().enumerate().map(|(i, row)| row[i]).collect::<Vec<f64>>();
        variances.insert(name.to_owned(), diagonal);
        Ok(())
    });
    let trace = model.forward(packed).unwrap();
    model.backward(&trace, &vec![1.0; packed.pooled.len()], &mut sink).unwrap();
    variances
}

/// Half precision on every family: what is rounded is close, and gradients come in f32.
#[test]
fn half_precision_is_close() {
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let error = |got: &[f64], want: &[f64]| {
        norm(&mut got.iter().zip(want).map(|(a, b)| a - b)) / norm(&mut want.iter().copied())
    };
    for case in Case::all() {
        let exact = case.model(DType::F32);
        let posterior = posterior(&case, &exact);
        let packed = Packed::sequences(&case.inputs().1);
        let (means, variances) = with_variances(&exact, &posterior, &packed, 1).unwrap();
        for (dtype, bound) in [(DType::BF16, 0.05), (DType::F16, 0.01)] {
            let model = case.model(dtype);
            let (rounded, rounded_variances) = with_variances(&model, &posterior, &packed, 1).unwrap();
            let of = |estimates: &[Estimate]| estimates.iter().filter_map(|e| e.variance).collect::<Vec<_>>();
            let errors = [error(&rounded, &means), error(&of(&rounded_variances), &of(&variances))];
            let what = case.folder.display();
            assert!(errors.iter().all(|e| *e > 0.0 && *e < bound), "{what}: {dtype:?} {errors:?}");
            let mut sink = Jacobians::new(&packed, |_, j| {
                assert_eq!(j.dtype(), DType::F32);
                Ok(())
            });
            let trace = model.forward(&packed).unwrap();
            model.backward(&trace, &vec![1.0; packed.pooled.len()], &mut sink).unwrap();
        }
    }
}

#[test]
fn activations_that_are_computed_again_are_the_same() {
    for case in Case::all() {
        let mut model = case.model(DType::F32);
        let posterior = posterior(&case, &model);
        let (_, sequences) = case.inputs();
        let packed = Packed::sequences(&sequences);
        let variances = |model: &RewardModel| with_variances(model, &posterior, &packed, 1).unwrap();
        let want = variances(&model);
        for bytes in [0, 1 << 14, 1 << 16] {
            model.keep_activations(bytes);
            assert_eq!(variances(&model), want, "{bytes} bytes");
        }
    }
}

#[test]
fn a_selection_finds_the_best_of_all_scores() {
    for case in Case::all() {
        let mut scorer = case.scorer(Sharing::Shared);
        for pool in case.pools() {
            // One candidate twice: the first of the two counts.
            let pool: Vec<&TokenSeq> = pool.iter().chain(&pool[..1]).collect();
            let all = scorer.score(&pool, Want::MeanAndVariance).unwrap();
            for penalty in [
                Penalty::std(0.5),
                Penalty::std(1.0),
                Penalty::std(3.0),
                Penalty::variance(0.2),
                Penalty::Contraction { k: 2.0, spread: 0.8, threshold: 0.0 },
                Penalty::Contraction { k: 9.0, spread: 0.8, threshold: 0.5 },
                Penalty::Shrink { baseline: -2.0 },
                Penalty::Kl { beta: 0.3 },
                Penalty::None,
            ] {
                let score = |estimate: &Estimate| penalty.score(estimate);
                let best = all.iter().map(score).fold(f64::MIN, f64::max);
                let selected = scorer.best_of(&pool, penalty, 1).unwrap();
                assert!(close(score(&all[selected.index]), best, 1e-5), "{penalty:?}");
                assert!(close(selected.rated.score, best, 1e-5), "{penalty:?}");
                assert!(selected.index + 1 < pool.len(), "of equals the first");
                assert!(selected.work.layers <= selected.work.of);
            }
        }
    }
}

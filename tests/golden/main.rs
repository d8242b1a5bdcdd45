//! Numbers of PyTorch, transformers and peft (`tests/fixtures`) against those of the engine, tensor by tensor.

use candle_core::{DType, Device, Tensor};
use rewarden::{
    data,
    fit::{Fit, Options, Size},
    item::Input,
    model::{
        RewardModel,
        adapter::Adapter,
        checkpoint::Checkpoint,
        sink::{Gradients, Jacobians},
    },
    nn::pack::Packed,
    posterior::{
        Posterior, Prior, Target,
        fit::{CurvatureKind, Rank},
    },
    score::{Scorer, Sharing, Want, with_variances},
    text::{Limit, TokenSeq},
    train::{
        Example, Trainer,
        loss::{Loss, sigmoid},
        optim::{AdamW, Schedule},
    },
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

mod batches;
mod gguf;
mod sketch;

const CASES: [&str; 22] = [
    "llama-0",
    "llama-1",
    "llama-2",
    "llama3-0",
    "llama3-1",
    "mistral-0",
    "qwen2-0",
    "qwen3-0",
    "gemma-0",
    "gemma2-0",
    "gemma3-0",
    "gpt_neox-0",
    "gpt_neox-1",
    "phi3-0",
    "olmo2-0",
    "llama-3",
    "qwen2-1",
    "qwen3-1",
    "gpt_neox-2",
    "mixtral-0",
    "qwen3_moe-0",
    "qwen3_moe-1",
];
const NO_LIMIT: Limit = Limit { max_length: usize::MAX, truncation: None };

/// One case of the fixtures, opened.
struct Case {
    folder: PathBuf,
    base: Checkpoint,
    adapter: Adapter,
}

impl Case {
    fn all() -> impl Iterator<Item = Self> {
        CASES.into_iter().map(|name| {
            let folder = fixtures().join("cases").join(name);
            Self::open(Checkpoint::open(&folder.join("base")).unwrap(), folder)
        })
    }

    /// The case of a folder, with this base.
    fn open(base: Checkpoint, folder: PathBuf) -> Self {
        let adapter = Adapter::load(&folder.join("adapter"), &base.config).unwrap();
        Self { folder, base, adapter }
    }

    fn model(&self, dtype: DType) -> RewardModel {
        RewardModel::new(&self.base, Some(&self.adapter), dtype, &Device::Cpu).unwrap()
    }

    fn json(&self, file: &str) -> Value {
        serde_json::from_slice(&std::fs::read(self.folder.join(file)).unwrap()).unwrap()
    }

    /// Ids and tokens of the inputs, in their order.
    fn inputs(&self) -> (Vec<String>, Vec<TokenSeq>) {
        let items = data::read_items(&self.folder.join("inputs.jsonl")).unwrap();
        items.into_iter().map(|(id, input)| (id.unwrap(), self.encode(&input))).unzip()
    }

    fn encode(&self, input: &Input) -> TokenSeq {
        self.base.encoder.encode(input, &NO_LIMIT).unwrap()
    }

    fn examples(&self) -> Vec<Example> {
        let pairs = data::read_pairs(&self.folder.join("pairs.jsonl")).unwrap();
        let example = |pair: &data::Pair| Example {
            chosen: self.encode(&pair.chosen),
            rejected: self.encode(&pair.rejected),
            margin: pair.margin,
            weight: pair.weight,
        };
        pairs.iter().map(example).collect()
    }
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn assert_close(what: &str, got: f64, want: f64, tolerance: f64) {
    assert!((got - want).abs() <= tolerance * want.abs().max(1.0), "{what}: {got} is not {want}");
}

/// With the fused kernels (f32), and with candle's operations, which other devices and types take (f64).
#[test]
fn tokens_and_means_are_those_of_transformers() {
    Case::all().for_each(|case| assert_means(&case));
}

fn assert_means(case: &Case) {
    let (ids, sequences) = case.inputs();
    let expected = &case.json("expected.json")["items"];
    let means = |dtype| case.model(dtype).rewards(&Packed::sequences(&sequences)).unwrap();
    let (fused, portable) = (means(DType::F32), means(DType::F64));
    for (i, (id, sequence)) in ids.iter().zip(&sequences).enumerate() {
        let what = format!("{} {id}", case.folder.display());
        let want: Vec<u32> = serde_json::from_value(expected[id]["input_ids"].clone()).unwrap();
        assert_eq!(sequence.ids, want, "{what}");
        for mean in [fused[i], portable[i]] {
            assert_close(&what, mean, expected[id]["mean"].as_f64().unwrap(), 1e-4);
        }
    }
}

/// Every step of the backward through whole layers, residuals and shared prompts, in f64.
#[test]
fn the_backward_through_the_model_equals_finite_differences() {
    // As in PEFT, the norm of DoRA's rows has no gradient.
    let with_norms = |case: &Case| case.adapter.lora.values().any(|lora| lora.magnitude.is_some());
    for case in Case::all().filter(|case| !with_norms(case)) {
        assert_backward(&case);
    }
}

fn assert_backward(case: &Case) {
    const STEP: f64 = 1e-5;
    let (model, examples) = (case.model(DType::F64), case.examples());
    let packed = Packed::pairs(examples.iter().take(2).map(|e| (&e.chosen, &e.rejected)));
    let cotangents = [1.0, -0.7, 0.4, 1.3];
    let mut sink = Gradients::default();
    model.backward(&model.forward(&packed).unwrap(), &cotangents, &mut sink).unwrap();
    assert_eq!(sink.0.keys().collect::<Vec<_>>(), model.blocks().unwrap().keys().collect::<Vec<_>>());
    for (name, block) in model.blocks().unwrap() {
        let values: Vec<f64> = block.flatten_all().unwrap().to_vec1().unwrap();
        let gradient: Vec<f64> = sink.0[&name].flatten_all().unwrap().to_vec1().unwrap();
        for i in [0, values.len() / 2, values.len() - 1] {
            let objective = |step: f64| {
                let mut moved = values.clone();
                moved[i] += step;
                let block = Tensor::from_vec(moved, block.dims(), &Device::Cpu).unwrap();
                let mut model = model.clone();
                model.assign(&BTreeMap::from([(name.clone(), block)])).unwrap();
                let rewards = model.rewards(&packed).unwrap();
                rewards.iter().zip(cotangents).map(|(reward, c)| reward * c).sum::<f64>()
            };
            let want = (objective(STEP) - objective(-STEP)) / (2.0 * STEP);
            assert_close(&format!("{name}[{i}]"), gradient[i], want, 1e-6);
        }
    }
}

#[test]
fn ten_training_losses_are_those_of_pytorch() {
    for case in Case::all() {
        let expected = case.json("losses.json");
        let setting = |name: &str| expected["settings"][name].as_f64().unwrap();
        let (steps, size) = (setting("steps") as usize, setting("batch_size") as usize);
        let schedule =
            Schedule { peak: setting("learning_rate"), warm_up: setting("warmup_steps") as usize, steps };
        let mut trainer = Trainer {
            model: case.model(DType::F32),
            optimizer: AdamW::new(setting("weight_decay")),
            loss: Loss { centring: setting("centring") },
            max_gradient_norm: setting("max_gradient_norm"),
            // Small enough that gradients add up over several micro-batches.
            micro_batch_tokens: 100,
        };
        let examples = case.examples();
        for step in 0..steps {
            let batch: Vec<&Example> =
                (0..size).map(|i| &examples[(step * size + i) % examples.len()]).collect();
            let done = trainer.step(&batch, schedule.at(step)).unwrap();
            let what = format!("{} step {step}", case.folder.display());
            assert_close(&what, done.loss, expected["losses"][step].as_f64().unwrap(), 1e-4);
            assert_close(&what, done.gradient_norm, expected["gradient_norms"][step].as_f64().unwrap(), 1e-3);
        }
    }
}

/// The adapter's posterior, checked against the model.
fn posterior(case: &Case, model: &RewardModel) -> Posterior {
    let (trainable, template) = (model.shapes(), case.base.encoder.template_sha256());
    let sha256 = case.adapter.sha256().unwrap();
    let target = Target {
        trainable: &trainable,
        adapter_sha256: &sha256,
        forward_sha256: None,
        template_sha256: template.as_deref(),
        outputs: None,
    };
    Posterior::load_for(case.folder.join("adapter/posterior.safetensors"), target).unwrap().0
}

/// Variance of every input by block.
fn by_block(
    model: &RewardModel,
    posterior: &Posterior,
    sequences: &[TokenSeq],
) -> BTreeMap<String, Vec<f64>> {
    let packed = Packed::sequences(sequences);
    let trace = model.forward(&packed).unwrap();
    let mut blocks = BTreeMap::new();
    let mut sink = Jacobians::new(&packed, |name, jacobians| {
        blocks.insert(name.to_owned(), posterior.blocks().unwrap()[name].variances(jacobians)?);
        Ok(())
    });
    model.backward(&trace, &vec![1.0; sequences.len()], &mut sink).unwrap();
    blocks
}

#[test]
fn variances_are_those_of_autograd_block_by_block() {
    Case::all().for_each(|case| assert_variances(&case));
}

fn assert_variances(case: &Case) {
    for dtype in [DType::F32, DType::F64] {
        assert_variances_of(case, &case.model(dtype));
    }
}

fn assert_variances_of(case: &Case, model: &RewardModel) {
    let (ids, sequences) = case.inputs();
    let expected = &case.json("expected.json")["items"];
    let blocks = by_block(model, &posterior(case, model), &sequences);
    for (i, id) in ids.iter().enumerate() {
        let wanted = expected[id]["blocks"].as_object().unwrap();
        assert_eq!(wanted.keys().collect::<Vec<_>>(), blocks.keys().collect::<Vec<_>>());
        for (name, want) in wanted {
            let (got, want) = (blocks[name][i], want.as_f64().unwrap());
            let what = format!("{} {id} {name}", case.folder.display());
            assert!((got - want).abs() <= 1e-3 * want + 1e-9, "{what}: {got} is not {want}");
        }
        let (got, want) =
            (blocks.values().map(|b| b[i]).sum::<f64>(), expected[id]["variance"].as_f64().unwrap());
        assert!((got - want).abs() <= 1e-3 * want, "{id}: {got} is not {want}");
    }
}

#[test]
fn covariances_and_preferences_are_those_of_autograd() {
    for case in Case::all() {
        let model = case.model(DType::F32);
        let posterior = posterior(&case, &model);
        let (ids, sequences) = case.inputs();
        for group in case.json("expected.json")["groups"].as_array().unwrap() {
            let members: Vec<usize> = (group["ids"].as_array().unwrap().iter())
                .map(|id| ids.iter().position(|known| known == id.as_str().unwrap()).unwrap())
                .collect();
            let packed = Packed::sequences(members.iter().map(|i| &sequences[*i]));
            let trace = model.forward(&packed).unwrap();
            let n = members.len();
            let mut covariance = vec![vec![0.0; n]; n];
            let mut sink = Jacobians::new(&packed, |name, jacobians| {
                for (sums, row) in
                    covariance.iter_mut().zip(posterior.blocks().unwrap()[name].covariance(jacobians)?)
                {
                    sums.iter_mut().zip(row).for_each(|(sum, c)| *sum += c);
                }
                Ok(())
            });
            model.backward(&trace, &vec![1.0; n], &mut sink).unwrap();
            for (i, j) in (0..n).flat_map(|i| (0..n).map(move |j| (i, j))) {
                let want = |what: &str| group[what][i][j].as_f64().unwrap();
                let scale = (covariance[i][i] * covariance[j][j]).sqrt();
                let (got, c) = (covariance[i][j], want("covariance"));
                assert!((got - c).abs() <= 1e-3 * scale, "covariance {i} {j}: {got} is not {c}");
                let mean = trace.rewards()[i] - trace.rewards()[j];
                let v = (covariance[i][i] + covariance[j][j] - 2.0 * got).max(0.0);
                // MacKay (1992): sigma(mu / sqrt(1 + pi v / 8)).
                let p = sigmoid(mean / (1.0 + std::f64::consts::PI * v / 8.0).sqrt());
                assert_close("preference", p, want("preference_probability"), 1e-3);
            }
        }
    }
}

#[test]
fn the_variance_of_a_pair_is_that_of_the_difference_with_the_prompt_computed_once() {
    for case in Case::all() {
        let model = case.model(DType::F32);
        let posterior = posterior(&case, &model);
        for example in case.examples().iter().take(4) {
            let pair = Packed::pairs([(&example.chosen, &example.rejected)]);
            let got = with_variances(&model, &posterior, &pair, 2).unwrap().1[0];
            let both = Packed::sequences([&example.chosen, &example.rejected]);
            let trace = model.forward(&both).unwrap();
            let (mut want, mut prior) = (0.0, 0.0);
            let mut sink = Jacobians::new(&both, |name, jacobians| {
                let block = &posterior.blocks().unwrap()[name];
                let c = block.covariance(jacobians)?;
                want += c[0][0] + c[1][1] - 2.0 * c[0][1];
                prior += squares(&(jacobians.get(0)? - jacobians.get(1)?)?) / block.parts().prior_precision;
                Ok(())
            });
            model.backward(&trace, &[1.0, 1.0], &mut sink).unwrap();
            let variance = got.variance.unwrap();
            assert!((variance - want).abs() <= 1e-3 * want, "{variance} is not {want}");
            let contraction = got.contraction.unwrap();
            assert!((contraction - (1.0 - want / prior)).abs() <= 1e-3, "{contraction}");
            assert!((got.mean - (trace.rewards()[0] - trace.rewards()[1])).abs() <= 1e-4);
        }
    }
}

/// |J|^2, in f64.
fn squares(j: &Tensor) -> f64 {
    j.to_dtype(DType::F64).unwrap().sqr().unwrap().sum_all().unwrap().to_scalar().unwrap()
}

/// 1 - J Sigma J^T / J Lambda^-1 J^T, with both sums over all blocks taken entry by entry.
#[test]
fn a_contraction_is_the_share_of_the_prior_variance_that_is_gone() {
    for case in Case::all() {
        let model = case.model(DType::F32);
        let posterior = posterior(&case, &model);
        let (_, sequences) = case.inputs();
        let packed = Packed::sequences(&sequences);
        let got = with_variances(&model, &posterior, &packed, 1).unwrap().1;
        let mut prior = vec![0.0; got.len()];
        let mut sink = Jacobians::new(&packed, |name, j| {
            let lambda = posterior.blocks().unwrap()[name].parts().prior_precision;
            prior.iter_mut().enumerate().try_for_each(|(i, sum)| {
                *sum += squares(&j.get(i)?) / lambda;
                candle_core::Result::Ok(())
            })?;
            Ok(())
        });
        let trace = model.forward(&packed).unwrap();
        model.backward(&trace, &vec![1.0; got.len()], &mut sink).unwrap();
        let scored = Scorer::new(case.model(DType::F32), Some(posterior.clone()), Sharing::Shared)
            .estimates(&sequences.iter().collect::<Vec<_>>(), Want::MeanAndVariance)
            .unwrap();
        for ((got, scored), prior) in got.iter().zip(scored).zip(prior) {
            let want = 1.0 - got.variance.unwrap() / prior;
            assert!(0.0 < want && want < 1.0);
            for contraction in [got.contraction, scored.contraction] {
                assert!((contraction.unwrap() - want).abs() < 1e-4, "{contraction:?} is not {want}");
            }
        }
    }
}

#[test]
fn a_fitted_posterior_is_that_of_the_reference() {
    for case in Case::all() {
        let model = case.model(DType::F32);
        let options = Options {
            size: Size { features: 64, groups: 2, seed: 0 },
            label_noise: 0.0,
            curvature: CurvatureKind::Ekfac,
            rank: Rank::Full,
            prior: Prior::Number(1.0),
            batch_tokens: 300,
        };
        let fit = Fit {
            model: &model,
            examples: &case.examples(),
            mean: &BTreeMap::new(),
            options,
            checkpoints: None,
            stop: &AtomicBool::new(false),
        };
        let fitted = fit.run(&mut |_| {}).unwrap().unwrap();
        let expected = case.json("curvature.json");
        let what = case.folder.display();
        for (name, want) in expected["trace"].as_object().unwrap() {
            let (got, want) = (fitted.traces[name], want.as_f64().unwrap());
            assert!((got - want).abs() <= 1e-4 * want, "{what} {name}: trace {got} is not {want}");
        }
        let want = expected["log_likelihood"].as_f64().unwrap();
        assert_close("log likelihood", fitted.log_likelihood, want, 1e-4);
        let (ids, sequences) = case.inputs();
        let blocks = by_block(&model, &fitted.posterior, &sequences);
        for (i, id) in ids.iter().enumerate() {
            let (got, want) = (blocks.values().map(|b| b[i]).sum::<f64>(), &expected["ekfac_variance"][id]);
            let want = want.as_f64().unwrap();
            assert!((got - want).abs() <= 1e-3 * want, "{what} {id}: fitted {got} is not {want}");
        }
    }
}

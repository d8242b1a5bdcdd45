//! Numbers of PyTorch, transformers and peft (`tests/fixtures`) against those of the engine, tensor by tensor.

use candle_core::{DType, Device};
use rewarden::{
    data,
    item::Input,
    model::{RewardModel, adapter::Adapter, checkpoint::Checkpoint},
    nn::pack::Packed,
    text::{Limit, TokenSeq},
    train::{
        Example, Trainer,
        loss::Loss,
        optim::{AdamW, Schedule},
    },
};
use serde_json::Value;
use std::path::{Path, PathBuf};

const CASES: [&str; 5] = ["llama-0", "llama-1", "llama-2", "llama3-0", "llama3-1"];
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
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/cases").join(name);
            let base = Checkpoint::open(&folder.join("base")).unwrap();
            let adapter = Adapter::load(&folder.join("adapter"), &base.config).unwrap();
            Self { folder, base, adapter }
        })
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

fn assert_close(what: &str, got: f64, want: f64, tolerance: f64) {
    assert!((got - want).abs() <= tolerance * want.abs().max(1.0), "{what}: {got} is not {want}");
}

#[test]
fn tokens_and_means_are_those_of_transformers() {
    for case in Case::all() {
        let (ids, sequences) = case.inputs();
        let expected = &case.json("expected.json")["items"];
        let means = case.model(DType::F32).rewards(&Packed::sequences(&sequences)).unwrap();
        for ((id, sequence), mean) in ids.iter().zip(&sequences).zip(means) {
            let what = format!("{} {id}", case.folder.display());
            let want: Vec<u32> = serde_json::from_value(expected[id]["input_ids"].clone()).unwrap();
            assert_eq!(sequence.ids, want, "{what}");
            assert_close(&what, mean, expected[id]["mean"].as_f64().unwrap(), 1e-4);
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

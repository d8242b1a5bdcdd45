//! GGUF files: the cases as `fixtures/gguf_models.py` writes them, further models of what no case has, and every type of tensor.

use super::*;
use candle_core::quantized::{
    GgmlDType, QTensor,
    gguf_file::{self, Value as Entry},
};
use rand::{Rng, SeedableRng};
use std::fs::File;

const FILES: [&str; 10] = [
    "llama-1",
    "llama-2",
    "llama3-0",
    "mistral-0",
    "qwen2-0",
    "qwen3-0",
    "gemma-0",
    "gemma2-0",
    "gemma3-0",
    "phi3-0",
];

fn open(name: &str) -> Checkpoint {
    let base = Checkpoint::open(&fixtures().join("gguf").join(format!("{name}.gguf"))).unwrap();
    assert_eq!(base.warnings, [""; 0], "{name}");
    base
}

fn cases() -> impl Iterator<Item = Case> {
    FILES.into_iter().map(|name| Case::open(open(name), fixtures().join("cases").join(name)))
}

#[test]
fn a_gguf_file_gives_the_tokens_and_means_of_its_case() {
    cases().for_each(|case| assert_means(&case));
}

#[test]
fn a_gguf_file_gives_the_variances_of_its_case() {
    cases().for_each(|case| assert_variances(&case));
}

/// Adapters bring a head of their own, so that the cases do not show that a file's is read.
#[test]
fn a_gguf_file_gives_the_tensors_of_its_case() {
    for case in cases() {
        let what = case.folder.display();
        let want = Checkpoint::open(&case.folder.join("base")).unwrap();
        assert!(case.base.weights.names().eq(want.weights.names()), "{what}");
        for (name, want) in want.weights.read().unwrap() {
            // A folder's stay in half precision where they are stored so; a file's are F32.
            let want = want.to_dtype(DType::F32).unwrap();
            let error = (case.base.weights.get(&name).unwrap().unwrap() - want)
                .unwrap()
                .abs()
                .unwrap()
                .max_all()
                .unwrap();
            // What 1 + w rounds.
            assert!(error.to_scalar::<f32>().unwrap() <= 1e-6, "{what} {name}: {error}");
        }
    }
}

/// Biases of llama, its queries' and keys' in another order, beside each other and in one matrix; linear scaling; phi3's factors.
#[test]
fn further_models_give_the_rewards_of_transformers() {
    let json = std::fs::read(fixtures().join("gguf/expected.json")).unwrap();
    let expected: BTreeMap<String, Vec<Value>> = serde_json::from_slice(&json).unwrap();
    for (name, items) in expected {
        let base = open(&name);
        let model = RewardModel::new(&base, None, DType::F32, &Device::Cpu).unwrap();
        for item in items {
            let ids: Vec<u32> = serde_json::from_value(item["input_ids"].clone()).unwrap();
            let what = format!("{name}, {} tokens", ids.len());
            let sequence = base.encoder.encode(&Input::Ids(ids), &NO_LIMIT).unwrap();
            let mean = model.rewards(&Packed::sequences([&sequence])).unwrap()[0];
            assert_close(&what, mean, item["mean"].as_f64().unwrap(), 1e-4);
        }
    }
}

/// Beyond the length of the pre-training phi3 would turn by other factors, for every token.
#[test]
fn phi3_with_factors_ends_where_its_short_ones_do() {
    assert_eq!(open("phi3-longrope").config.max_length, 128);
    assert_eq!(open("phi3-0").config.max_length, 512);
}

/// Sizes that every block of a K-quant divides.
const WIDTH: usize = 256;
const TOKENS: usize = 24;

/// A random llama of one layer with a head, its matrices of one type.
struct Random {
    tensors: Vec<(&'static str, Tensor)>,
}

impl Random {
    fn new() -> Self {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(0);
        let mut matrix = |rows: usize, scale: f32| {
            let values: Vec<f32> = (0..rows * WIDTH).map(|_| rng.random_range(-scale..scale)).collect();
            Tensor::from_vec(values, (rows, WIDTH), &Device::Cpu).unwrap()
        };
        let norm = || Tensor::ones(WIDTH, DType::F32, &Device::Cpu).unwrap();
        let scale = (3.0 / WIDTH as f32).sqrt();
        let tensors = vec![
            ("token_embd.weight", matrix(TOKENS, 1.0)),
            ("blk.0.attn_q.weight", matrix(WIDTH, scale)),
            ("blk.0.attn_k.weight", matrix(WIDTH / 2, scale)),
            ("blk.0.attn_v.weight", matrix(WIDTH / 2, scale)),
            ("blk.0.attn_output.weight", matrix(WIDTH, scale)),
            ("blk.0.ffn_gate.weight", matrix(WIDTH, scale)),
            ("blk.0.ffn_up.weight", matrix(WIDTH, scale)),
            ("blk.0.ffn_down.weight", matrix(WIDTH, scale)),
            ("cls.output.weight", matrix(1, scale)),
            ("blk.0.attn_norm.weight", norm()),
            ("blk.0.ffn_norm.weight", norm()),
            ("output_norm.weight", norm()),
        ];
        Self { tensors }
    }

    /// Writes a file, and what its tensors are when they are expanded.
    fn write(&self, path: &Path, dtype: GgmlDType) -> BTreeMap<&'static str, Tensor> {
        let stored = |tensor: &Tensor| {
            let dtype = if tensor.rank() == 2 { dtype } else { GgmlDType::F32 };
            QTensor::quantize(tensor, dtype).unwrap()
        };
        let tensors: Vec<_> = self.tensors.iter().map(|(name, tensor)| (*name, stored(tensor))).collect();
        let text = |text: &str| Entry::String(text.into());
        let texts = |texts: Vec<String>| Entry::Array(texts.into_iter().map(Entry::String).collect());
        let metadata = [
            ("general.architecture", text("llama")),
            ("llama.context_length", Entry::U32(64)),
            ("llama.embedding_length", Entry::U32(WIDTH as u32)),
            ("llama.feed_forward_length", Entry::U32(WIDTH as u32)),
            ("llama.block_count", Entry::U32(1)),
            ("llama.attention.head_count", Entry::U32(4)),
            ("llama.attention.head_count_kv", Entry::U32(2)),
            ("llama.attention.layer_norm_rms_epsilon", Entry::F32(1e-5)),
            ("tokenizer.ggml.model", text("gpt2")),
            ("tokenizer.ggml.pre", text("gpt-2")),
            ("tokenizer.ggml.tokens", texts((0..TOKENS).map(|i| format!("t{i}")).collect())),
            ("tokenizer.ggml.token_type", Entry::Array(vec![Entry::I32(1); TOKENS])),
            ("tokenizer.ggml.merges", texts(vec![])),
        ];
        let metadata: Vec<_> = metadata.iter().map(|(key, value)| (*key, value)).collect();
        let borrowed: Vec<_> = tensors.iter().map(|(name, tensor)| (*name, tensor)).collect();
        gguf_file::write(&mut File::create(path).unwrap(), &metadata, &borrowed).unwrap();
        let expanded = tensors.into_iter().map(|(name, tensor)| (name, tensor.dequantize(&Device::Cpu)));
        expanded.filter_map(|(name, tensor)| Some((name, tensor.ok()?))).collect()
    }
}

fn reward(base: &Checkpoint) -> f64 {
    let ids = Input::Ids((0..TOKENS as u32).collect());
    let sequence = base.encoder.encode(&ids, &NO_LIMIT).unwrap();
    let model = RewardModel::new(base, None, DType::F32, &Device::Cpu).unwrap();
    model.rewards(&Packed::sequences([&sequence])).unwrap()[0]
}

/// The largest error of a weight is half a step of the type, as a share of the largest weight.
#[test]
fn every_type_that_candle_expands_is_read() {
    let steps = [
        (GgmlDType::F32, 0.0),
        (GgmlDType::F16, 2f32.powi(-11)),
        (GgmlDType::BF16, 2f32.powi(-8)),
        (GgmlDType::Q8_0, 1.0 / 127.0),
        (GgmlDType::Q6K, 1.0 / 31.0),
        (GgmlDType::Q5_0, 1.0 / 15.0),
        (GgmlDType::Q5_1, 1.0 / 15.0),
        (GgmlDType::Q5K, 1.0 / 15.0),
        (GgmlDType::Q4_0, 1.0 / 7.0),
        (GgmlDType::Q4_1, 1.0 / 7.0),
        (GgmlDType::Q4K, 1.0 / 7.0),
        (GgmlDType::Q3K, 1.0 / 3.0),
        (GgmlDType::Q2K, 1.0 / 1.5),
    ];
    let (random, folder) = (Random::new(), tempfile::tempdir().unwrap());
    let path = folder.path().join("model.gguf");
    random.write(&path, GgmlDType::F32);
    let want = reward(&Checkpoint::open(&path).unwrap());
    for (dtype, step) in steps {
        let expanded = random.write(&path, dtype);
        let base = Checkpoint::open(&path).unwrap();
        let (name, original) =
            random.tensors.iter().find(|(name, _)| *name == "blk.0.ffn_down.weight").unwrap();
        let got = base.weights.get("model.layers.0.mlp.down_proj.weight").unwrap().unwrap();
        let largest = |x: &Tensor| x.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert_eq!(largest(&(&got - &expanded[name]).unwrap()), 0.0, "{dtype:?}");
        let error = largest(&(&got - original).unwrap()) / largest(original);
        println!("{dtype:?}: error {error}, step {step}, reward {} of {want}", reward(&base));
        assert!(error <= step, "{dtype:?}: {error}");
        // All eight matrices add to it.
        assert!(
            (reward(&base) - want).abs() <= f64::from(4.0 * step),
            "{dtype:?}: {} is not {want}",
            reward(&base)
        );
    }
}

/// Tensors are read long after the file was opened.
#[test]
fn what_is_wrong_with_a_tensor_is_said_when_it_is_read() {
    let (mut random, folder) = (Random::new(), tempfile::tempdir().unwrap());
    let path = folder.path().join("model.gguf");
    let (_, down) = random.tensors.iter_mut().find(|(name, _)| *name == "blk.0.ffn_down.weight").unwrap();
    *down = (&*down * f64::NAN).unwrap();
    random.write(&path, GgmlDType::F32);
    let base = Checkpoint::open(&path).unwrap();
    let read = |module: &str| base.weights.get(&format!("model.layers.0.{module}.weight"));
    let says = |message: &str| {
        let error = read("mlp.down_proj").unwrap_err().to_string();
        assert!(error.contains(message) && error.contains("model.gguf: "), "{error}");
    };
    says("blk.0.ffn_down.weight: holds a number that is not finite");
    // Another file in its place is another file.
    let moved = folder.path().join("moved");
    std::fs::rename(&path, &moved).unwrap();
    std::fs::write(&path, "another").unwrap();
    assert!(read("mlp.up_proj").unwrap().is_some());
    File::options().write(true).open(&moved).unwrap().set_len(9).unwrap();
    says("has changed since it was opened");
}

#[test]
fn a_type_that_candle_does_not_expand_is_named_with_its_tensor() {
    let (random, folder) = (Random::new(), tempfile::tempdir().unwrap());
    let path = folder.path().join("model.gguf");
    for dtype in [GgmlDType::Q8_1, GgmlDType::Q8K] {
        random.write(&path, dtype);
        let message = Checkpoint::open(&path).unwrap_err().to_string();
        assert!(message.contains("model.gguf: ") && message.contains(&format!("{dtype:?}")), "{message}");
        assert!(message.contains(".weight: ") && !message.contains('\n'), "{message}");
    }
}

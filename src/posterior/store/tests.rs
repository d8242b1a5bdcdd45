//! Round trips, and one clear message for every way in which a file can be wrong.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
};

use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;
use safetensors::{Dtype, tensor::TensorView};
use tempfile::TempDir;

use crate::{
    Error,
    evaluate::verdicts::Verdict,
    model::head::Outputs,
    nn::check::{random, values},
    posterior::{
        BlockKind, FitConfig, Posterior, Target,
        config::{Base, Constructed, HeldOut, Quantiles},
        fit::{Curvature, CurvatureKind, Factors, HeadFactor, Rank, kfac},
    },
    score::{penalty::Kind, rule::PenaltyRule},
};

const A: &str = "base_model.model.layers.0.q_proj.lora_A";
const HEAD: &str = "base_model.model.score";

fn lora(rank: Rank) -> Curvature {
    let mut factors = Factors::new(2, 6);
    factors.add(&random(1, &[9, 6]), &random(2, &[9, 2]), &[0.2; 9]).unwrap();
    kfac(&factors.eigenbases(A, DType::F64).unwrap(), rank).unwrap()
}

fn head() -> Curvature {
    let mut head = HeadFactor::new(3);
    head.add(&random(3, &[5, 1, 3]), &[0.2; 5]).unwrap();
    head.finish(HEAD, DType::F64).unwrap()
}

fn config() -> FitConfig {
    let by_kind = |a, head| BTreeMap::from([(BlockKind::A, a), (BlockKind::Head, head)]);
    FitConfig {
        outputs: None,
        label_noise: None,
        curvature: Some(CurvatureKind::Ekfac),
        rank: Some(Rank::Top(2)),
        pairs: Some(9),
        log_likelihood: Some(-4.1),
        evidence: Some(-9.7),
        effective_parameters: Some(3.25),
        effective_parameters_by_kind: by_kind(1.25, 2.0),
        prior_precision: by_kind(0.3, 1e3),
        adapter_sha256: Some("aa01".into()),
        forward_sha256: None,
        template_sha256: Some("bb02".into()),
        base: Some(Base { name: "modèle".into(), layers: 1, hidden_size: 6, vocabulary: 10 }),
        constructed: Some(Constructed {
            share: 0.5,
            kinds: vec!["spam".into()],
            exclude_source: vec!["a".into()],
            refusal_source: vec!["harmless".into()],
        }),
        quantiles: Some(Quantiles {
            single: vec![(0.5, 1.5)],
            difference: vec![(0.5, 0.1), (0.9, 0.7)],
            contraction_single: vec![(0.5, 0.25)],
            contraction_difference: vec![(0.5, 0.125), (0.9, 0.5)],
        }),
        held_out: Some(HeldOut {
            pairs: 2,
            spread: Some(0.5),
            baseline: Some(-1.5),
            k: Some(4.0),
            penalty: Some(PenaltyRule { k: Some(4.0), ..PenaltyRule::of(Kind::Contraction) }),
            verdicts: vec![Verdict::new(1.5, Some(0.25)), Verdict::new(-0.5, None)],
        }),
        left_out: vec!["base_model.model.layers.1.q_proj.lora_A".into()],
        version: Some("0.1.0".into()),
    }
}

fn posterior() -> Posterior {
    let blocks = [(A, lora(Rank::Top(2)).into_block(A, 0.3)), (HEAD, head().into_block(HEAD, 1e3))];
    let blocks = blocks.into_iter().map(|(name, block)| (name.to_string(), block.unwrap())).collect();
    Posterior::of_blocks(blocks, Some(config()))
}

#[test]
fn round_trip_keeps_every_field() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("posterior.safetensors");
    let saved = posterior();
    saved.save(&path).unwrap();
    let loaded = Posterior::load(&path).unwrap();
    assert_eq!(loaded.config, saved.config);
    assert!(loaded.blocks().unwrap().keys().eq(saved.blocks().unwrap().keys()));
    let same = |got: &Tensor, want: &Tensor| {
        assert_eq!(got.dims(), want.dims());
        assert_eq!(values(got), values(&want.to_dtype(DType::F32).unwrap()));
    };
    for (loaded, saved) in loaded.blocks().unwrap().values().zip(saved.blocks().unwrap().values()) {
        let (loaded, saved) = (loaded.parts(), saved.parts());
        same(&loaded.input_basis, &saved.input_basis);
        same(&loaded.output_basis, &saved.output_basis);
        same(&loaded.curvature, &saved.curvature);
        assert_eq!(loaded.tail.is_some(), saved.tail.is_some());
        loaded.tail.iter().zip(&saved.tail).for_each(|(loaded, saved)| same(loaded, saved));
        assert_eq!(loaded.prior_precision, f64::from(saved.prior_precision as f32));
    }
}

#[test]
fn equal_posteriors_give_equal_bytes_and_leave_nothing_beside_them() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("posterior.safetensors");
    fs::write(&path, "an older file").unwrap();
    posterior().save(&path).unwrap();
    let first = fs::read(&path).unwrap();
    Posterior::load(&path).unwrap().save(&path).unwrap();
    assert_eq!(fs::read(&path).unwrap(), first);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
}

#[test]
fn a_file_that_cannot_be_written_is_named() {
    let folder = TempDir::new().unwrap();
    let error = posterior().save(folder.path().join("absent/posterior.safetensors")).unwrap_err();
    assert!(matches!(&error, Error::Io { path, .. } if path.starts_with(&folder)), "{error}");
}

/// A file in the making, as another program would write it.
#[derive(Clone)]
struct Draft {
    metadata: HashMap<String, String>,
    tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
}

impl Draft {
    /// The posterior above without a config, in f64.
    fn new() -> Self {
        let metadata =
            [("format", "laplace-lora"), ("version", "1")].map(|(k, v)| (k.to_string(), v.to_string()));
        let mut draft = Self { metadata: metadata.into(), tensors: BTreeMap::new() };
        for (name, curvature) in [(A, lora(Rank::Top(2))), (HEAD, head())] {
            draft.put(name, "input_basis", &curvature.input_basis);
            draft.put(name, "output_basis", &curvature.output_basis);
            draft.put(name, "curvature", &curvature.curvature);
            draft.put(name, "prior_precision", &Tensor::new(&[2.0], &Device::Cpu).unwrap());
            curvature.tail.iter().for_each(|tail| draft.put(name, "tail", tail));
        }
        draft
    }

    /// What a posterior is written as.
    fn of(posterior: &Posterior) -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("posterior.safetensors");
        posterior.save(&path).unwrap();
        let bytes = fs::read(&path).unwrap();
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let tensor = |view: TensorView| (view.dtype(), view.shape().to_vec(), view.data().to_vec());
        Self {
            metadata: header.metadata().clone().unwrap(),
            tensors: file.iter().map(|(name, view)| (name.to_owned(), tensor(view))).collect(),
        }
    }

    fn put(&mut self, block: &str, field: &str, tensor: &Tensor) {
        let bytes = values(tensor).into_iter().flat_map(f64::to_le_bytes).collect();
        self.tensors.insert(format!("{block}.{field}"), (Dtype::F64, tensor.dims().to_vec(), bytes));
    }

    fn fill(&mut self, block: &str, field: &str, shape: &[usize], value: f64) {
        self.put(block, field, &Tensor::full(value, shape, &Device::Cpu).unwrap());
    }

    fn held_out(&mut self, entries: &str) {
        self.metadata.insert("config".into(), format!(r#"{{"held_out": {{{entries}}}}}"#));
    }

    fn quantiles(&mut self, single: &str) {
        self.metadata.insert("config".into(), format!(r#"{{"quantiles": {{"single": {single}}}}}"#));
    }

    fn remove(&mut self, block: &str, field: &str) {
        self.tensors.remove(&format!("{block}.{field}")).unwrap();
    }

    fn bytes(&self) -> Vec<u8> {
        let view =
            |(dtype, shape, bytes): &(Dtype, Vec<usize>, Vec<u8>)| (*dtype, shape.clone(), bytes.clone());
        let owned: Vec<_> = self.tensors.iter().map(|(name, tensor)| (name, view(tensor))).collect();
        let views = owned.iter().map(|(name, (dtype, shape, bytes))| {
            (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
        });
        safetensors::serialize(views, Some(self.metadata.clone())).unwrap()
    }

    fn load(&self) -> Result<Posterior, String> {
        load(&self.bytes())
    }

    fn load_for(&self, target: Target) -> Result<Vec<String>, String> {
        in_file(&self.bytes(), |path| Posterior::load_for(path, target).map(|(_, warnings)| warnings))
    }
}

fn load(bytes: &[u8]) -> Result<Posterior, String> {
    in_file(bytes, |path| Posterior::load(path))
}

/// Runs on a file of these bytes; an error must name the file, and comes back without that name.
fn in_file<T>(bytes: &[u8], run: impl Fn(&std::path::Path) -> crate::Result<T>) -> Result<T, String> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("posterior.safetensors");
    fs::write(&path, bytes).unwrap();
    run(&path).map_err(|error| {
        assert!(matches!(error, Error::File { .. }), "{error}");
        error.to_string().strip_prefix(&format!("{}: ", path.display())).unwrap().to_string()
    })
}

#[test]
fn reads_a_file_of_another_program() {
    let posterior = Draft::new().load().unwrap();
    assert_eq!(posterior.config, None);
    assert_eq!(posterior.blocks().unwrap()[A].dims(), (2, 6));
    assert_eq!(posterior.blocks().unwrap()[HEAD].dims(), (1, 3));
}

#[test]
fn each_malformed_file_gives_one_clear_message() {
    type Spoil = fn(&mut Draft);
    let cases: &[(Spoil, &str)] = &[
        (|d| d.metadata.clear(), "metadata `format`: missing, expected `laplace-lora`"),
        (
            |d| drop(d.metadata.insert("format".into(), "pt".into())),
            "metadata `format`: `pt` is not supported",
        ),
        (
            |d| drop(d.metadata.insert("version".into(), "3".into())),
            "metadata `version`: `3` is not supported",
        ),
        (|d| drop(d.metadata.insert("config".into(), "{".into())), "metadata `config`: EOF while parsing"),
        (|d| d.quantiles("[[0.5, 2], [0.9, 1]]"), "metadata `config`: quantiles.single: must rise"),
        (|d| d.quantiles("[[0.5, 1], [0.4, 2]]"), "metadata `config`: quantiles.single: must rise"),
        (|d| d.held_out(r#""spread": -1"#), "metadata `config`: held_out.spread: out of range"),
        (|d| d.held_out(r#""k": -1"#), "metadata `config`: held_out.k: out of range"),
        (|d| d.held_out(r#""penalty": {"kind": "kl"}"#), "metadata `config`: held_out.penalty.beta: needed"),
        (
            |d| d.held_out(r#""verdicts": [[1.5, null, true]]"#),
            "metadata `config`: held_out.verdicts: probability",
        ),
        (
            |d| d.held_out(r#""penalty": {"kind": "std", "relative": true}"#),
            "metadata `config`: held_out.penalty.relative",
        ),
        (|d| d.quantiles("[[0.5, -1]]"), "metadata `config`: quantiles.single: must rise"),
        (|d| d.quantiles("[[1.5, 1]]"), "metadata `config`: quantiles.single: must rise"),
        (|d| d.remove(A, "curvature"), "lora_A.curvature: missing"),
        (|d| d.remove(A, "prior_precision"), "lora_A.prior_precision: missing"),
        (|d| d.fill(A, "input_basis_of", &[1], 1.0), "lora_A.input_basis_of: unknown tensor"),
        (|d| d.fill(A, "curvature", &[3, 2], 1.0), "lora_A.curvature: shape [3, 2], expected [2, 2]"),
        (|d| d.fill(A, "curvature", &[2, 2], f64::INFINITY), "lora_A.curvature: has a non-finite entry: inf"),
        (|d| d.fill(A, "curvature", &[2, 2], -1.0), "lora_A.curvature: has a negative entry: -1"),
        (|d| d.fill(A, "curvature", &[0, 2], 1.0), "lora_A.curvature: shape [0, 2] is empty"),
        (|d| d.fill(A, "tail", &[2], -0.5), "lora_A.tail: has a negative entry: -0.5"),
        (|d| d.fill(A, "tail", &[6], 0.5), "lora_A.tail: shape [6], expected [2]"),
        (|d| d.fill(HEAD, "tail", &[1], 0.5), "score.tail: given, but no side is truncated"),
        (
            |d| d.fill(A, "prior_precision", &[1], 0.0),
            "lora_A.prior_precision: must be finite and positive, is 0",
        ),
        (|d| d.fill(A, "prior_precision", &[2], 1.0), "lora_A.prior_precision: shape [2], expected [1]"),
        (|d| d.fill(A, "prior_precision", &[], 1.0), "lora_A.prior_precision: shape [], expected [1]"),
        (|d| d.fill(HEAD, "output_basis", &[1, 1], 2.0), "score.output_basis: columns are not orthonormal"),
        (
            |d| d.fill(HEAD, "input_basis", &[3, 3], f64::NAN),
            "score.input_basis: has a non-finite entry: NaN",
        ),
        (|d| d.fill(HEAD, "input_basis", &[3], 1.0), "score.input_basis: shape [3], expected a matrix"),
        (|d| d.tensors.get_mut(&format!("{A}.tail")).unwrap().0 = Dtype::I64, "lora_A.tail: data type I64"),
    ];
    for (spoil, message) in cases {
        let mut draft = Draft::new();
        spoil(&mut draft);
        let error = draft.load().unwrap_err();
        assert!(error.contains(message), "{error} does not say: {message}");
        assert!(!error.contains("problems"), "{error}");
    }
}

#[test]
fn all_problems_are_reported_at_once() {
    let mut draft = Draft::new();
    draft.remove(A, "curvature");
    draft.fill(A, "extra", &[1], 1.0);
    draft.fill(HEAD, "prior_precision", &[1], -1.0);
    let trainable = BTreeMap::from([(A.to_string(), (2, 7)), ("m.lora_B".to_string(), (4, 2))]);
    let target = Target {
        trainable: &trainable,
        adapter_sha256: "aa01",
        forward_sha256: None,
        template_sha256: None,
        outputs: None,
    };
    let error = draft.load_for(target).unwrap_err();
    let lines: Vec<&str> = error.lines().map(str::trim).collect();
    let want = [
        "6 problems:",
        &format!("{A}.extra: unknown tensor"),
        &format!("{A}.curvature: missing"),
        &format!("{HEAD}.prior_precision: must be finite and positive, is -1"),
        &format!("{A}: the bases are of a 2 x 6 matrix, the adapter's is 2 x 7"),
        &format!("{HEAD}: the adapter has no such block"),
        "m.lora_B: the posterior has no such block",
    ];
    assert_eq!(lines, want);
}

#[test]
fn belongs_to_one_adapter() {
    let mut draft = Draft::new();
    let own = FitConfig { left_out: vec!["m.lora_B".into()], ..config() };
    draft.metadata.insert("config".into(), serde_json::to_string(&own).unwrap());
    let shapes = [(A, (2, 6)), (HEAD, (1, 3)), ("m.lora_B", (4, 2))];
    let trainable: BTreeMap<_, _> = shapes.map(|(name, shape)| (name.to_string(), shape)).into();
    let target = Target {
        trainable: &trainable,
        adapter_sha256: "aa01",
        forward_sha256: None,
        template_sha256: Some("bb02"),
        outputs: None,
    };
    assert_eq!(draft.load_for(target), Ok(vec![]));

    let warnings = draft.load_for(Target { template_sha256: None, ..target }).unwrap();
    assert_eq!(warnings, ["the posterior was fitted with another chat template: variances may be off"]);
    let error = draft.load_for(Target { adapter_sha256: "ff", ..target }).unwrap_err();
    let want = "fitted to another adapter: its sha256 is aa01, this one's ff (hint: run `fit` again)";
    assert_eq!(error, want);

    let unchecked = draft.load_for(Target { forward_sha256: Some("cc03"), ..target }).unwrap();
    assert!(
        unchecked[0].starts_with("the posterior does not say which base and which scale"),
        "{unchecked:?}"
    );
    let bound = FitConfig { forward_sha256: Some("CC03".into()), ..own.clone() };
    draft.metadata.insert("config".into(), serde_json::to_string(&bound).unwrap());
    assert_eq!(draft.load_for(Target { forward_sha256: Some("cc03"), ..target }), Ok(vec![]));
    let error = draft.load_for(Target { forward_sha256: Some("ff"), ..target }).unwrap_err();
    assert!(error.contains("its forward_sha256 is CC03, this one's ff (hint: run `fit` again)"), "{error}");

    let fitted = FitConfig { outputs: Some(Outputs::Label(1)), ..own };
    draft.metadata.insert("config".into(), serde_json::to_string(&fitted).unwrap());
    assert!(draft.load_for(Target { outputs: Some(&Outputs::Label(1)), ..target }).is_ok());
    let error = draft.load_for(Target { outputs: Some(&Outputs::Label(0)), ..target }).unwrap_err();
    assert_eq!(error, "fitted to another reward of the head: output 1, not output 0 (hint: run `fit` again)");
}

#[test]
fn a_file_cut_short_is_an_error() {
    let bytes = Draft::new().bytes();
    for length in (0..bytes.len()).step_by(7) {
        let error = load(&bytes[..length]).unwrap_err();
        assert!(error.starts_with("not a safetensors file, or cut short: "), "{error}");
    }
}

proptest! {
    #[test]
    fn garbage_never_panics(position in 0..4000usize, byte: u8, noise: Vec<u8>) {
        let mut bytes = Draft::new().bytes();
        let position = position % bytes.len();
        bytes[position] = byte;
        let _ = load(&bytes);
        prop_assert!(load(&noise).is_err());
    }
}

mod sketch {
    use super::*;
    use crate::posterior::{Form, Sketch, fit::Gram, sketch::Layout};

    fn posterior() -> Posterior {
        let shapes = BTreeMap::from([(A.to_owned(), (2, 6)), (HEAD.to_owned(), (1, 3))]);
        let layout = Layout::new(&shapes, 8, 1, 5);
        let mut curvature = Gram::new(layout.features());
        curvature.add(&random(1, &[4, layout.features()])).unwrap();
        let prior = vec![2.0; layout.slots.len()];
        let sketch = Sketch::new(layout, curvature, prior).unwrap();
        Posterior { form: Form::Sketch(sketch), config: Some(config()) }
    }

    fn problems(change: impl Fn(&mut Draft)) -> String {
        let mut draft = Draft::of(&posterior());
        change(&mut draft);
        draft.load().unwrap_err()
    }

    #[test]
    fn each_malformed_sketch_gives_one_clear_message() {
        let without_layout = problems(|draft| drop(draft.metadata.remove("layout")));
        assert!(without_layout.ends_with("metadata `layout`: missing"), "{without_layout}");
        let no_json = problems(|draft| drop(draft.metadata.insert("layout".into(), "{".into())));
        assert!(no_json.contains("metadata `layout`: EOF"), "{no_json}");
        let huge = r#"{"seed":0,"slots":[{"kind":"A","features":9999999999999,"blocks":{}}]}"#;
        let huge = problems(|draft| drop(draft.metadata.insert("layout".into(), huge.into())));
        assert!(huge.contains("curvature: shape"), "{huge}");
        let missing = problems(|draft| drop(draft.tensors.remove("prior_precision")));
        assert!(missing.ends_with("prior_precision: missing"), "{missing}");
        let unknown = problems(|draft| {
            let tensor = draft.tensors["prior_precision"].clone();
            draft.tensors.insert("more".into(), tensor);
        });
        assert!(unknown.ends_with("more: unknown tensor"), "{unknown}");
    }

    #[test]
    fn it_is_for_the_blocks_that_its_layout_names() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("posterior.safetensors");
        posterior().save(&path).unwrap();
        let trainable = BTreeMap::from([(A.to_owned(), (2, 7))]);
        let target = Target {
            trainable: &trainable,
            adapter_sha256: "aa01",
            forward_sha256: None,
            template_sha256: None,
            outputs: None,
        };
        let message = Posterior::load_for(&path, target).unwrap_err().to_string();
        assert!(message.contains("the bases are of a 2 x 6 matrix, the adapter's is 2 x 7"), "{message}");
        assert!(message.contains("score: the adapter has no such block"), "{message}");
    }
}

use super::*;
use crate::model::config::{Config, rope::Scaling};
use candle_core::{
    Shape,
    quantized::{
        GgmlDType,
        gguf_file::{Content, TensorInfo, Value, VersionedMagic},
    },
};
use std::collections::HashMap;

type Change<'a> = (&'a str, Option<Value>);

/// The configuration of a file with these values, of an architecture whose keys begin with its name.
fn config_of(name: &str, changes: &[Change]) -> Result<Config> {
    let own = [
        ("context_length", Value::U32(512)),
        ("embedding_length", Value::U32(32)),
        ("feed_forward_length", Value::U32(48)),
        ("block_count", Value::U32(12)),
        ("attention.head_count", Value::U32(4)),
        ("attention.head_count_kv", Value::U32(2)),
        ("attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
    ];
    let mut metadata: HashMap<_, _> = own.map(|(key, value)| (format!("{name}.{key}"), value)).into();
    metadata.insert("general.architecture".to_owned(), Value::String(name.to_owned()));
    for (key, value) in changes {
        match value {
            Some(value) => metadata.insert((*key).to_owned(), value.clone()),
            None => metadata.remove(*key),
        };
    }
    let info = TensorInfo { ggml_dtype: GgmlDType::F32, shape: Shape::from((100, 32)), offset: 0 };
    let content = Content {
        magic: VersionedMagic::GgufV3,
        metadata,
        tensor_infos: HashMap::from([("token_embd.weight".to_owned(), info)]),
        tensor_data_offset: 0,
    };
    let gguf = Gguf::new(Path::new("m.gguf"), content);
    config::read(&gguf, Architecture::of(&gguf)?)
}

fn windows(config: &Config) -> Vec<Option<usize>> {
    config.sights.iter().map(|sight| sight.window).collect()
}

fn text(text: &str) -> Option<Value> {
    Some(Value::String(text.to_owned()))
}

#[test]
fn an_architecture_is_a_family() {
    for (name, family) in [
        ("llama", "llama"),
        ("qwen2", "qwen2"),
        ("qwen3", "qwen3"),
        ("gemma", "gemma"),
        ("gemma2", "gemma2"),
        ("gemma3", "gemma3_text"),
        ("phi3", "phi3"),
    ] {
        let config = config_of(name, &[]).unwrap();
        assert_eq!((config.family.as_str(), config.vocab_size, config.head_dim), (family, 100, 8));
        assert_eq!(config.ropes[0].theta, 1e4, "{name}");
    }
}

#[test]
fn windows_follow_the_file_then_the_architecture() {
    let keys = |name: &str| {
        (format!("{name}.attention.sliding_window"), format!("{name}.attention.sliding_window_pattern"))
    };
    let of = |name: &str, window: Option<u32>, pattern: Option<Value>| {
        let (size, turns) = keys(name);
        windows(&config_of(name, &[(&size, window.map(Value::U32)), (&turns, pattern)]).unwrap())
    };
    assert_eq!(of("llama", None, None), [None; 12]);
    // A mistral.
    assert_eq!(of("llama", Some(9), None), [Some(9); 12]);
    assert_eq!(of("phi3", Some(9), None), [Some(9); 12]);
    assert_eq!(of("phi3", Some(0), None), [None; 12]);
    assert_eq!(of("gemma2", None, None)[..3], [Some(4096), None, Some(4096)]);
    assert_eq!(of("gemma3", Some(9), None)[4..7], [Some(9), None, Some(9)]);
    assert_eq!(of("gemma3", None, None), [None; 12]);
    assert_eq!(of("gemma3", Some(9), Some(Value::U32(3)))[..4], [Some(9), Some(9), None, Some(9)]);
    let listed = Value::Array((0..12).map(|layer| Value::Bool(layer == 1)).collect());
    assert_eq!(of("qwen2", Some(9), Some(listed))[..3], [None, Some(9), None]);
}

#[test]
fn the_largest_gemmas_scale_by_the_width() {
    let scale = |name: &str, layers: u32| {
        let [count, size] = [format!("{name}.block_count"), format!("{name}.attention.key_length")];
        let changes = [(count.as_str(), Some(Value::U32(layers))), (size.as_str(), Some(Value::U32(16)))];
        config_of(name, &changes).unwrap().attention_scale
    };
    assert_eq!([scale("gemma2", 46), scale("gemma3", 62)], [8f64.sqrt().recip(); 2]);
    assert_eq!([scale("gemma2", 42), scale("gemma3", 46), scale("qwen3", 46)], [0.25; 3]);
}

#[test]
fn scores_are_capped_as_in_gemma2() {
    assert_eq!(config_of("gemma2", &[]).unwrap().attention_cap, Some(50.0));
    let key = "gemma2.attn_logit_softcapping";
    assert_eq!(config_of("gemma2", &[(key, Some(Value::F32(2.0)))]).unwrap().attention_cap, Some(2.0));
    assert_eq!(config_of("gemma3", &[]).unwrap().attention_cap, None);
}

#[test]
fn only_layers_without_a_window_turn_by_a_scaled_embedding() {
    let factor = Some(Value::F32(8.0));
    let of = |name: &str, kind: Option<Value>| {
        let [kind_key, factor_key] =
            [format!("{name}.rope.scaling.type"), format!("{name}.rope.scaling.factor")];
        let changes = [(kind_key.as_str(), kind), (factor_key.as_str(), factor.clone())];
        config_of(name, &changes).unwrap().ropes.into_iter().map(|rope| rope.scaling).collect::<Vec<_>>()
    };
    assert_eq!(of("llama", None), [Scaling::Linear { factor: 8.0 }]);
    assert_eq!(of("llama", text("linear")), [Scaling::Linear { factor: 8.0 }]);
    assert_eq!(of("llama", text("none")), [Scaling::Default]);
    assert_eq!(of("gemma3", text("linear")), [Scaling::Linear { factor: 8.0 }, Scaling::Default]);
}

#[test]
fn what_is_wrong_is_named_by_its_key() {
    let number = |n: u32| Some(Value::U32(n));
    let table = [
        ("llama", "general.architecture", text("mamba"), "`mamba` is not supported (hint: llama, qwen2"),
        ("llama", "general.architecture", None, "missing"),
        ("llama", "llama.attention.head_count", None, "missing"),
        ("qwen3", "qwen3.block_count", text("2"), "expected a whole number"),
        ("llama", "llama.attention.head_count", number(0), "0 is not between"),
        ("llama", "llama.attention.head_count_kv", number(3), "3 does not divide"),
        (
            "llama",
            "llama.attention.layer_norm_rms_epsilon",
            Some(Value::F32(0.0)),
            "0 is not a positive number",
        ),
        ("llama", "llama.attention.layer_norm_rms_epsilon", number(0), "expected a number"),
        ("llama", "llama.rope.freq_base", Some(Value::F32(-1.0)), "-1 is not a positive number"),
        ("llama", "llama.rope.dimension_count", number(4), "4 numbers of a head turn, and only all 8 can"),
        ("llama", "llama.rope.scaling.type", text("yarn"), "`yarn` without factors"),
        ("phi3", "phi3.rope.scaling.type", text("longrope"), "`longrope` without factors"),
        ("llama", "llama.rope.scaling.attn_factor", Some(Value::F32(1.5)), "1.5 without factors"),
        ("llama", "llama.expert_count", number(8), "mixtures of experts are not supported"),
        ("qwen3", "qwen3.attention.causal", Some(Value::Bool(false)), "only causal attention"),
        ("gemma2", "gemma2.attn_logit_softcapping", Some(Value::F32(0.0)), "0 is not a positive number"),
        ("gemma3", "gemma3.attention.sliding_window_pattern", text("x"), "expected an array of booleans"),
        ("qwen2", "tokenizer.ggml.padding_token_id", text("x"), "expected a token id"),
    ];
    for (name, key, value, want) in table {
        let message = config_of(name, &[(key, value)]).unwrap_err().to_string();
        assert!(message.starts_with(&format!("m.gguf: {key}: {want}")), "{message}");
    }
    let lengths = [("llama.attention.key_length", number(8)), ("llama.attention.value_length", number(4))];
    let message = config_of("llama", &lengths).unwrap_err().to_string();
    assert!(
        message.starts_with("m.gguf: llama.attention.value_length: 4, other than the keys' 8"),
        "{message}"
    );
}

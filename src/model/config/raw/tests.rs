use super::*;
use serde_json::json;

fn base() -> Value {
    json!({
        "model_type": "llama", "vocab_size": 10, "hidden_size": 8, "intermediate_size": 6, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 64, "pad_token_id": null, "rope_theta": 5e5
    })
}

fn parsed(change: Value) -> Result<Config, String> {
    let mut config = base();
    for (key, value) in change.as_object().unwrap() {
        config[key] = value.clone();
    }
    let config = parse(config.to_string().as_bytes())?;
    config.check()?;
    Ok(config)
}

#[test]
fn defaults_follow_hugging_face() {
    let config = parsed(json!({})).unwrap();
    assert_eq!((config.kv_heads, config.head_dim, config.norm_eps), (2, 4, 1e-6));
    assert_eq!(config.ropes, [Rope { theta: 5e5, size: 4, scaling: Scaling::Default }]);
    assert_eq!(config.pad_token_id, None);
    assert_eq!(parsed(json!({"pad_token_id": -1})).unwrap().pad_token_id, None);
}

#[test]
fn both_generations_say_the_same_rope() {
    let llama3 = json!({
        "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32
    });
    let mut old = llama3.clone();
    old["type"] = "llama3".into();
    let mut new = llama3;
    new["rope_type"] = "llama3".into();
    new["rope_theta"] = 5e5.into();
    let old = parsed(json!({"rope_scaling": old})).unwrap();
    assert_eq!(old, parsed(json!({"rope_parameters": new, "rope_theta": null})).unwrap());
    assert!(matches!(old.ropes[0].scaling, Scaling::Llama3 { factor: 8.0, .. }));
}

#[test]
fn windows_are_where_a_family_has_them() {
    let windows = |change: Value| -> Vec<bool> {
        let mut all = json!({"num_hidden_layers": 7, "sliding_window": 16});
        all.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        parsed(all).unwrap().sights.iter().map(|sight| sight.window == Some(16)).collect()
    };
    assert_eq!(windows(json!({"model_type": "llama"})), [false; 7]);
    assert_eq!(windows(json!({"model_type": "mistral"})), [true; 7]);
    assert_eq!(windows(json!({"model_type": "gemma2"})), [true, false, true, false, true, false, true]);
    assert_eq!(windows(json!({"model_type": "gemma3_text"}))[4..], [true, false, true]);
    assert_eq!(windows(json!({"model_type": "qwen2", "max_window_layers": 3})), [false; 7]);
    let sliding = json!({"model_type": "qwen2", "max_window_layers": 5, "use_sliding_window": true});
    assert_eq!(windows(sliding)[4..], [false, true, true]);
    let kinds: Vec<&str> =
        (0..7).map(|i| if i == 2 { "full_attention" } else { "sliding_attention" }).collect();
    assert_eq!(
        windows(json!({"model_type": "gemma3_text", "layer_types": kinds}))[1..4],
        [true, false, true]
    );
}

#[test]
fn gemma3_turns_by_two_bases_in_both_generations() {
    let old =
        parsed(json!({"model_type": "gemma3_text", "rope_theta": 1e6, "rope_local_base_freq": 1e4})).unwrap();
    let kind = |theta: f64| json!({"rope_type": "default", "rope_theta": theta});
    let new = json!({"full_attention": kind(1e6), "sliding_attention": kind(1e4)});
    assert_eq!(old, parsed(json!({"model_type": "gemma3_text", "rope_parameters": new})).unwrap());
    assert_eq!(old.ropes.iter().map(|rope| rope.theta).collect::<Vec<_>>(), [1e6, 1e4]);
    assert_eq!((old.sights[0].rope, old.embedding_scale), (1, 8f64.sqrt()));
}

#[test]
fn gpt_neox_turns_a_part_of_a_head() {
    let old = parsed(json!({"model_type": "gpt_neox", "head_dim": 8, "rotary_pct": 0.5})).unwrap();
    let new = json!({"rope_type": "default", "rope_theta": 5e5, "partial_rotary_factor": 0.5});
    assert_eq!(
        old,
        parsed(json!({"model_type": "gpt_neox", "head_dim": 8, "rope_parameters": new})).unwrap()
    );
    assert_eq!((old.ropes[0].size, old.parallel, old.norm), (4, true, NormKind::Layer));
}

#[test]
fn what_is_not_supported_is_named() {
    let table = [
        (json!({"model_type": "qwen9"}), "model_type: `qwen9` is not supported"),
        (json!({"hidden_act": "relu"}), "hidden_act: `relu` is not supported"),
        (json!({"use_bidirectional_attention": true}), "use_bidirectional_attention: only causal"),
        (json!({"rope_scaling": {"type": "yarn"}}), "rope_scaling: unknown variant `yarn`"),
        (json!({"num_key_value_heads": 3}), "num_key_value_heads: 3 does not divide"),
        (json!({"num_attention_heads": 0}), "num_attention_heads: 0 is not between"),
        (json!({"num_hidden_layers": 1_u64 << 63}), "num_hidden_layers: 9223372036854775808 is not between"),
        (
            json!({"num_attention_heads": 1_u64 << 63}),
            "num_attention_heads: 9223372036854775808 is not between",
        ),
        (json!({"vocab_size": 1_u64 << 63}), "vocab_size: 9223372036854775808 is not between"),
        (
            json!({"model_type": "phi3", "partial_rotary_factor": 1e300}),
            "head_dim: 18446744073709551615 numbers",
        ),
        (json!({"head_dim": 3}), "head_dim: 4 numbers of 3 turn"),
        (json!({"hidden_size": "x"}), "invalid type: string \"x\""),
        (json!({"model_type": "mistral", "sliding_window": 0}), "sliding_window: 0"),
        (json!({"layer_types": ["full_attention"]}), "layer_types: 1 for 2 layers"),
        (json!({"model_type": "mixtral"}), "num_experts: missing"),
        (
            json!({"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 5}),
            "num_experts_per_tok: 5 is not between 1 and 4",
        ),
        (
            json!({"model_type": "qwen3_moe", "mlp_only_layers": [1]}),
            "decoder_sparse_step, mlp_only_layers: layers without experts",
        ),
        (json!({"layer_types": ["linear_attention", "x"]}), "layer_types: `linear_attention`"),
    ];
    for (change, want) in table {
        let message = parsed(change).unwrap_err();
        assert!(message.starts_with(want) || message.contains(want), "{message}");
    }
}

/// Digests are made of it: another text would refuse every posterior that there is.
#[test]
fn what_decides_a_forward_is_written_in_the_same_words_for_ever() {
    let llama = parsed(json!({"rope_scaling": {"type": "linear", "factor": 2.0}})).unwrap();
    let want = "llama 8 6 2 2 2 4 experts None norm Rms 0.000001 None attention ByKind 0.5 None \
                ropes [\"500000 4 linear 2\"] sights [(None, 0), (None, 0)] gate Gate { activation: Silu, gated: true } \
                biases false false false parallel false embedding 1";
    assert_eq!(llama.settings(), want);
}

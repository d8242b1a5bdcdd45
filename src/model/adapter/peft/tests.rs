use super::*;
use serde_json::json;

/// A base of three layers.
pub fn base() -> Config {
    let fields = json!({
        "model_type": "llama", "vocab_size": 10, "hidden_size": 8, "intermediate_size": 6, "num_hidden_layers": 3,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "max_position_embeddings": 64
    });
    Config::from_fields(&fields).unwrap()
}

fn sites(change: Value) -> Result<Vec<String>> {
    let mut config =
        json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"]});
    for (key, value) in change.as_object().unwrap() {
        config[key] = value.clone();
    }
    let parsed = parse(Path::new("adapter_config.json"), config.to_string().as_bytes(), &base())?;
    Ok(parsed.sites.iter().map(|(site, ..)| site.to_string()).collect())
}

#[test]
fn targets_follow_peft() {
    assert_eq!(sites(json!({})).unwrap().len(), 6);
    assert_eq!(sites(json!({"target_modules": "all-linear"})).unwrap().len(), 21);
    assert_eq!(sites(json!({"target_modules": r".*\.(1|2)\.mlp\.(up|down)_proj"})).unwrap().len(), 4);
    assert_eq!(
        sites(json!({"layers_to_transform": [1]})).unwrap(),
        ["model.layers.1.self_attn.q_proj", "model.layers.1.self_attn.v_proj"]
    );
    assert_eq!(
        sites(json!({"target_modules": ["mlp.up_proj"], "layers_to_transform": 2})).unwrap(),
        ["model.layers.2.mlp.up_proj"]
    );
    let whole = ["model.layers.0.self_attn.q_proj", "up_proj"];
    assert_eq!(
        sites(json!({"target_modules": whole, "layers_to_transform": 2})).unwrap(),
        ["model.layers.0.self_attn.q_proj", "model.layers.2.mlp.up_proj"]
    );
}

#[test]
fn patterns_change_rank_and_scale() {
    let config = json!({
        "peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"],
        "rank_pattern": {"1.self_attn.q_proj": 4}, "alpha_pattern": {"v_proj": 3}
    });
    let parsed = parse(Path::new("x"), config.to_string().as_bytes(), &base()).unwrap();
    let placed: Vec<_> = parsed.sites.iter().map(|(_, rank, scale)| (*rank, *scale)).collect();
    assert_eq!(placed, [(2, 2.0), (2, 1.5), (4, 1.0), (2, 1.5), (2, 2.0), (2, 1.5)]);
}

#[test]
fn the_first_pattern_in_the_file_counts() {
    let ranks = |patterns: &str| {
        let config = format!(
            r#"{{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"],
            "rank_pattern": {patterns}}}"#
        );
        let parsed = parse(Path::new("x"), config.as_bytes(), &base())?;
        Ok::<_, Error>(parsed.sites.iter().map(|(_, rank, _)| *rank).collect::<Vec<_>>())
    };
    assert_eq!(ranks(r#"{"q_proj": 8, "1.self_attn.q_proj": 4}"#).unwrap(), [8, 8, 8]);
    assert_eq!(ranks(r#"{"1.self_attn.q_proj": 4, "q_proj": 8}"#).unwrap(), [8, 4, 8]);
    assert_eq!(ranks("null").unwrap(), [2, 2, 2]);
    let message = ranks(r#"{"q_proj": 8, "q_proj": 4}"#).unwrap_err().to_string();
    assert!(message.contains("duplicate pattern `q_proj`"), "{message}");
}

#[test]
fn what_is_not_supported_is_named() {
    let table = [
        (json!({"peft_type": "IA3"}), "peft_type: `IA3`"),
        (json!({"fan_in_fan_out": true}), "fan_in_fan_out: not supported"),
        (json!({"bias": "some"}), "bias: `some`"),
        (json!({"rank_pattern": {"q_proj": 0}}), "rank_pattern: 0 is not a rank"),
        (json!({"alpha_pattern": {"(": 1}}), "alpha_pattern: regex"),
        (json!({"some_new_method": 3}), "some_new_method: not supported"),
        (json!({"use_bdlora": {"target_modules_bd_a": ["q_proj"]}}), "use_bdlora: not supported"),
        (json!({"arrow_config": {"top_k": 2}}), "arrow_config: not supported"),
        (json!({"monteclora_config": {"num_samples": 2}}), "monteclora_config: not supported"),
        (json!({"exclude_modules": ["k_proj"]}), "exclude_modules: not supported"),
        (json!({"exclude_modules": ".*k_proj"}), "exclude_modules: not supported"),
        (json!({"layers_pattern": "layers"}), "layers_pattern: not supported"),
        (json!({"init_lora_weights": "pissa_niter_4"}), "init_lora_weights: `pissa_niter_4`"),
        (json!({"target_modules": ["c_attn"]}), "target_modules: no linear layer"),
        (json!({"target_modules": "("}), "target_modules: regex"),
        (json!({"r": 0}), "r: 0 is not between"),
    ];
    for (change, want) in table {
        let message = sites(change).unwrap_err().to_string();
        assert!(message.contains(want), "{message}");
    }
    let neutral = json!({
        "rank_pattern": {}, "use_dora": false, "megatron_core": "x", "use_bdlora": null, "arrow_config": {},
        "monteclora_config": false, "exclude_modules": [], "layers_pattern": "", "init_lora_weights": true,
    });
    assert!(sites(neutral).is_ok());
    assert!(sites(json!({"init_lora_weights": "gaussian"})).is_ok());
}

//! Every way for a file to be wrong: one clear message that names file and tensor, line or key, and exit code 1.

use super::helpers::{Stored, Workspace, assert_says, change, first};
use std::collections::BTreeMap;

const SCORE: &str = "score --model base --adapter adapter --input inputs.jsonl";
const ADAPTER: &str = "adapter/adapter_model.safetensors";
const POSTERIOR: &str = "adapter/posterior.safetensors";

#[test]
fn a_missing_shard_is_named() {
    let workspace = Workspace::new("llama-1");
    let shard = std::fs::read_dir(workspace.path("base")).unwrap().map(|entry| entry.unwrap().file_name());
    let shard = shard.map(|name| name.into_string().unwrap()).find(|name| name.contains("-of-")).unwrap();
    std::fs::remove_file(workspace.path("base").join(&shard)).unwrap();
    assert_says(&workspace.fail(SCORE), &[&shard]);
}

#[test]
fn an_index_cannot_leave_its_folder() {
    let workspace = Workspace::new("llama-1");
    let index = "base/model.safetensors.index.json";
    workspace.write(index, r#"{"weight_map": {"model.norm.weight": "../adapter/x.safetensors"}}"#);
    assert_says(
        &workspace.fail(SCORE),
        &[index, "weight_map: `../adapter/x.safetensors` is not a file name"],
    );
}

#[test]
fn all_missing_and_misshaped_weights_are_named_at_once() {
    let workspace = Workspace::new("llama-0");
    change(&workspace, "base/model.safetensors", |tensors| {
        tensors.remove("model.norm.weight").unwrap();
        tensors.remove("model.layers.1.mlp.up_proj.weight").unwrap();
        let (_, shape, _) = tensors.get_mut("model.layers.0.self_attn.q_proj.weight").unwrap();
        shape.insert(0, 1);
    });
    let message = workspace.fail(SCORE);
    assert_says(
        &message,
        &["base: ", "model.norm.weight is missing", "layers.1.mlp.up_proj.weight is missing"],
    );
    assert_says(&message, &["layers.0.self_attn.q_proj.weight has shape [1, "]);
}

#[test]
fn a_weight_that_is_not_finite_is_named() {
    for (file, name) in [("base/model.safetensors", "model.norm.weight"), (ADAPTER, "lora_A")] {
        let workspace = Workspace::new("llama-0");
        change(&workspace, file, |tensors| {
            let name = first(tensors, name);
            let (_, _, bytes) = tensors.get_mut(&name).unwrap();
            bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        });
        assert_says(&workspace.fail(SCORE), &[name, "holds a number that is not finite"]);
    }
}

#[test]
fn a_truncated_file_is_named() {
    for file in ["base/model.safetensors", ADAPTER, POSTERIOR] {
        for keep in [4, 100, 5000] {
            let workspace = Workspace::new("llama-0");
            let bytes = workspace.read(file);
            workspace.write(file, &bytes[..keep.min(bytes.len() - 1)]);
            assert_says(&workspace.fail(SCORE), &[file]);
        }
    }
}

#[test]
fn adapter_tensors_that_are_missing_or_belong_nowhere_are_named() {
    let workspace = Workspace::new("llama-0");
    change(&workspace, ADAPTER, |tensors| {
        let missing = first(tensors, "layers.0.self_attn.v_proj.lora_B");
        let stored = tensors.remove(&missing).unwrap();
        tensors.insert("base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight".into(), stored);
    });
    let message = workspace.fail(SCORE);
    assert_says(&message, &[ADAPTER, "layers.0.self_attn.v_proj.lora_B.weight is missing"]);
    assert_says(&message, &["layers.9.self_attn.q_proj.lora_A.weight belongs nowhere"]);
}

/// An update of an expert is not left out in silence.
#[test]
fn an_adapter_of_experts_is_refused_by_its_tensors() {
    let workspace = Workspace::new("mixtral-0");
    let name = "base_model.model.model.layers.0.block_sparse_moe.experts.1.w1.lora_A.weight";
    change(&workspace, ADAPTER, |tensors| {
        let one = tensors[&first(tensors, "layers.0.self_attn.q_proj.lora_A")].clone();
        tensors.insert(name.into(), one);
    });
    assert_says(&workspace.fail(SCORE), &[ADAPTER, &format!("{name} belongs nowhere")]);
}

#[test]
fn a_misshaped_adapter_tensor_is_named() {
    let workspace = Workspace::new("llama-0");
    change(&workspace, ADAPTER, |tensors| {
        for part in ["layers.0.self_attn.q_proj.lora_A", "layers.1.self_attn.v_proj.lora_B", "score"] {
            let name = first(tensors, part);
            tensors.get_mut(&name).unwrap().1.insert(0, 1);
        }
    });
    let message = workspace.fail(SCORE);
    assert_says(&message, &[ADAPTER, "layers.0.self_attn.q_proj.lora_A.weight has shape [1, 4, "]);
    assert_says(&message, &["layers.1.self_attn.v_proj.lora_B.weight has shape [1, ", ", expected ["]);
    assert_says(&message, &["score.weight has shape [1, 1, "]);
}

#[test]
fn a_broken_adapter_config_is_named() {
    const CONFIG: &str = "adapter/adapter_config.json";
    for (text, want) in [
        ("{", "EOF"),
        ("not json", "expected ident"),
        (r#"{"peft_type": "LORA"}"#, "missing field `r`"),
        (r#"{"peft_type": "LORA", "r": "four", "lora_alpha": 1, "target_modules": []}"#, "invalid type"),
        (
            r#"{"peft_type": "LORA", "r": 4, "lora_alpha": 1, "target_modules": 3}"#,
            "expected a string or a list",
        ),
        (r#"{"peft_type": "LORA", "r": 4, "lora_alpha": 1, "target_modules": []}"#, "no linear layer"),
    ] {
        let workspace = Workspace::new("llama-0");
        workspace.write(CONFIG, text);
        assert_says(&workspace.fail(SCORE), &[CONFIG, want]);
    }
}

#[test]
fn a_missing_head_is_an_error() {
    let workspace = Workspace::new("llama-1");
    change(&workspace, ADAPTER, |tensors| {
        tensors.remove("base_model.model.score.weight").unwrap();
    });
    assert_says(&workspace.fail(SCORE), &[ADAPTER, "base_model.model.score.weight is missing"]);
    let message = workspace.fail("score --model base --input inputs.jsonl");
    assert_says(&message, &["no reward head", "hint:"]);
}

#[test]
fn a_foreign_posterior_is_refused() {
    let (workspace, other) = (Workspace::new("llama-0"), Workspace::new("llama3-1"));
    workspace.write(POSTERIOR, other.read(POSTERIOR));
    assert_says(&workspace.fail(SCORE), &[POSTERIOR, "the adapter has no such block"]);
    // One fitted to other weights of the same shape.
    let workspace = Workspace::new("llama-0");
    workspace.succeed("fit --model base --adapter adapter --data pairs.jsonl --output kept.safetensors");
    change(&workspace, ADAPTER, |tensors| {
        let name = first(tensors, "lora_B");
        tensors.get_mut(&name).unwrap().2[..4].copy_from_slice(&0.5f32.to_le_bytes());
    });
    workspace.write(POSTERIOR, workspace.read("kept.safetensors"));
    assert_says(&workspace.fail(SCORE), &[POSTERIOR, "fitted to another adapter", "hint:"]);
}

#[test]
fn a_posterior_with_a_wrong_number_or_block_is_refused() {
    type Change = fn(&mut BTreeMap<String, Stored>);
    let table: [(&str, Change); 4] = [
        ("curvature", |tensors| {
            let name = first(tensors, ".curvature");
            tensors.get_mut(&name).unwrap().2[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        }),
        ("curvature", |tensors| {
            let name = first(tensors, ".curvature");
            tensors.get_mut(&name).unwrap().2[..4].copy_from_slice(&(-1f32).to_le_bytes());
        }),
        ("the posterior has no such block", |tensors| tensors.retain(|name, _| !name.contains("score"))),
        ("nowhere", |tensors| {
            let name = first(tensors, ".curvature");
            let stored = tensors[&name].clone();
            tensors.insert("nowhere.curvature".into(), stored);
        }),
    ];
    for (want, wrong) in table {
        let workspace = Workspace::new("llama-0");
        change(&workspace, POSTERIOR, wrong);
        assert_says(&workspace.fail(SCORE), &[POSTERIOR, want]);
    }
}

#[test]
fn a_bad_line_is_named() {
    let workspace = Workspace::new("llama-0");
    workspace.write("inputs.jsonl", "{\"text\": \"a\"}\n{\"text\": \n");
    assert_says(&workspace.fail(SCORE), &["inputs.jsonl:2: "]);
    workspace.write("pairs.jsonl", "{\"prompt\": \"a\", \"chosen\": \"b\"}\n");
    let message = workspace.fail("train --model base --data pairs.jsonl --output new");
    assert_says(&message, &["pairs.jsonl:1: missing field `rejected`"]);
    workspace.write("base/config.json", "{");
    assert_says(&workspace.fail(SCORE), &["base/config.json: "]);
}

#[test]
fn tensors_that_every_base_brings_are_ignored_and_others_warned_about() {
    let workspace = Workspace::new("llama-0");
    change(&workspace, "base/model.safetensors", |tensors| {
        let stored = tensors["model.norm.weight"].clone();
        for name in ["lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq", "model.extra.weight"] {
            tensors.insert(name.into(), stored.clone());
        }
    });
    let output = workspace.run(SCORE);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    assert_says(&stderr, &["model.extra.weight is not used"]);
    assert!(!stderr.contains("lm_head") && !stderr.contains("inv_freq"), "{stderr}");
}

#[test]
fn a_module_that_was_saved_whole_must_be_there() {
    let workspace = Workspace::new("gpt_neox-2");
    let name = "base_model.model.gpt_neox.embed_in.weight";
    change(&workspace, ADAPTER, |tensors| {
        tensors.remove(name).unwrap();
    });
    assert_says(&workspace.fail(SCORE), &[ADAPTER, &format!("{name} is missing")]);
}

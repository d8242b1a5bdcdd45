//! `inspect`: what things are, and whether they belong together.

use super::helpers::{Workspace, assert_says};
use serde_json::{Value, json};

#[test]
fn a_checkpoint_its_adapter_and_its_posterior_are_described() {
    let workspace = Workspace::new("gemma3-0");
    let text = workspace.succeed("inspect --json base adapter");
    let sections: Vec<Value> = serde_json::from_str(&text).unwrap();
    let [base, adapter, posterior] = &sections[..] else { panic!("{text}") };
    assert_eq!([&base["family"], &base["layers"]], [&json!("gemma3_text"), &json!(2)]);
    assert_eq!(base["layers_with_a_window"], 1);
    assert!(base["memory_for_variances"].as_u64() > base["memory_for_means"].as_u64());
    assert_eq!([&adapter["rank"], &adapter["sites"]], [&json!(2), &json!(14)]);
    assert_eq!([&posterior["form"], &posterior["fits"]], [&json!("separate blocks"), &json!("the adapter")]);
    let table = workspace.succeed("inspect base adapter/posterior.safetensors");
    assert_says(&table, &["gemma3_text", "Laplace posterior"]);
}

#[test]
fn what_does_not_belong_together_is_said() {
    let (workspace, other) = (Workspace::new("llama-0"), Workspace::new("qwen3-0"));
    let base = other.path("base");
    let message = workspace.fail(&format!("inspect {} adapter", base.display()));
    assert_says(&message, &["adapter_model.safetensors", "expected"]);
    assert_says(&workspace.fail("inspect nowhere"), &["nowhere: not there"]);
    assert_says(&workspace.fail("inspect pairs.jsonl"), &["pairs.jsonl: neither", "hint:"]);
}

//! `inspect` and `render`: what things are, whether they belong together, and what a model sees.

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
    assert_eq!(posterior["form"], "separate blocks");
    // The reference does not write which base it took.
    assert_says(posterior["fits"].as_str().unwrap(), &["the adapter; the posterior does not say which base"]);
    let table = workspace.succeed("inspect base adapter/posterior.safetensors");
    assert_says(&table, &["gemma3_text", "Laplace posterior"]);
}

/// All experts take memory, and a token meets two of five.
#[test]
fn a_mixture_is_described_by_what_a_token_meets() {
    let text = Workspace::new("mixtral-0").succeed("inspect --json base");
    let sections: Vec<Value> = serde_json::from_str(&text).unwrap();
    let number = |key: &str| sections[0][key].as_u64().unwrap();
    assert_eq!(sections[0]["experts"], "5, 2 of them for a token");
    // q and o, k and v, the router; gate, up and down of an expert.
    let (layers, beside, expert) = (2, 2 * 32 * 32 + 2 * 16 * 32 + 5 * 32, 3 * 40 * 32);
    assert_eq!(number("operations_a_token__mean"), 2 * layers * (beside + 2 * expert));
    assert!(number("parameters") > layers * (beside + 5 * expert));
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

#[test]
fn a_model_sees_the_tokens_that_transformers_gives_it() {
    let workspace = Workspace::new("llama-0");
    let expected: Value = serde_json::from_slice(&workspace.read("expected.json")).unwrap();
    let text = workspace.succeed("render --model base --input inputs.jsonl");
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let want = &expected["items"][line["id"].as_str().unwrap()]["input_ids"];
        assert_eq!(&line["input_ids"], want);
        assert!(line["pooled"].as_u64().unwrap() < want.as_array().unwrap().len() as u64);
    }
    // Weights are not read, and what is refused is said in its place.
    std::fs::remove_file(workspace.path("base/model.safetensors")).unwrap();
    std::fs::remove_file(workspace.path("base/chat_template.jinja")).unwrap();
    workspace.write("inputs.jsonl", r#"{"id": 1, "messages": [{"role": "user", "content": "x"}]}"#);
    let line: Value =
        serde_json::from_str(&workspace.succeed("render --model base --input inputs.jsonl")).unwrap();
    assert!(line["error"].as_str().unwrap().contains("no chat template"), "{line}");
}

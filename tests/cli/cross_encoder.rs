//! Commands on encoders with a classification head: means, and no more than that.

use super::helpers::{Workspace, assert_says};
use serde_json::Value;
use std::path::Path;

fn base(case: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/cross_encoders");
    folder.join(case).join("base").display().to_string()
}

/// Items with the rewards that transformers gives them.
fn reference(workspace: &Workspace, case: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/cross_encoders").join(case);
    let expected: Value =
        serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
    let lines = std::fs::read_to_string(folder.join("inputs.jsonl")).unwrap();
    let with_mean = |line: &str| {
        let mut item: Value = serde_json::from_str(line).unwrap();
        item["mean"] = expected[item["id"].as_str().unwrap()]["mean"].clone();
        format!("{item}\n")
    };
    workspace.write("reference.jsonl", lines.lines().map(with_mean).collect::<String>());
}

#[test]
fn rewards_are_verified_scored_and_judged() {
    let workspace = Workspace::new("llama-0");
    for case in ["bert", "deberta", "modernbert"] {
        reference(&workspace, case);
        let base = base(case);
        workspace.succeed(&format!("verify --model {base} --reference reference.jsonl --tolerance 1e-4"));
        let line = workspace.succeed(&format!("score --model {base} --input reference.jsonl"));
        let line: Value = serde_json::from_str(line.lines().next().unwrap()).unwrap();
        assert!(line["mean"].is_number() && line["std"].is_null(), "{line}");
        assert_eq!(line["score"], line["mean"]);
        assert_says(&workspace.succeed(&format!("inspect {base}")), &["cross-encoder", "longest sequence"]);
    }
    workspace.write("pairs.jsonl", r#"{"prompt": "a", "chosen": "bake bread", "rejected": "x"}"#);
    let judged = workspace.succeed(&format!("evaluate pairs --model {} --data pairs.jsonl", base("bert")));
    let judged: Value = serde_json::from_str(&judged).unwrap();
    assert_eq!(judged["all"]["pairs"], 1);
}

#[test]
fn what_a_cross_encoder_cannot_do_is_said() {
    let workspace = Workspace::new("llama-0");
    let base = base("bert");
    let score = format!("score --model {base} --input inputs.jsonl");
    assert_says(
        &workspace.fail(&format!("{score} --adapter adapter")),
        &["--adapter: a cross-encoder takes none"],
    );
    assert_says(&workspace.fail(&format!("{score} --compute bf16")), &["--compute: ", "f32"]);
    let fit = format!("fit --model {base} --adapter adapter --data pairs.jsonl");
    assert_says(&workspace.fail(&fit), &["config.json: ", "bert"]);
}

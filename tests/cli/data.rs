//! Data that `train`, `fit` and `evaluate` cannot use, or can use in part: messages with a place, and counts.

use super::helpers::{Workspace, assert_says};
use serde_json::{Value, json};

const TRAIN: &str = "train --model base --batch-size 4 --rank 2 --holdout 0 --output new";
const FIT: &str = "fit --model base --adapter adapter --output x.safetensors";

fn pair(answer: &str) -> String {
    json!({"prompt": "Hi", "chosen": answer, "rejected": "no"}).to_string()
}

/// A pair whose answer has far more tokens than the limits below.
fn long() -> String {
    pair(&"yes ".repeat(100))
}

#[test]
fn a_pair_that_is_too_long_is_named_with_its_line() {
    let workspace = Workspace::new("llama-0");
    workspace.write("x.jsonl", format!("{}\n\n{}\n", pair("yes"), long()));
    for command in [TRAIN, FIT, "evaluate pairs --model base --adapter adapter"] {
        let error = format!("{command} --data x.jsonl --max-length 60 --too-long error");
        let message = workspace.fail(&error);
        assert_says(&message, &["x.jsonl:3: chosen: has ", "limit of 60", "hint: `--too-long skip`"]);
        assert!(!message.contains("`truncation`"), "{message}");
    }
}

#[test]
fn a_pair_that_the_template_refuses_is_named_with_its_line() {
    let workspace = Workspace::new("llama-0");
    let refused = r#"{"prompt": [{"role": "user", "content": "Hi"}], "chosen": "a", "rejected": "b"}"#;
    workspace.write("x.jsonl", format!("{}\n{refused}\n", pair("yes")));
    workspace.write("base/chat_template.jinja", "{{ raise_exception('no such talk') }}");
    for command in [TRAIN, FIT] {
        let message = workspace.fail(&format!("{command} --data x.jsonl"));
        assert_says(&message, &["x.jsonl:1: chosen: ", "no such talk"]);
    }
}

#[test]
fn a_side_that_cannot_be_cut_is_left_out_and_counted() {
    let workspace = Workspace::new("llama-0");
    let text = json!({"chosen": "yes ".repeat(100), "rejected": "no"});
    let prompt = json!({"prompt": "why ".repeat(100), "chosen": "yes", "rejected": "no"});
    let lines = [text.to_string(), prompt.to_string(), long(), pair("yes")];
    workspace.write("x.jsonl", lines.join("\n"));
    let train = format!("{TRAIN} --data x.jsonl --max-length 60 --too-long truncate");
    let summary: Value = serde_json::from_str(&workspace.succeed(&train)).unwrap();
    assert_eq!(
        (&summary["pairs"], &summary["skipped"], &summary["truncated"]),
        (&json!(2), &json!(2), &json!(1))
    );
}

#[test]
fn what_is_left_out_is_counted() {
    let workspace = Workspace::new("llama-0");
    workspace.write("x.jsonl", format!("{}\n{}\n{}\n", pair("yes"), pair("yes please"), long()));
    let fit = format!("{FIT} --data x.jsonl --held-out x.jsonl --max-length 60");
    let counts = |report: &Value| {
        ["pairs", "skipped", "truncated", "held_out_pairs", "held_out_skipped", "held_out_truncated"]
            .map(|key| report[key].as_u64().unwrap())
    };
    let report: Value = serde_json::from_str(&workspace.succeed(&fit)).unwrap();
    assert_eq!(counts(&report), [2, 1, 0, 2, 1, 0]);
    let output = workspace.run(&format!("{fit} --too-long truncate"));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_says(&stderr, &["fitting to 3 pairs (0 too long, left out; 1 cut), 3 pairs (0 too long"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(counts(&report), [3, 0, 1, 3, 0, 1]);

    // Of twenty prompts some are held out; half of the answers to each are too long.
    let line = |i: usize| {
        let chosen = "yes ".repeat(if i.is_multiple_of(2) { 1 } else { 100 });
        json!({"prompt": (i / 2).to_string(), "chosen": chosen, "rejected": "no"}).to_string()
    };
    workspace.write("x.jsonl", (0..40).map(line).collect::<Vec<_>>().join("\n"));
    let train = format!("{TRAIN} --data x.jsonl --max-length 60").replace("--holdout 0", "--holdout 0.5");
    let summary: Value = serde_json::from_str(&workspace.succeed(&train)).unwrap();
    let skipped = [&summary["skipped"], &summary["held_out_skipped"]].map(|count| count.as_u64().unwrap());
    assert!(skipped.iter().sum::<u64>() == 20 && !skipped.contains(&0), "{summary}");
    assert_eq!(summary["held_out"]["pairs"], summary["held_out_skipped"]);
}

#[test]
fn where_nothing_is_left_the_right_flag_is_named() {
    let workspace = Workspace::new("llama-0");
    let data = "--data pairs.jsonl";
    workspace.write("long.jsonl", long());
    let none = "x.jsonl: no preference pair in it";
    workspace.write("x.jsonl", "\n");
    let table = [
        (format!("{TRAIN} --data x.jsonl"), none),
        (format!("{TRAIN} {data} --epochs 0.001"), "--epochs: leaves no pair of 24 to train on"),
        (format!("{TRAIN} {data} --max-tokens 0"), "--max-tokens: leaves no pair of 24 to train on"),
        (format!("{TRAIN} {data} --max-length 2"), "--max-length: none of 24 pairs fits into 2 tokens"),
        (format!("{TRAIN} {data} --exclude-source x --data x.jsonl"), none),
        (format!("{FIT} {data} --max-pairs 0"), "--max-pairs: 0 leaves nothing to fit to"),
        (
            format!("{FIT} {data} --held-out long.jsonl --max-length 60"),
            "long.jsonl: --max-length: none of 1 pairs fits into 60 tokens",
        ),
        (format!("{FIT} {data} --held-out nowhere.jsonl"), "nowhere.jsonl: "),
    ];
    for (command, want) in table {
        assert_says(&workspace.fail(&command), &[want]);
        assert!(!workspace.path("new/adapter_model.safetensors").exists(), "{command}");
        assert!(!workspace.path("x.safetensors.pass1").exists(), "{command}");
    }
    workspace.write("one.jsonl", pair("yes"));
    let train = TRAIN.replace("--holdout 0", "--holdout 0.9999999");
    assert_says(&workspace.fail(&format!("{train} --data one.jsonl")), &["--holdout: ", "all of 1 pairs"]);
}

#[test]
fn the_embedded_posterior_is_not_overwritten_by_accident() {
    let message = Workspace::new("llama-0").fail("fit --data pairs.jsonl");
    assert_says(&message, &["--output: needed without `--adapter`", "hint:"]);
}

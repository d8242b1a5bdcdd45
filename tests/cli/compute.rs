//! `--compute` and `--deterministic`: what they change, and what they may not.

use super::helpers::{Workspace, assert_says};
use serde_json::Value;
use std::collections::BTreeMap;

const SCORE: &str = "score --model base --adapter adapter";

/// The lines of an output by id.
fn by_id(output: &str) -> BTreeMap<String, Value> {
    let lines = output.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.map(|line| (line["id"].to_string(), line)).collect()
}

fn means(workspace: &Workspace, flags: &str) -> Vec<f64> {
    let output = workspace.succeed(&format!("{SCORE} --input inputs.jsonl --no-variance {flags}"));
    by_id(&output).values().map(|line| line["mean"].as_f64().unwrap()).collect()
}

#[test]
fn int8_gives_means_close_to_those_of_f32_and_no_variance() {
    for case in ["mixtral-0", "llama-0"] {
        let workspace = Workspace::new(case);
        let (exact, rounded) = (means(&workspace, ""), means(&workspace, "--compute int8"));
        assert_ne!(exact, rounded);
        let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
        let error = norm(&mut exact.iter().zip(&rounded).map(|(a, b)| a - b));
        assert!(error < 0.05 * norm(&mut exact.iter().copied()), "{case}: {exact:?} {rounded:?}");
    }
    let workspace = Workspace::new("llama-0");
    for command in [
        format!("{SCORE} --input inputs.jsonl --compute int8"),
        "bench --model base --adapter adapter --compute int8 --pools pools.jsonl --seconds 0 --lengths 4 --batch-tokens 4".into(),
    ] {
        workspace.write("pools.jsonl", "");
        assert_says(&workspace.fail(&command), &["int8", "variance"]);
    }
}

#[test]
fn half_precision_scores_with_variances() {
    let workspace = Workspace::new("llama-0");
    let lines = |flags: &str| by_id(&workspace.succeed(&format!("{SCORE} --input inputs.jsonl {flags}")));
    let exact = lines("--device cpu");
    for compute in ["bf16", "f16"] {
        let rounded = lines(&format!("--compute {compute}"));
        assert_ne!(rounded, exact);
        for (id, line) in &rounded {
            let [got, want] = [line, &exact[id]].map(|line| line["std"].as_f64().unwrap());
            assert!((got / want - 1.0).abs() < 0.2, "{compute} {id}: {got} is not {want}");
        }
    }
    assert_says(
        &workspace.fail(&format!("{SCORE} --input inputs.jsonl --device cuda:1")),
        &["--device cuda:1: "],
    );
}

#[test]
fn deterministic_scores_do_not_depend_on_the_other_items() {
    let workspace = Workspace::new("llama-1");
    let lines: Vec<String> =
        String::from_utf8(workspace.read("inputs.jsonl")).unwrap().lines().map(str::to_owned).collect();
    let score = |lines: &[String]| {
        workspace.write("some.jsonl", lines.join("\n"));
        by_id(&workspace.succeed(&format!("{SCORE} --input some.jsonl --deterministic")))
    };
    let all = score(&lines);
    let reversed: Vec<String> = lines.iter().rev().cloned().collect();
    assert_eq!(score(&reversed), all);
    for (id, line) in score(&lines[1..3]) {
        assert_eq!(line, all[&id]);
    }
}

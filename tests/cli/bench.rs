//! `bench`: on a tiny model everything is measured in a moment, and every number is there.

use super::helpers::Workspace;
use serde_json::{Value, json};

const BENCH: &str = "bench --lengths 4,8,600 --batch-tokens 4,16,600 --candidates 1,3 --prompt-tokens 6 --answer-tokens 2 \
    --ranks 2,4 --seconds 0 --json bench.json";

fn report(workspace: &Workspace, flags: &str) -> (String, Value) {
    let text = workspace.succeed(&format!("{BENCH} {flags}"));
    (text, serde_json::from_slice(&workspace.read("bench.json")).unwrap())
}

#[test]
fn every_cell_that_the_model_takes_is_measured() {
    let workspace = Workspace::new("llama-0");
    let (text, report) = report(&workspace, "--model base --adapter adapter");
    let cells = report["cells"].as_array().unwrap();
    // The model takes 512 tokens, and no sequence is longer than its batch.
    let sizes: Vec<Value> = cells
        .iter()
        .map(|cell| json!([cell["batch_tokens"], cell["length"], cell["sequences"], cell["tokens"]]))
        .collect();
    assert_eq!(
        json!(sizes),
        json!([[4, 4, 1, 4], [16, 4, 4, 16], [16, 8, 2, 16], [600, 4, 150, 600], [600, 8, 75, 600]])
    );
    for side in cells.iter().flat_map(|cell| [&cell["mean"], &cell["variance"]]) {
        for number in
            ["tokens_per_second", "share", "gflops", "operations_floor_seconds", "bytes_floor_seconds"]
        {
            assert!(side[number].as_f64().unwrap() > 0.0, "{number}: {side}");
        }
    }
    let tokens: Vec<_> =
        report["candidates"].as_array().unwrap().iter().map(|f| &f["folded_tokens"]).collect();
    assert_eq!(tokens, [&json!(8), &json!(12)]);
    let ranks: Vec<_> = report["ranks"].as_array().unwrap().iter().map(|ranked| &ranked["rank"]).collect();
    assert_eq!(ranks, [&json!(2), &json!(4)]);
    assert_eq!(report["stand_in_posterior"], json!(false));
    for part in ["Means and variances", "Recommended: --batch-tokens ", "Candidates: ", "Rank of the update"]
    {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}

#[test]
fn a_base_alone_is_measured_with_a_fresh_adapter() {
    let workspace = Workspace::new("llama-0");
    let (text, report) = report(&workspace, "--model base");
    assert!(text.contains("of a stand-in posterior"), "{text}");
    assert!(report["cells"][0]["variance"]["tokens_per_second"].as_f64().unwrap() > 0.0);
    assert!(workspace.fail("bench --model base --seconds nan").contains("--seconds: NaN is not a time"));
    let message = Workspace::new("mixtral-0").fail("bench --model base --adapter adapter");
    assert!(message.contains("--model: no limit is known") && message.contains("experts"), "{message}");
}

#[test]
fn pools_of_a_file_are_measured_and_their_winners_checked() {
    let workspace = Workspace::new("llama-0");
    let pool = |prompt: &str| json!({"prompt": prompt, "responses": ["a", "b c", "a", "d"], "source": "x"});
    workspace.write("pools.jsonl", format!("{}\n{}\n", pool("one two"), pool("three")));
    let (text, report) = report(&workspace, "--model base --adapter adapter --pools pools.jsonl --answers 3");
    let pools = report["pools"].as_array().unwrap();
    assert_eq!(pools.len(), 2);
    for pool in pools {
        assert_eq!(pool["candidates"], json!(3));
        assert!(pool["complete"].as_u64().unwrap() >= 1 && pool["walked"].as_f64().unwrap() <= 1.0, "{pool}");
    }
    assert!(text.contains("Pools: medians of 2"), "{text}");
    workspace.write("pools.jsonl", "{\"prompt\": \"a\"}\n");
    let message = workspace.fail(&format!("{BENCH} --model base --adapter adapter --pools pools.jsonl"));
    assert!(message.contains("pools.jsonl:1") && message.contains("responses"), "{message}");
}

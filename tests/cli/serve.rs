//! `rewarden serve` with the real loading of adapters, while it runs.

use reqwest::Response;
use serde_json::{Value, json};

use crate::helpers::{Serving, Workspace, assert_says, change, copy, first};

const KEYS: &str = r#"
{"name": "trainer", "key": "score-key", "roles": ["score"]}
{"name": "root", "key": "admin-key", "roles": ["admin"]}
"#;

/// Base and adapter, an adapter as it is below `root`, and one with another head.
fn workspace() -> Workspace {
    let workspace = Workspace::new("llama-0");
    workspace.write("keys.jsonl", KEYS);
    for name in ["same", "other"] {
        copy(&workspace.path("adapter"), &workspace.path("root").join(name));
    }
    change(&workspace, "root/other/adapter_model.safetensors", |tensors| {
        let head = first(tensors, "score");
        // The sign of every number.
        tensors.get_mut(&head).unwrap().2.iter_mut().skip(3).step_by(4).for_each(|byte| *byte ^= 0x80);
    });
    std::fs::remove_file(workspace.path("root/other/posterior.safetensors")).unwrap();
    workspace
}

async fn load(serving: &Serving, name: &str, path: &str) -> Response {
    let body = json!({"lora_name": name, "lora_path": path, "load_inplace": true});
    serving.post("/v1/load_lora_adapter").bearer_auth("admin-key").json(&body).send().await.unwrap()
}

/// The fingerprint of a model and what it gives one item.
async fn scored(serving: &Serving, model: &str) -> (String, Value) {
    let body = json!({"model": model, "items": [{"input_ids": [3, 5, 7, 9]}]});
    let answer = serving.post("/v1/rewards").bearer_auth("score-key").json(&body).send().await.unwrap();
    let fingerprint = answer.headers()["x-rewarden-model"].to_str().unwrap().to_owned();
    (fingerprint, answer.json::<Value>().await.unwrap()["data"][0].clone())
}

#[tokio::test]
async fn an_adapter_that_comes_later_scores_as_one_of_the_start() {
    let workspace = workspace();
    let flags = "serve --port 0 --model base --adapter first=adapter --keys keys.jsonl --adapter-root root";
    let serving = Serving::ready(workspace.command(&format!("{flags} --adapter-memory 1"))).await;
    let (fingerprint, reward) = scored(&serving, "first").await;
    assert_eq!(load(&serving, "judge", "same").await.status(), 200);
    // The same files are the same model.
    assert_eq!(scored(&serving, "judge").await, (fingerprint.clone(), reward.clone()));
    let loaded = load(&serving, "judge", "other").await;
    let header = loaded.headers()["x-rewarden-model"].to_str().unwrap().to_owned();
    assert_eq!(loaded.status(), 200);
    let (other, turned) = scored(&serving, "judge").await;
    assert_eq!(header, other);
    assert_ne!(other, fingerprint);
    let mean = |reward: &Value| reward["mean"].as_f64().unwrap();
    assert_eq!(mean(&turned), -mean(&reward), "its head is the negative of the first's");
    assert!(turned["variance"].is_null(), "and it has no posterior");
    assert_eq!(scored(&serving, "first").await, (fingerprint, reward));
    // A posterior that cannot be read is refused, and what was served stays.
    workspace.write("root/other/posterior.safetensors", "of nothing");
    let refused = load(&serving, "judge", "other").await;
    assert_eq!(refused.status(), 400);
    assert_says(&refused.text().await.unwrap(), &["lora_path", "posterior.safetensors"]);
    assert_eq!(scored(&serving, "judge").await, (other, turned));
}

#[test]
fn a_root_needs_an_administrator_and_a_base_that_takes_adapters() {
    let workspace = workspace();
    let flags = "serve --port 0 --model base --adapter adapter --adapter-root root";
    assert_says(&workspace.fail(flags), &["--adapter-root: needs a key with the role `admin`"]);
    let nowhere = format!("{} --keys keys.jsonl", flags.replace("root root", "root nowhere"));
    assert_says(&workspace.fail(&nowhere), &["nowhere"]);
    assert!(!workspace.run("serve --model base --adapter adapter --adapter-memory 5").status.success());
}

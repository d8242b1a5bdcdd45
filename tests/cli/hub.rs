//! Names on the hub: against a stub of its API, with the program itself.

mod stub;

use super::helpers::{Serving, Workspace, assert_says};
use serde_json::Value;
use std::{fs, process::Output};
use stub::{Answer, Hub};

const LOCAL: &str = "score --model base --adapter adapter --input inputs.jsonl";
const NAMED: &str = "score --model org/base --adapter org/judge --input inputs.jsonl";

/// A workspace, and a hub that has its base and its adapter.
fn hub(case: &str) -> (Workspace, Hub) {
    let workspace = Workspace::new(case);
    let hub = Hub::start();
    hub.add("org/base", "main", &workspace.path("base"));
    hub.add("org/judge", "main", &workspace.path("adapter"));
    (workspace, hub)
}

fn run(workspace: &Workspace, hub: &Hub, arguments: &str, environment: &[(&str, &str)]) -> Output {
    let mut command = workspace.command(arguments);
    command.env("HF_HUB_OFFLINE", "0").env("HF_ENDPOINT", hub.address());
    command.envs(environment.iter().copied()).output().unwrap()
}

fn online(workspace: &Workspace, hub: &Hub, arguments: &str) -> String {
    let output = run(workspace, hub, arguments, &[]);
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The message of a run that must fail.
fn refused(workspace: &Workspace, hub: &Hub, arguments: &str, environment: &[(&str, &str)]) -> String {
    let output = run(workspace, hub, arguments, environment);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && !stderr.contains("panicked"), "{stderr}");
    stderr.split_once("error: ").unwrap_or_else(|| panic!("{stderr}")).1.trim_end().to_owned()
}

#[test]
fn a_model_is_fetched_once_and_scores_as_a_folder_does() {
    for case in ["llama-0", "llama-1"] {
        let (workspace, hub) = hub(case);
        workspace.write("base/README.md", "# A card");
        workspace.write("base/pytorch_model.bin", "a pickle beside the tensors");
        let want = workspace.succeed(LOCAL);
        let first = run(&workspace, &hub, NAMED, &[]);
        let log = String::from_utf8(first.stderr).unwrap();
        assert_eq!(String::from_utf8(first.stdout).unwrap(), want, "{log}");
        assert_says(&log, &["org/base@main: fetching ", "org/judge@main: fetching 3 files"]);
        let fetched = hub.take();
        assert!(fetched.iter().any(|request| request.contains("model") && request.contains("org/base")));
        assert!(!fetched.iter().any(|request| request.contains("README") || request.contains(".bin")));
        // Again: the hub is asked for the two commits alone.
        assert_eq!(online(&workspace, &hub, NAMED), want);
        let asked = hub.take();
        assert!(
            asked.len() == 2 && asked.iter().all(|request| request.starts_with("/api/models/")),
            "{asked:?}"
        );
        // Offline, with no hub at all.
        drop(hub);
        assert_eq!(workspace.succeed(NAMED), want);
        assert!(workspace.path("hf/hub/models--org--judge/refs/main").is_file());
    }
}

#[test]
fn a_revision_is_a_branch_a_tag_or_a_commit() {
    let (workspace, other) = (Workspace::new("llama-0"), Workspace::new("llama-0"));
    fs::remove_file(other.path("adapter/posterior.safetensors")).unwrap();
    let hub = Hub::start();
    let commit = hub.add("org/judge", "main", &workspace.path("adapter"));
    hub.add("org/judge", "refs/pr/1", &other.path("adapter"));
    let score =
        |revision: &str| format!("score --model base --adapter org/judge{revision} --input inputs.jsonl");
    let with = workspace.succeed(LOCAL);
    let without = other.succeed(LOCAL);
    assert_ne!(with, without);
    for (revision, want) in
        [("@refs/pr/1", &without), ("", &with), ("@main", &with), (&format!("@{commit}"), &with)]
    {
        assert_eq!(&online(&workspace, &hub, &score(revision)), want, "{revision}");
        assert_eq!(&workspace.succeed(&score(revision)), want, "{revision}");
    }
    // What both revisions have was fetched once.
    let weights = hub.take().into_iter().filter(|request| request.starts_with("/cdn/"));
    let ranges = weights.filter(|request| !request.ends_with("bytes=0-0"));
    assert_eq!(ranges.count(), 2, "adapter and posterior");
    let message = refused(&workspace, &hub, &score("@v9"), &[]);
    assert_says(&message, &["org/judge@v9: no such revision"]);
    assert_says(&workspace.fail(&score("@v9")), &["org/judge@v9: ", "is not there"]);
}

#[test]
fn a_token_is_sent_and_a_refusal_explained() {
    let (workspace, hub) = hub("llama-0");
    hub.set(Answer::Token("secret"));
    let want = workspace.succeed(LOCAL);
    let message = refused(&workspace, &hub, NAMED, &[]);
    assert_says(&message, &["org/base@main: neither a path here nor a repository", "`HF_TOKEN`", "401"]);
    let message = refused(&workspace, &hub, NAMED, &[("HF_TOKEN", "another")]);
    assert_says(&message, &["org/base@main: ", "may the token of `HF_TOKEN` read it?"]);
    assert!(!message.contains("another"), "{message}");
    let output = run(&workspace, &hub, NAMED, &[("HF_TOKEN", "secret")]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), want);
    hub.set(Answer::Gated);
    let message = refused(&workspace, &hub, "inspect org/new@main", &[]);
    assert_says(&message, &["org/new@main: neither a path here nor a repository", "404"]);
    hub.add("org/gated", "main", &workspace.path("adapter"));
    let message = refused(&workspace, &hub, "inspect org/gated", &[("HF_TOKEN", "secret")]);
    assert_says(&message, &["org/gated@main: ", ": the hub refuses it", "consent", "403"]);
}

#[test]
fn pickles_are_refused() {
    let (workspace, hub) = hub("llama-0");
    for (folder, weights, pickle) in [
        ("base", "model.safetensors", "pytorch_model.bin"),
        ("adapter", "adapter_model.safetensors", "adapter_model.bin"),
    ] {
        fs::rename(workspace.path(folder).join(weights), workspace.path(folder).join(pickle)).unwrap();
    }
    hub.add("org/old", "main", &workspace.path("base"));
    hub.add("org/old-judge", "main", &workspace.path("adapter"));
    let old = "score --model org/old --adapter org/judge --input inputs.jsonl";
    let message = refused(&workspace, &hub, old, &[]);
    assert_says(&message, &["org/old@main: only pickles (pytorch_model.bin), which are refused", "hint:"]);
    let old = "score --model org/base --adapter org/old-judge --input inputs.jsonl";
    assert_says(
        &refused(&workspace, &hub, old, &[]),
        &["org/old-judge@main: only pickles (adapter_model.bin)"],
    );
    assert!(!hub.take().iter().any(|request| request.contains(".bin")));
}

#[test]
fn an_index_names_safetensors_beside_it() {
    let (workspace, hub) = hub("llama-1");
    for shard in ["../x.safetensors", "pytorch_model-00001-of-00002.bin"] {
        let index = format!(r#"{{"weight_map": {{"model.norm.weight": "{shard}"}}}}"#);
        workspace.write("base/model.safetensors.index.json", index);
        hub.add("org/wrong", "main", &workspace.path("base"));
        assert_says(
            &refused(&workspace, &hub, "inspect org/wrong", &[]),
            &["org/wrong@main: ", shard, "is not a file"],
        );
    }
}

#[test]
fn offline_what_is_missing_is_named() {
    let (workspace, hub) = hub("llama-0");
    assert_says(
        &workspace.fail(NAMED),
        &[
            "org/base@main: neither a path here nor whole in the cache (",
            "`HF_HUB_OFFLINE`: model.safetensors is not there",
        ],
    );
    online(&workspace, &hub, "render --model org/base --input inputs.jsonl");
    assert!(!hub.take().iter().any(|request| request.contains("safetensors")), "its weights are not read");
    workspace.succeed("render --model org/base --input inputs.jsonl");
    assert_says(&workspace.fail(NAMED), &["org/base@main: ", "model.safetensors is not there"]);
    online(&workspace, &hub, NAMED);
    let snapshots = workspace.path("hf/hub/models--org--judge/snapshots");
    let snapshot = fs::read_dir(snapshots).unwrap().next().unwrap().unwrap().path();
    fs::remove_file(snapshot.join("adapter_config.json")).unwrap();
    assert_says(&workspace.fail(NAMED), &["org/judge@main: ", "adapter_config.json is not there"]);
    // Online it is found again.
    hub.take();
    online(&workspace, &hub, NAMED);
    assert!(hub.take().iter().all(|request| !request.starts_with("/cdn/")));
}

#[test]
fn a_path_is_never_looked_for_on_the_hub() {
    let (workspace, hub) = hub("llama-0");
    fs::create_dir(workspace.path("org")).unwrap();
    for (from, to) in [("base", "org/base"), ("adapter", "org/judge")] {
        fs::rename(workspace.path(from), workspace.path(to)).unwrap();
    }
    online(&workspace, &hub, NAMED);
    for (model, want) in
        [("nowhere", "nowhere: not there, and no name on the hub either"), ("a/b.gguf", "not there")]
    {
        let score = format!("score --model {model} --adapter org/judge --input inputs.jsonl");
        assert_says(&refused(&workspace, &hub, &score, &[]), &[want]);
    }
    assert_eq!(hub.take(), Vec::<String>::new());
    assert!(!workspace.path("hf").exists());
}

#[test]
fn what_breaks_off_goes_on_and_what_is_silent_is_given_up() {
    let (workspace, hub) = hub("llama-0");
    let want = workspace.succeed(LOCAL);
    hub.set(Answer::BrokenOff);
    assert_says(&refused(&workspace, &hub, NAMED, &[]), &["org/base@main: model.safetensors: "]);
    assert_says(&workspace.fail(NAMED), &["org/base@main: ", "is not there"]);
    hub.set(Answer::Plain);
    hub.take();
    assert_eq!(online(&workspace, &hub, NAMED), want);
    let rest =
        hub.take().into_iter().find(|request| request.starts_with("/cdn/") && !request.ends_with("=0-0"));
    assert!(rest.is_some_and(|request| !request.ends_with("bytes=0-")), "it goes on where it broke off");
    hub.add("org/short", "main", &workspace.path("adapter"));
    hub.set(Answer::Short);
    fs::remove_dir_all(workspace.path("hf")).unwrap();
    assert_says(
        &refused(&workspace, &hub, "inspect org/short", &[]),
        &["org/short@main: ", "bytes that the hub has"],
    );
    hub.set(Answer::Silence);
    let patience = [("HF_HUB_DOWNLOAD_TIMEOUT", "1")];
    assert_says(
        &refused(&workspace, &hub, NAMED, &patience),
        &["org/base@main: the hub has said nothing for 1 s"],
    );
    hub.set(Answer::Escape);
    assert_says(&refused(&workspace, &hub, NAMED, &[]), &["org/base@main: the hub's answer names no commit"]);
    drop(hub);
    let mut command = workspace.command(NAMED);
    let output =
        command.env("HF_HUB_OFFLINE", "0").env("HF_ENDPOINT", "http://127.0.0.1:1").output().unwrap();
    assert_says(
        &String::from_utf8(output.stderr).unwrap(),
        &["the hub cannot be reached", "HF_HUB_OFFLINE=1"],
    );
}

#[test]
fn every_command_takes_a_name() {
    let (workspace, hub) = hub("llama-0");
    let model = "--model org/base --adapter org/judge";
    let sections: Vec<Value> =
        serde_json::from_str(&online(&workspace, &hub, "inspect --json org/base org/judge")).unwrap();
    assert_eq!(sections.len(), 3);
    assert_eq!(sections[1]["fits"], "base", "the base has its repository's name");
    online(&workspace, &hub, &format!("evaluate pairs {model} --member org/judge@main --data pairs.jsonl"));
    let message = refused(&workspace, &hub, &format!("fit {model} --data pairs.jsonl"), &[]);
    assert_says(&message, &["--output: needed with a model of the hub"]);
    online(&workspace, &hub, &format!("fit {model} --data pairs.jsonl --output fitted.safetensors"));
    online(&workspace, &hub, &format!("train {model} --data pairs.jsonl --batch-size 4 --output new"));
    let config: Value = serde_json::from_slice(&workspace.read("new/adapter_config.json")).unwrap();
    assert_eq!(config["base_model_name_or_path"], "base");
    let summary: Value = serde_json::from_slice(&workspace.read("new/training.json")).unwrap();
    assert_eq!(summary["started_from"], "org/judge");
}

#[tokio::test]
async fn a_model_is_served_by_its_repositorys_name() {
    let (workspace, hub) = hub("llama-0");
    let mut serve = workspace
        .command("serve --port 0 --model org/base --adapter org/judge@main --adapter mine=org/judge");
    serve.env("HF_HUB_OFFLINE", "0").env("HF_ENDPOINT", hub.address());
    let serving = Serving::ready(serve).await;
    let models: Value = serving.get("/v1/models").send().await.unwrap().json().await.unwrap();
    let names: Vec<&str> =
        models["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert_eq!(names, ["judge", "mine"]);
}

//! Train, fit, score, verify: the three commands that make a reward model, and what follows.

use super::helpers::Workspace;
use serde_json::{Value, json};
use std::{process::Stdio, time::Duration};

const TRAIN: &str =
    "train --model base --data pairs.jsonl --batch-size 4 --rank 4 --seed 3 --learning-rate 1e-3";

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn three_commands_make_a_reward_model_with_uncertainty() {
    let workspace = Workspace::new("llama-0");
    let summary =
        workspace.succeed(&format!("{TRAIN} --output new --epochs 6 --holdout 0.2 --constructed 0.5"));
    let summary: Value = serde_json::from_str(&summary).unwrap();
    assert!(summary["last_loss"].as_f64().unwrap() < summary["first_loss"].as_f64().unwrap(), "{summary}");
    assert!(summary["held_out"]["pairs"].as_u64().unwrap() > 0, "{summary}");
    for (curvature, rank) in [("kfac", "full"), ("kfac", "3"), ("ekfac", "full"), ("ekfac", "3")] {
        let fit = format!(
            "fit --model base --adapter new --data pairs.jsonl --curvature {curvature} --rank {rank} --held-out pairs.jsonl"
        );
        let report: Value = serde_json::from_str(&workspace.succeed(&fit)).unwrap();
        for kind in ["A", "B", "head"] {
            assert!(report["prior_precision"][kind].as_f64().unwrap() > 0.0, "{report}");
        }
        assert!(
            report["evidence"].as_f64().unwrap() < report["log_likelihood"].as_f64().unwrap(),
            "{report}"
        );
        assert_eq!(report["quantiles"]["difference"].as_array().unwrap().len(), 9);
        let scores = lines(&workspace.succeed("score --model base --adapter new --input inputs.jsonl"));
        for score in &scores {
            let number = |name: &str| score[name].as_f64().unwrap();
            assert!(number("variance") > 0.0, "{score}");
            assert!((number("mean") - number("std") - number("score")).abs() < 1e-9, "{score}");
        }
    }
    let plain =
        lines(&workspace.succeed("score --model base --adapter new --input inputs.jsonl --no-variance"));
    assert!(plain.iter().all(|score| score["variance"].is_null() && score["score"] == score["mean"]));
}

#[test]
fn scores_are_verified_against_the_reference() {
    let workspace = Workspace::new("llama3-0");
    let expected: Value = serde_json::from_slice(&workspace.read("expected.json")).unwrap();
    let mut reference = String::new();
    for mut item in lines(&String::from_utf8(workspace.read("inputs.jsonl")).unwrap()) {
        let want = &expected["items"][item["id"].as_str().unwrap()];
        (item["mean"], item["variance"]) = (want["mean"].clone(), want["variance"].clone());
        reference += &format!("{item}\n");
    }
    workspace.write("reference.jsonl", &reference);
    let verify = "verify --model base --adapter adapter --reference reference.jsonl";
    let report: Value = serde_json::from_str(&workspace.succeed(verify)).unwrap();
    assert_eq!(report["items"], json!(reference.lines().count()));
    let message = workspace.fail(&format!("{verify} --tolerance 1e-12"));
    assert!(message.contains("largest error is past"), "{message}");
}

#[test]
fn an_interrupted_training_goes_on_with_the_same_losses() {
    let workspace = Workspace::new("llama-0");
    let train = format!("{TRAIN} --epochs 40 --holdout 0 --checkpoint-every 7");
    workspace.succeed(&format!("{train} --output whole"));
    let mut child =
        workspace.command(&format!("{train} --output parts")).stderr(Stdio::null()).spawn().unwrap();
    let state = workspace.path("parts/checkpoint.safetensors");
    while !state.exists() {
        assert!(child.try_wait().unwrap().is_none(), "ended before it could be interrupted");
        std::thread::sleep(Duration::from_millis(1));
    }
    // A hard kill: what counts is the last checkpoint.
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!workspace.path("parts/adapter_model.safetensors").exists(), "ended before it was interrupted");
    let message = workspace.fail(&format!("{train} --output parts"));
    assert!(message.contains("unfinished run") && message.contains("--resume"), "{message}");
    let message = workspace.fail(&format!("{train} --output parts --resume --centring 0.02"));
    assert!(message.contains("belongs to another run"), "{message}");
    workspace.succeed(&format!("{train} --output parts --resume"));
    for file in ["losses.jsonl", "adapter_model.safetensors"] {
        assert!(
            workspace.read(&format!("parts/{file}")) == workspace.read(&format!("whole/{file}")),
            "{file}"
        );
    }
}

#[test]
fn an_interrupted_fit_goes_on_to_the_same_posterior() {
    let workspace = Workspace::new("llama-0");
    let fit = "fit --model base --adapter adapter --data pairs.jsonl --batch-tokens 40 --checkpoint-seconds 0 --max-length 4000";
    let whole = workspace.succeed(&format!("{fit} --output whole"));
    assert!(!workspace.path("whole.pass1").exists());
    for pass in ["pass1", "pass2"] {
        let mut child =
            workspace.command(&format!("{fit} --output {pass}")).stderr(Stdio::null()).spawn().unwrap();
        let state = workspace.path(&format!("{pass}.{pass}"));
        while !state.exists() {
            assert!(child.try_wait().unwrap().is_none(), "ended before it could be interrupted");
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!workspace.path(pass).exists(), "ended before it was interrupted");
        let message = workspace.fail(&format!("{fit} --output {pass}"));
        assert!(message.contains("unfinished fit") && message.contains("--resume"), "{message}");
        let message = workspace.fail(&format!("{fit} --output {pass} --resume --rank 2"));
        assert!(message.contains("belongs to another fit"), "{message}");
        assert_eq!(workspace.succeed(&format!("{fit} --output {pass} --resume")), whole, "{pass}");
        assert!(workspace.read(pass) == workspace.read("whole"), "{pass}");
    }
}

#[test]
fn the_document_of_the_service_is_printed() {
    let document: Value = serde_json::from_str(&Workspace::new("llama-0").succeed("openapi")).unwrap();
    assert!(document["paths"]["/v1/rewards"]["post"].is_object());
}

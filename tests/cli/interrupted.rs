//! Training and fits that are interrupted, and what their checkpoints are worth.

use super::helpers::{Workspace, assert_says, change, first};
use std::{
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

const TRAIN: &str = "train --model base --data pairs.jsonl --batch-size 4 --rank 4 --seed 3 --learning-rate 1e-3 \
    --epochs 20 --holdout 0 --checkpoint-every 3";
const FIT: &str = "fit --model base --adapter adapter --data many.jsonl --batch-tokens 40 --checkpoint-seconds 0 --max-length 4000";
const STATE: &str = "parts/checkpoint.safetensors";

/// A case with `many.jsonl`, its pairs many times over, so that no work on them ends before it is interrupted.
fn workspace() -> Workspace {
    let workspace = Workspace::new("llama-0");
    workspace.write("many.jsonl", workspace.read("pairs.jsonl").repeat(4));
    workspace
}

/// Starts a command, and sends it the signal once the file is there.
fn interrupted(workspace: &Workspace, arguments: &str, file: &str, signal: &str) -> Output {
    let mut child: Child =
        workspace.command(arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    while !workspace.path(file).exists() {
        assert!(child.try_wait().unwrap().is_none(), "ended before it could be interrupted");
        std::thread::sleep(Duration::from_millis(1));
    }
    let sent = Command::new("kill").arg(signal).arg(child.id().to_string()).status().unwrap();
    assert!(sent.success());
    child.wait_with_output().unwrap()
}

/// What a polite interruption says: one message, and exit code 1.
fn assert_stopped(output: &Output, message: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let last = stderr.lines().last().unwrap();
    assert!(last.starts_with(&format!("error: {message}")), "{stderr}");
    assert!(last.ends_with("(hint: go on with `--resume`)"), "{stderr}");
}

#[test]
fn an_interrupted_training_goes_on_with_the_same_losses() {
    let workspace = workspace();
    workspace.succeed(&format!("{TRAIN} --output whole"));
    for signal in ["-KILL", "-INT"] {
        let output = interrupted(&workspace, &format!("{TRAIN} --output parts"), STATE, signal);
        if signal != "-KILL" {
            assert_stopped(&output, "stopped after step ");
        }
        assert!(!workspace.path("parts/adapter_model.safetensors").exists(), "ended before");
        let message = workspace.fail(&format!("{TRAIN} --output parts"));
        assert_says(&message, &["unfinished run", "--resume"]);
        for other in ["--centring 0.02", "--alpha 64", "--rslora", "--targets q_proj"] {
            let message = workspace.fail(&format!("{TRAIN} --output parts --resume {other}"));
            assert_says(&message, &["belongs to another run"]);
        }
        workspace.succeed(&format!("{TRAIN} --output parts --resume"));
        for file in ["losses.jsonl", "adapter_model.safetensors", "training.json"] {
            let (parts, whole) = (format!("parts/{file}"), format!("whole/{file}"));
            assert!(workspace.read(&parts) == workspace.read(&whole), "{signal} {file}");
        }
        std::fs::remove_dir_all(workspace.path("parts")).unwrap();
    }
}

#[test]
fn an_interrupted_fit_goes_on_to_the_same_posterior() {
    let workspace = workspace();
    for (curvature, another, runs) in [
        ("sketch", "--features 64", &[("pass1", "-KILL"), ("pass1", "-INT")][..]),
        ("ekfac", "--rank 2", &[("pass1", "-KILL"), ("pass1", "-INT"), ("pass2", "-INT")]),
    ] {
        let fit = format!("{FIT} --curvature {curvature}");
        goes_on(&workspace, &fit, another, runs);
    }
}

fn goes_on(workspace: &Workspace, fit: &str, another: &str, runs: &[(&str, &str)]) {
    let whole = workspace.succeed(&format!("{fit} --output whole"));
    assert!(!workspace.path("whole.pass1").exists());
    for (pass, signal) in runs {
        let name = format!("{pass}{signal}");
        let output =
            interrupted(workspace, &format!("{fit} --output {name}"), &format!("{name}.{pass}"), signal);
        if *signal == "-INT" {
            assert_stopped(&output, "stopped before the end");
        }
        assert!(!workspace.path(&name).exists(), "ended before it was interrupted");
        assert_says(&workspace.fail(&format!("{fit} --output {name}")), &["unfinished fit", "--resume"]);
        let message = workspace.fail(&format!("{fit} --output {name} --resume {another}"));
        assert_says(&message, &["belongs to another fit"]);
        assert_eq!(workspace.succeed(&format!("{fit} --output {name} --resume")), whole, "{name}");
        assert!(workspace.read(&name) == workspace.read("whole"), "{name}");
        std::fs::remove_file(workspace.path(&name)).unwrap();
    }
}

#[test]
fn a_fit_at_another_scale_is_another_fit() {
    let workspace = workspace();
    interrupted(&workspace, &format!("{FIT} --output x"), "x.pass1", "-INT");
    let config = String::from_utf8(workspace.read("adapter/adapter_config.json")).unwrap();
    let config = config.replace("\"lora_alpha\": 16", "\"lora_alpha\": 64");
    workspace.write("adapter/adapter_config.json", config);
    assert_says(&workspace.fail(&format!("{FIT} --output x --resume")), &["belongs to another fit"]);
}

#[test]
fn a_damaged_training_checkpoint_is_refused() {
    let workspace = workspace();
    interrupted(&workspace, &format!("{TRAIN} --output parts"), STATE, "-INT");
    let resume = format!("{TRAIN} --output parts --resume");
    let (state, losses) = (workspace.read(STATE), workspace.read("parts/losses.jsonl"));
    for keep in [0, 4, 100, state.len() - 1] {
        workspace.write(STATE, &state[..keep]);
        assert_says(&workspace.fail(&resume), &[STATE, "not a whole safetensors file"]);
    }
    for part in ["block:", "first:", "second:"] {
        workspace.write(STATE, &state);
        change(&workspace, STATE, |tensors| {
            let name = first(tensors, part);
            tensors.get_mut(&name).unwrap().1.insert(0, 1);
        });
        assert_says(&workspace.fail(&resume), &[STATE, part, "has shape [1, ", ", expected ["]);
        change(&workspace, STATE, |tensors| {
            let name = first(tensors, part);
            tensors.remove(&name).unwrap();
        });
        assert_says(&workspace.fail(&resume), &[STATE, part, "has shape none"]);
    }
    workspace.write(STATE, &state);
    workspace.write("parts/losses.jsonl", &losses[..20]);
    assert_says(&workspace.fail(&resume), &["parts/losses.jsonl:1: "]);
    workspace.write("parts/losses.jsonl", "");
    assert_says(&workspace.fail(&resume), &["parts/losses.jsonl: 0 losses for "]);
    workspace.write("parts/losses.jsonl", &losses);
    workspace.succeed(&resume);
}

#[test]
fn a_damaged_fit_checkpoint_is_refused() {
    let workspace = workspace();
    interrupted(&workspace, &format!("{FIT} --output x"), "x.pass1", "-INT");
    let resume = format!("{FIT} --output x --resume");
    let whole = workspace.read("x.pass1");
    for part in ["features", "differences", "weights"] {
        change(&workspace, "x.pass1", |tensors| {
            let tensor = tensors.get_mut(part).unwrap();
            tensor.1[0] -= 1;
            let row = tensor.2.len() / (tensor.1[0] + 1);
            tensor.2.truncate(row * tensor.1[0]);
        });
        assert_says(&workspace.fail(&resume), &["x.pass1", "are not those of", "pairs"]);
        workspace.write("x.pass1", &whole);
    }
    workspace.succeed(&resume);

    let fit = format!("{FIT} --curvature ekfac");
    interrupted(&workspace, &format!("{fit} --output x"), "x.pass2", "-INT");
    let resume = format!("{fit} --output x --resume");
    for (file, part) in [("x.pass1", "input:"), ("x.pass1", "head"), ("x.pass2", "sum:")] {
        let whole = workspace.read(file);
        for keep in [0, 4, 100, whole.len() - 1] {
            workspace.write(file, &whole[..keep]);
            assert_says(&workspace.fail(&resume), &[file, "not a whole safetensors file"]);
        }
        workspace.write(file, &whole);
        change(&workspace, file, |tensors| {
            let name = first(tensors, part);
            tensors.get_mut(&name).unwrap().1.insert(0, 1);
        });
        assert_says(&workspace.fail(&resume), &[file, part, "has shape [1, "]);
        workspace.write(file, &whole);
    }
    let whole = workspace.read("x.pass1");
    change(&workspace, "x.pass1", |tensors| {
        tensors.get_mut("counts").unwrap().2[..8].copy_from_slice(&1e9f64.to_le_bytes());
    });
    assert_says(&workspace.fail(&resume), &["x.pass1", "counts"]);
    workspace.write("x.pass1", &whole);
    workspace.succeed(&resume);
}

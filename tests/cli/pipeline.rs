//! Train, fit, score, verify: the three commands that make a reward model, and what follows.

use super::helpers::{Workspace, assert_says, change};
use rewarden::evaluate::stability::percentile;
use serde_json::{Value, json};

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
        let quantiles = |of: &str| -> Vec<(f64, f64)> {
            serde_json::from_value(report["quantiles"][of].clone()).unwrap()
        };
        assert_eq!(quantiles("difference").len(), 13);
        let contractions = quantiles("contraction_single");
        assert_eq!((contractions.len(), quantiles("contraction_difference").len()), (13, 13));
        let uncontracted: Vec<(f64, f64)> =
            contractions.iter().rev().map(|(p, c)| (1.0 - p, 1.0 - c)).collect();
        let held_out = &report["held_out"];
        assert!(held_out["spread"].as_f64().unwrap() > 0.0 && held_out["baseline"].is_number(), "{held_out}");
        assert_eq!(
            held_out["verdicts"].as_array().unwrap().len(),
            held_out["pairs"].as_u64().unwrap() as usize
        );
        let quantiles = quantiles("single");
        let scores = lines(&workspace.succeed("score --model base --adapter new --input inputs.jsonl"));
        for score in &scores {
            let number = |name: &str| score[name].as_f64().unwrap();
            assert!(number("variance") > 0.0, "{score}");
            assert!((0.0..=1.0).contains(&number("contraction")), "{score}");
            let by_variance = percentile(&quantiles, number("variance"));
            assert!((number("variance_percentile") - by_variance).abs() < 1e-9, "{score}");
            let novelty = percentile(&uncontracted, 1.0 - number("contraction"));
            assert!((number("novelty") - novelty).abs() < 1e-9, "{score}");
        }
    }
    let plain =
        lines(&workspace.succeed("score --model base --adapter new --input inputs.jsonl --no-variance"));
    assert!(plain.iter().all(|score| score["variance"].is_null() && score["score"] == score["mean"]));
    assert!(plain.iter().all(|score| score["novelty"].is_null()));
}

/// A posterior is of one forward: the scale of the updates and the base's weights decide the variances too.
#[test]
fn a_posterior_is_of_what_it_was_fitted_to() {
    let workspace = Workspace::new("llama-0");
    workspace.succeed("fit --model base --adapter adapter --data pairs.jsonl --features 64");
    let score = "score --model base --adapter adapter --input inputs.jsonl";
    workspace.succeed(score);
    let config = String::from_utf8(workspace.read("adapter/adapter_config.json")).unwrap();
    let scaled = config.replace(r#""lora_alpha": 16"#, r#""lora_alpha": 64"#);
    assert_ne!(config, scaled);
    workspace.write("adapter/adapter_config.json", scaled);
    assert_says(
        &workspace.fail(score),
        &["fitted to another forward of this adapter", "lora_alpha", "run `fit` again"],
    );
    workspace.succeed(&format!("{score} --no-variance"));
    workspace.write("adapter/adapter_config.json", config);
    workspace.succeed(score);
    let mut weights = workspace.read("base/model.safetensors");
    let last = weights.len() - 4;
    weights[last] ^= 1;
    workspace.write("base/model.safetensors", weights);
    assert_says(&workspace.fail(score), &["fitted to another forward of this adapter", "the base's weights"]);
}

#[test]
fn a_fit_that_holds_nothing_out_says_that_there_will_be_no_novelty() {
    let workspace = Workspace::new("llama-0");
    let fit = "fit --model base --adapter adapter --data pairs.jsonl";
    let warned = |arguments: &str| {
        let output = workspace.run(arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap().contains("scores will have no novelty")
    };
    let novel = || {
        let scores = lines(&workspace.succeed("score --model base --adapter adapter --input inputs.jsonl"));
        scores.iter().map(|score| score["novelty"].is_number()).collect::<Vec<_>>()
    };
    assert!(!warned(&format!("{fit} --held-out pairs.jsonl")));
    assert!(novel().iter().all(|novel| *novel));
    assert!(warned(fit));
    assert!(novel().iter().all(|novel| !novel));
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
fn the_document_of_the_service_is_printed() {
    let document: Value = serde_json::from_str(&Workspace::new("llama-0").succeed("openapi")).unwrap();
    assert!(document["paths"]["/v1/rewards"]["post"].is_object());
}

#[test]
fn the_prior_is_centred_on_the_first_weights_whatever_seed_went_on_from_them() {
    let workspace = Workspace::new("llama-0");
    let train =
        "train --model base --data pairs.jsonl --batch-size 4 --rank 4 --learning-rate 1e-4 --holdout 0";
    let summary = |text: &str| -> Value { serde_json::from_str(text).unwrap() };
    let first = summary(&workspace.succeed(&format!("{train} --output first --seed 3")));
    assert_eq!((&first["initial_seed"], &first["seed"]), (&json!(3), &json!(3)));
    let second = summary(&workspace.succeed(&format!("{train} --output second --adapter first --seed 9")));
    assert_eq!((&second["initial_seed"], &second["seed"]), (&json!(3), &json!(9)));

    let fit =
        || summary(&workspace.succeed("fit --model base --adapter second --data pairs.jsonl --features 64"));
    let precision = |report: &Value| report["prior_precision"]["A"].as_f64().unwrap();
    let known = fit();
    assert_eq!(known["initial_seed"], json!(3));
    // Weights that began elsewhere are far from those of this seed; far from zero too, which is all that can be said where
    // the start is not known.
    workspace.write("second/training.json", json!({"initial_seed": 9}).to_string());
    let other = fit();
    workspace.write("second/training.json", json!({"seed": 9, "started_from": "first"}).to_string());
    let unknown = fit();
    assert_eq!(unknown["initial_seed"], Value::Null);
    assert!(precision(&known) > 10.0 * precision(&other), "{known} {other}");
    assert!(precision(&unknown) > precision(&other), "{unknown} {other}");
    // Files of earlier versions.
    workspace.write("second/training.json", json!({"seed": 3, "started_from": null}).to_string());
    assert_eq!(fit(), known);

    // The fixture's adapter has no such file; its weights are of unknown origin, and so are those trained from it.
    let third = summary(&workspace.succeed(&format!("{train} --output third --adapter adapter")));
    assert_eq!(third["initial_seed"], Value::Null);
}

#[test]
fn training_goes_on_from_an_adapter_with_patterns() {
    let workspace = Workspace::new("llama-2");
    let train = "train --model base --data pairs.jsonl --batch-size 4 --holdout 0";
    workspace.succeed(&format!("{train} --output new --adapter adapter --learning-rate 1e-12"));
    let score = |adapter: &str| {
        let score = format!("score --model base --adapter {adapter} --input inputs.jsonl --no-variance");
        lines(&workspace.succeed(&score))
    };
    for (before, after) in score("adapter").iter().zip(score("new")) {
        let (before, after) = (before["mean"].as_f64().unwrap(), after["mean"].as_f64().unwrap());
        assert!((before - after).abs() < 1e-5 * before.abs().max(1.0), "{before} {after}");
    }
}

#[test]
fn an_adapter_may_have_a_name() {
    let workspace = Workspace::new("llama-0");
    let score = |adapter: &str| {
        workspace.succeed(&format!("score --model base --adapter {adapter} --input inputs.jsonl"))
    };
    assert_eq!(score("mine=adapter"), score("adapter"));
    let report = workspace.succeed("evaluate pairs --model base --adapter mine=adapter --data pairs.jsonl");
    assert!(report.contains("accuracy"), "{report}");
}

#[test]
fn a_reward_model_without_an_adapter_has_a_posterior_over_its_head() {
    let workspace = Workspace::new("llama-0");
    let score = "score --model base --input inputs.jsonl";
    let before = lines(&workspace.succeed(score));
    assert!(before.iter().all(|score| score["variance"].is_null()));
    for curvature in ["sketch", "ekfac"] {
        let fit = format!("fit --model base --data pairs.jsonl --curvature {curvature}");
        let report: Value = serde_json::from_str(&workspace.succeed(&fit)).unwrap();
        assert_eq!(report["prior_precision"].as_object().unwrap().keys().collect::<Vec<_>>(), ["head"]);
        let after = lines(&workspace.succeed(score));
        for (before, after) in before.iter().zip(&after) {
            let [a, b] = [before, after].map(|score| score["mean"].as_f64().unwrap());
            assert!((a - b).abs() < 1e-5 && after["variance"].as_f64().unwrap() > 0.0, "{after}");
        }
    }
    // The posterior is of this head, and says so.
    let other = workspace.succeed("score --model base --adapter adapter --input inputs.jsonl");
    assert_eq!(lines(&other).len(), before.len());
}

#[test]
fn a_head_of_several_outputs_needs_a_choice() {
    let workspace = Workspace::new("llama-0");
    change(&workspace, "base/model.safetensors", |tensors| {
        let (_, shape, bytes) = tensors.get_mut("score.weight").unwrap();
        shape[0] = 2;
        let copy: Vec<u8> = bytes
            .chunks_exact(4)
            .flat_map(|x| (2.0 * f32::from_le_bytes(x.try_into().unwrap())).to_le_bytes())
            .collect();
        bytes.extend(copy);
    });
    let score = "score --model base --no-variance --input inputs.jsonl";
    assert_says(&workspace.fail(score), &["score: the head has 2 outputs", "--label 0"]);
    let means = |flags: &str| -> Vec<f64> {
        let scores = lines(&workspace.succeed(&format!("{score} {flags}")));
        scores.iter().map(|score| score["mean"].as_f64().unwrap()).collect()
    };
    let (first, second, both) = (means("--label 0"), means("--label 1"), means("--label-weights -1,1"));
    for ((first, second), both) in first.iter().zip(second).zip(both) {
        assert!(
            (second - 2.0 * first).abs() < 1e-4 && (both - first).abs() < 1e-4,
            "{first} {second} {both}"
        );
    }
    assert_says(&workspace.fail(&format!("{score} --label 2")), &["--label: 2 of 2 outputs"]);
    // A posterior is of the output that it was fitted to.
    workspace.succeed("fit --model base --label 1 --data pairs.jsonl --output base/posterior.safetensors");
    let score = "score --model base --input inputs.jsonl";
    assert!(lines(&workspace.succeed(&format!("{score} --label 1")))[0]["variance"].is_number());
    let other = workspace.fail(&format!("{score} --label 0"));
    assert_says(
        &other,
        &["posterior.safetensors: fitted to another reward of the head: output 1, not output 0"],
    );
    assert_says(&workspace.fail(&format!("{score} --label-weights 1")), &["--label-weights: 1 numbers"]);
}

#[test]
fn vectors_have_the_variances_as_their_squares() {
    let workspace = Workspace::new("llama-0");
    workspace.succeed(
        "fit --model base --adapter adapter --data pairs.jsonl --output adapter/posterior.safetensors",
    );
    let score = "score --model base --adapter adapter --input inputs.jsonl";
    let plain = lines(&workspace.succeed(score));
    let scores = lines(&workspace.succeed(&format!("{score} --vectors vectors.safetensors")));
    let bytes = workspace.read("vectors.safetensors");
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let vectors = file.tensor("vectors").unwrap();
    assert_eq!([vectors.shape()[0], file.tensor("means").unwrap().shape()[0]], [scores.len(); 2]);
    let numbers: Vec<f64> =
        vectors.data().chunks_exact(4).map(|x| f32::from_le_bytes(x.try_into().unwrap()).into()).collect();
    for ((score, plain), vector) in scores.iter().zip(&plain).zip(numbers.chunks_exact(vectors.shape()[1])) {
        let square: f64 = vector.iter().map(|x| x * x).sum();
        for variance in [&score["variance"], &plain["variance"]] {
            assert!((variance.as_f64().unwrap() / square - 1.0).abs() < 1e-4, "{score} {square}");
        }
    }
    let message = workspace.fail("score --model base --input inputs.jsonl --vectors vectors.safetensors");
    assert_says(&message, &["--vectors: needs a posterior"]);
}

//! `evaluate selection`, and the rule and the verdicts that a fit stores by it.

use super::helpers::{Workspace, assert_says};
use serde_json::{Value, json};

const FIT: &str = "fit --model base --adapter adapter --data pairs.jsonl --held-out pairs.jsonl";
const SELECTION: &str = "evaluate selection --model base --adapter adapter";

fn report(workspace: &Workspace, command: &str) -> Value {
    serde_json::from_str(&workspace.succeed(command)).unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value}"))
}

/// Every number within a hundred-thousandth, everything else equal.
fn assert_close(got: &Value, want: &Value) {
    match (got, want) {
        (Value::Array(got), Value::Array(want)) if got.len() == want.len() => {
            got.iter().zip(want).for_each(|(got, want)| assert_close(got, want));
        }
        (Value::Object(got), Value::Object(want)) if got.len() == want.len() => {
            want.iter().for_each(|(name, want)| assert_close(&got[name], want));
        }
        (Value::Number(_), Value::Number(_)) => {
            let (got, want) = (number(got), number(want));
            assert!((got - want).abs() <= 1e-5 * want.abs().max(1.0), "{got}, not {want}");
        }
        (got, want) => assert_eq!(got, want),
    }
}

/// Pools made of the fixture's pairs: the chosen answer first, then some of other pairs.
fn pools(gold: impl Fn(usize) -> Value) -> (String, Vec<Vec<Value>>) {
    let workspace = Workspace::new("llama-0");
    let text = String::from_utf8(workspace.read("pairs.jsonl")).unwrap();
    let pairs: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (mut lines, mut items) = (String::new(), Vec::new());
    for (at, pair) in pairs.iter().enumerate().take(12) {
        let other = &pairs[(at + 1) % pairs.len()];
        let responses = [&pair["chosen"], &pair["rejected"], &other["chosen"]];
        let mut pool = json!({"prompt": pair["prompt"], "responses": responses});
        if !gold(at).is_null() {
            pool["gold"] = gold(at);
        }
        lines += &format!("{pool}\n");
        items.push(responses.map(|response| json!({"prompt": pair["prompt"], "response": response})).into());
    }
    (lines, items)
}

/// The share of pools whose first response has the highest score, and the index of every choice, by `rewarden score`.
fn chosen(workspace: &Workspace, items: &[Vec<Value>], flags: &str) -> Vec<usize> {
    let lines: String = items.iter().flatten().map(|item| format!("{item}\n")).collect();
    workspace.write("items.jsonl", lines);
    let scores =
        workspace.succeed(&format!("score --model base --adapter adapter --input items.jsonl {flags}"));
    let scores: Vec<f64> =
        scores.lines().map(|line| number(&serde_json::from_str::<Value>(line).unwrap()["score"])).collect();
    let best = |scores: &[f64]| {
        let first = (0, f64::NEG_INFINITY);
        scores.iter().enumerate().fold(first, |best, (i, s)| if *s > best.1 { (i, *s) } else { best }).0
    };
    scores.chunks(3).map(best).collect()
}

#[test]
fn rules_choose_what_their_scores_say() {
    let workspace = Workspace::new("llama-0");
    workspace.succeed(&format!("{FIT} --rule-prompts 0"));
    let gold = |pool: usize| json!([1.0, 0.1 * pool as f64, -0.3]);
    let (lines, items) = pools(gold);
    workspace.write("pools.jsonl", lines);
    let rule = r#"--rule {"kind":"contraction","k":8} --rule {"kind":"std","k":2}"#;
    let report = report(&workspace, &format!("{SELECTION} --data pools.jsonl --first-is-good {rule}"));
    let by_flags = ["--penalty none", "--penalty contraction --k 8", "--penalty std --k 2"];
    let kinds = ["none", "contraction", "std"];
    let rules = report["selection"]["rules"].as_array().unwrap();
    assert_eq!(rules.len(), kinds.len());
    let choices = by_flags.map(|flags| chosen(&workspace, &items, flags));
    for ((measured, kind), choice) in rules.iter().zip(kinds).zip(&choices) {
        assert_eq!(measured["rule"]["kind"], kind);
        let share = choice.iter().filter(|index| **index == 0).count() as f64 / choice.len() as f64;
        let picks = &measured["all"]["picks"]["all"];
        assert!((number(&picks["share"]) - share).abs() < 1e-12, "{kind}: {picks}, not {share}");
        let of = |choice: &[usize]| -> f64 {
            let each = choice.iter().enumerate().map(|(pool, index)| number(&gold(pool)[*index]));
            each.sum::<f64>() / choice.len() as f64
        };
        let over_mean = number(&measured["all"]["gold"]["over_mean"]["mean"]);
        assert!((over_mean - (of(choice) - of(&choices[0]))).abs() < 1e-12, "{kind}: {over_mean}");
    }
    assert_eq!(report["pairs"], json!([]));
    assert_eq!(report["recommended"], Value::Null, "no kind of injected answer to recommend by");
}

#[test]
fn injected_answers_are_told_apart_by_kind_and_a_fit_stores_what_they_recommend() {
    let workspace = Workspace::new("llama-0");
    let fitted = report(&workspace, &format!("{FIT} --rule-prompts 24"));
    let held_out = &fitted["held_out"];
    let selection =
        report(&workspace, &format!("{SELECTION} --data pairs.jsonl --inject --max-prompts 24 --seed 0"));
    let measures = selection["selection"]["uncertainties"].as_array().unwrap();
    let names: Vec<&str> = measures.iter().map(|of| of["uncertainty"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        ["std", "std_relative", "prior_variance", "one_minus_contraction", "one_minus_contraction_relative"]
    );
    for measure in measures {
        let kinds = measure["all"]["kinds"].as_array().unwrap();
        assert!(kinds.len() >= 10, "{measure}");
        assert!(kinds.iter().all(|kind| (0.0..=1.0).contains(&number(&kind["auroc"]["area"]))));
    }
    let rules = selection["selection"]["rules"].as_array().unwrap();
    assert_eq!((rules.len(), &selection["left_out"]), (rules.len().max(20), &json!([])));
    assert_eq!(selection["pairs"].as_array().unwrap().len(), rules.len());
    assert_eq!(number(&selection["pairs"][0]["all"]["over_mean"]["mean"]), 0.0);
    // Every pair of the report belongs to one source, and the fit's own report says what the rules did.
    let sources = selection["pairs"][0]["sources"].as_object().unwrap();
    let of_sources: f64 = sources.values().map(|of| number(&of["pairs"])).sum();
    assert_eq!(of_sources, number(&selection["pairs"][0]["all"]["pairs"]));
    let lost: f64 = rules[0]["lost_to"].as_object().unwrap().values().map(number).sum();
    let picks = &rules[0]["judged"]["picks"]["all"];
    assert!((lost - number(&picks["prompts"]) * (1.0 - number(&picks["share"]))).abs() < 1e-9, "{picks}");
    let considered = fitted["considered"]["selection"]["rules"].as_array().unwrap();
    assert!(considered.iter().any(|of| of["rule"] == held_out["penalty"]), "{held_out}");
    // What the fit stored is one of the rules that serve single rewards, and `score` applies it.
    assert!(rules.iter().any(|of| of["rule"] == held_out["penalty"]), "{held_out}");
    assert!(held_out["penalty"].get("relative").is_none() && number(&held_out["k"]) > 0.0, "{held_out}");
    let score = |flags: &str| {
        workspace.succeed(&format!("score --model base --adapter adapter --input inputs.jsonl {flags}"))
    };
    let mut flags = format!("--penalty {}", held_out["penalty"]["kind"].as_str().unwrap());
    for name in ["k", "baseline", "beta", "above"] {
        if let Some(value) = held_out["penalty"].get(name) {
            flags += &format!(" --{name} {value}");
        }
    }
    assert_eq!(score(""), score(&flags));
}

#[test]
fn what_cannot_be_judged_is_refused() {
    let workspace = Workspace::new("llama-0");
    let (lines, _) = pools(|_| Value::Null);
    workspace.write("pools.jsonl", lines);
    let message = workspace.fail(&format!("{SELECTION} --data pools.jsonl"));
    assert_says(&message, &["pools.jsonl:1", "gold: missing", "--first-is-good"]);
    let output = workspace.run(&format!(r#"{SELECTION} --data pairs.jsonl --rule {{"kind":"std","k":-1}}"#));
    assert_eq!(output.status.code(), Some(2));
    assert_says(&String::from_utf8(output.stderr).unwrap(), &["--rule", "penalty.k"]);
}

#[test]
fn verdicts_are_promised_where_the_held_out_pairs_allow_it() {
    let workspace = Workspace::new("llama-0");
    let pairs = "evaluate pairs --model base --adapter adapter --data pairs.jsonl";
    let message = workspace.fail(&format!("{pairs} --error-rate 0.2"));
    assert_says(&message, &["--error-rate", "--held-out"]);
    let fitted = report(&workspace, &format!("{FIT} --rule-prompts 0"));
    assert_eq!(fitted["held_out"]["verdicts"].as_array().unwrap().len(), 24);
    // Of 24 pairs none can be promised at a low rate; the judgement of the pairs is as without.
    let judged = report(&workspace, &format!("{pairs} --error-rate 0.01"));
    assert_eq!(judged["abstention"], Value::Null);
    assert_eq!(judged["all"], report(&workspace, pairs)["all"]);
    assert_says(&workspace.fail(&format!("{pairs} --error-rate 0.5")), &["error_rate"]);
}

#[test]
fn a_posterior_is_calibrated_as_its_fit_would_have_done() {
    let workspace = Workspace::new("llama-0");
    let fitted = report(&workspace, &format!("{FIT} --rule-prompts 24 --curvature sketch --features 64"));
    workspace.succeed("fit --model base --adapter adapter --data pairs.jsonl --features 64");
    let scores =
        || workspace.succeed("score --model base --adapter adapter --input inputs.jsonl --penalty std");
    let before = scores();
    let calibrate = "calibrate --model base --adapter adapter --data pairs.jsonl --rule-prompts 24";
    let calibrated = report(&workspace, calibrate);
    // The file's curvature is rounded to single precision.
    for name in ["quantiles", "held_out", "evidence", "pairs", "considered"] {
        assert_close(&calibrated[name], &fitted[name]);
    }
    let number = |line: &str, name: &str| serde_json::from_str::<Value>(line).unwrap()[name].as_f64();
    for (before, after) in before.lines().zip(scores().lines()) {
        assert_eq!(number(before, "score"), number(after, "score"));
        assert_eq!((number(before, "novelty"), number(after, "novelty").is_some()), (None, true));
    }
    assert_says(&workspace.fail("calibrate --data pairs.jsonl"), &["--output"]);
    std::fs::remove_file(workspace.path("adapter/posterior.safetensors")).unwrap();
    assert_says(&workspace.fail(calibrate), &["posterior.safetensors", "fit"]);
}

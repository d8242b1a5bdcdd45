//! The commands of `evaluate`: their reports, their plots, and what they refuse.

use super::helpers::{Workspace, assert_says};
use serde_json::{Value, json};
use std::fs;

const PAIRS: &str = "evaluate pairs --model base --adapter adapter --data pairs.jsonl";
const OOD: &str = "evaluate ood --model base --adapter adapter --data pairs.jsonl --max-items 10";

/// Measures of uncertainty in the report of `ood`.
const MEASURES: [&str; 8] = [
    "single",
    "difference",
    "relative",
    "head",
    "prior",
    "one_minus_contraction",
    "one_minus_contraction_difference",
    "one_minus_contraction_relative",
];

/// Shifts in the order of the report, and whether they keep the prompt.
const SHIFTS: [(&str, bool); 8] = [
    ("shuffled words", true),
    ("gibberish", true),
    ("repetition", true),
    ("off topic", true),
    ("code as answer", true),
    ("code task", false),
    ("other languages", false),
    ("very long", true),
];

fn report(workspace: &Workspace, command: &str) -> Value {
    serde_json::from_str(&workspace.succeed(command)).unwrap()
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value}"))
}

/// Pictures in a folder, by name, each of which is there in both forms.
fn plots(workspace: &Workspace, folder: &str) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(workspace.path(folder))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    let stems: Vec<String> =
        names.iter().filter_map(|name| name.strip_suffix(".svg")).map(str::to_owned).collect();
    let both: Vec<String> =
        stems.iter().flat_map(|stem| [".png", ".svg"].map(|end| format!("{stem}{end}"))).collect();
    assert_eq!(names, both);
    stems
}

/// The fixture's pairs, each with a source and a margin.
fn marked(workspace: &Workspace, margin: f64) -> String {
    let text = String::from_utf8(workspace.read("pairs.jsonl")).unwrap();
    let lines = text.lines().enumerate().map(|(at, line)| {
        let mut pair: Value = serde_json::from_str(line).unwrap();
        (pair["source"], pair["margin"]) = (json!(["a", "b"][at % 2]), json!(margin));
        format!("{pair}\n")
    });
    lines.collect()
}

#[test]
fn pairs_are_judged_by_the_point_estimate_and_the_posterior() {
    let workspace = Workspace::new("llama-0");
    workspace.write("pairs.jsonl", marked(&workspace, 0.0));
    let report = report(&workspace, &format!("{PAIRS} --plots plots"));
    let both = ["map", "predictive"];
    assert_eq!(keys(&report["by_source"]), ["a", "b"]);
    assert_eq!(keys(&report["predictive"]), ["all", "by_source"]);
    assert_eq!(keys(&report["reliability"]), both);
    assert_eq!(
        keys(&report["risk_coverage"]),
        ["difference_one_minus_contraction", "difference_std", "map", "predictive"]
    );
    assert_eq!([&report["skipped"], &report["truncated"]], [&json!(0), &json!(0)]);
    for judged in [&report["all"], &report["predictive"]["all"], &report["predictive"]["by_source"]["a"]] {
        for name in ["accuracy", "nll", "brier", "ece"] {
            number(&judged[name]);
        }
        number(&judged["intervals"]["ece"][1]);
    }
    assert_eq!(report["all"]["accuracy"], report["predictive"]["all"]["accuracy"]);
    assert_ne!(report["all"]["nll"], report["predictive"]["all"]["nll"]);
    for name in ["difference_std", "map", "predictive"] {
        let ranking = &report["risk_coverage"][name];
        let [aurc, oracle, excess] = ["aurc", "oracle", "excess"].map(|name| number(&ranking[name]));
        assert!(excess >= 0.0 && (aurc - oracle - excess).abs() < 1e-12, "{ranking}");
        assert!((0.0..=1.0).contains(&number(&ranking["auroc"]["area"])), "{ranking}");
    }
    assert!(number(&report["difference_std"]["mean"]) > 0.0);
    assert_eq!(report["difference_std"]["quantiles"].as_array().unwrap().len(), 5);
    assert_eq!(plots(&workspace, "plots"), ["reliability", "risk-coverage"]);
}

/// The joint path, one after the other, and means alone are three ways to the same rewards.
#[test]
fn means_are_the_same_with_and_without_variances() {
    let workspace = Workspace::new("llama-0");
    let [joint, alone, means] = ["", "--deterministic", "--no-variance --plots plots"]
        .map(|flags| report(&workspace, &format!("{PAIRS} {flags}")));
    assert_eq!(keys(&means), ["all", "by_source", "reliability", "risk_coverage", "skipped", "truncated"]);
    for other in [&joint, &alone] {
        assert_eq!(means["all"]["accuracy"], other["all"]["accuracy"]);
        assert!((number(&means["all"]["nll"]) - number(&other["all"]["nll"])).abs() < 1e-5);
    }
    assert_eq!(plots(&workspace, "plots"), ["reliability", "risk-coverage"]);
    fs::remove_file(workspace.path("adapter/posterior.safetensors")).unwrap();
    assert_eq!(report(&workspace, PAIRS), report(&workspace, &format!("{PAIRS} --no-variance")));
}

#[test]
fn a_margin_is_taken_off_the_difference() {
    let workspace = Workspace::new("llama-0");
    workspace.write("pairs.jsonl", marked(&workspace, 1e3));
    for judged in [&report(&workspace, PAIRS), &report(&workspace, &format!("{PAIRS} --no-variance"))] {
        assert_eq!(judged["all"]["accuracy"], json!(0.0));
        assert!(judged["risk_coverage"]["map"]["auroc"].is_null());
    }
}

#[test]
fn eight_bits_give_the_point_estimate() {
    let workspace = Workspace::new("llama-0");
    assert_says(&workspace.fail(&format!("{PAIRS} --compute int8")), &["`--compute int8`", "--no-variance"]);
    assert!(report(&workspace, &format!("{PAIRS} --compute int8 --no-variance"))["all"].is_object());
    assert_says(&workspace.fail(&format!("{OOD} --compute int8")), &["--compute: "]);
}

#[test]
fn every_shift_is_compared_with_what_is_in_the_distribution() {
    let workspace = Workspace::new("llama-0");
    workspace.write("other.jsonl", marked(&workspace, 0.0));
    let report = report(&workspace, &format!("{OOD} --plots plots --shifted odd=other.jsonl"));
    let inside = &report["in_distribution"];
    assert_eq!([&inside["name"], &inside["items"]], [&json!("in distribution"), &json!(10)]);
    assert!(inside["single"]["auroc"].is_null());

    let groups = report["groups"].as_array().unwrap();
    let names: Vec<&str> = groups.iter().map(|group| group["name"].as_str().unwrap()).collect();
    let shifts = SHIFTS.map(|(name, _)| name);
    assert_eq!(names, [&["chosen answers"][..], &shifts, &["odd", "odd, chosen"]].concat());
    for group in groups {
        let (name, items) = (group["name"].as_str().unwrap(), group["items"].as_u64().unwrap());
        let compared = name == "odd" || SHIFTS.contains(&(name, true));
        assert_eq!(group["difference"].is_object(), compared && items > 0, "{group}");
        for by in MEASURES.map(|by| &group[by]).iter().filter(|by| by.is_object()) {
            let [low, high] = [0, 1].map(|end| number(&by["auroc"]["interval"][end]));
            assert!((low..=high).contains(&number(&by["auroc"]["area"])), "{group}");
            assert!(number(&by["values"]["mean"]) > 0.0, "{group}");
            assert_eq!(by["values"]["quantiles"].as_array().unwrap().len(), 5);
        }
        // Of ten answers, or less where one cannot be shifted.
        assert!(items + group["too_long"].as_u64().unwrap() <= 10, "{group}");
    }
    for by in MEASURES {
        let areas = groups[1..].iter().filter(|group| group[by].is_object());
        let areas: Vec<f64> = areas.map(|group| number(&group[by]["auroc"]["area"])).collect();
        let mean = areas.iter().sum::<f64>() / areas.len() as f64;
        let overall = &report["overall"][by];
        assert!((number(&overall["area"]) - mean).abs() < 1e-12, "{by}: {overall}");
        assert!(number(&overall["interval"][0]) < mean, "{by}: {overall}");
    }
    let long = &groups[names.len() - 3];
    assert_eq!([&long["items"], &long["too_long"], &long["single"]], [&json!(0), &json!(10), &Value::Null]);
    let plots = plots(&workspace, "plots");
    for name in MEASURES {
        assert!(plots.iter().any(|plot| plot.strip_suffix("-1") == Some(name)), "{name}: {plots:?}");
    }
}

#[test]
fn cut_answers_are_counted() {
    let workspace = Workspace::new("llama-0");
    let report = report(&workspace, &format!("{OOD} --too-long truncate"));
    let long = report["groups"].as_array().unwrap().last().unwrap();
    assert_eq!([&long["items"], &long["truncated"], &long["too_long"]], [&json!(10), &json!(10), &json!(0)]);
    assert!(long["difference"].is_object());
}

#[test]
fn a_seed_says_what_is_drawn() {
    let workspace = Workspace::new("llama-0");
    let run = |seed| report(&workspace, &format!("{OOD} --seed {seed}"));
    assert_eq!(run(3), run(3));
    assert_ne!(run(3), run(4));
}

/// A model without a chat template takes strings alone.
#[test]
fn shifts_need_no_template() {
    let workspace = Workspace::new("llama-0");
    fs::remove_file(workspace.path("base/chat_template.jinja")).unwrap();
    assert_eq!(report(&workspace, OOD)["groups"][1]["items"], json!(10));
}

#[test]
fn what_is_wrong_is_named() {
    let workspace = Workspace::new("llama-0");
    let long = workspace.fail(&format!("{OOD} --too-long error"));
    assert_says(&long, &["pairs.jsonl:", ": very long: has ", "limit of 512"]);
    let twice = workspace.fail(&format!("{OOD} --shifted gibberish=pairs.jsonl"));
    assert_says(&twice, &["--shifted: two groups have the name `gibberish`", "hint:"]);
    assert_says(&workspace.fail(&format!("{OOD} --shifted none.jsonl")), &["none.jsonl: "]);
    assert_says(&workspace.fail(&format!("{OOD} --max-length 3")), &["--max-length: none of 10 pairs"]);
    for command in [PAIRS, OOD] {
        assert_says(&workspace.fail(&format!("{command} --plots pairs.jsonl")), &["pairs.jsonl: "]);
    }
    let zero = workspace.run(&OOD.replace("--max-items 10", "--max-items 0"));
    assert_says(&String::from_utf8(zero.stderr).unwrap(), &["--max-items"]);
    fs::remove_file(workspace.path("adapter/posterior.safetensors")).unwrap();
    assert_says(&workspace.fail(OOD), &["--adapter: adapter has no posterior", "hint: run `fit`"]);
}

/// Pools of the fixture's answers: those of a few pairs' prompts, each to the first prompt of its pool.
fn pools(workspace: &Workspace, gold: bool) {
    let text = String::from_utf8(workspace.read("pairs.jsonl")).unwrap();
    let pairs: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let pool = |pairs: &[Value]| {
        let responses: Vec<&Value> =
            pairs.iter().flat_map(|pair| [&pair["chosen"], &pair["rejected"]]).collect();
        let mut pool = json!({ "prompt": pairs[0]["prompt"], "responses": responses });
        if gold {
            pool["gold"] = (0..responses.len()).map(|i| (i as f64).sin()).collect();
        }
        format!("{pool}\n")
    };
    workspace.write("pools.jsonl", pairs.chunks_exact(3).map(pool).collect::<String>());
}

const BEST_OF_N: &str = "evaluate best-of-n --model base --adapter adapter --data pools.jsonl --grid 0,1";

#[test]
fn rules_choose_from_pools_and_are_judged_by_the_gold() {
    let workspace = Workspace::new("llama-0");
    pools(&workspace, true);
    let report = report(&workspace, &format!("{BEST_OF_N} --cache cache --plots plots"));
    assert_eq!([&report["n"], &report["proxies"]], [&json!([1, 2, 4, 6]), &json!(1)]);
    let runs = report["runs"].as_array().unwrap();
    let run =
        |family: &str, k: f64| runs.iter().find(|r| r["family"] == family && r["k"] == json!(k)).unwrap();
    // Without a penalty a rule is the mean; one answer of one is a random one.
    assert_eq!(run("std", 0.0)["gold"], run("mean", 0.0)["gold"]);
    assert_ne!(run("std", 1.0)["proxy"], run("mean", 0.0)["proxy"]);
    assert!(number(&run("mean", 0.0)["gold"]["value"][0]).abs() < 1e-12);
    // The mean's own reward can only grow with n.
    let proxy = run("mean", 0.0)["proxy"]["value"].as_array().unwrap();
    assert!(proxy.windows(2).all(|w| number(&w[0]) <= number(&w[1])), "{proxy:?}");
    let of_ensembles = ["ensemble_mean", "worst_case", "uwo", "total_std"];
    assert!(!runs.iter().any(|run| of_ensembles.contains(&run["family"].as_str().unwrap())), "{runs:?}");
    assert_eq!(plots(&workspace, "plots"), ["above-mean", "gold", "proxy", "strength"]);
}

#[test]
fn what_was_computed_of_a_pool_is_read_again() {
    let workspace = Workspace::new("llama-0");
    pools(&workspace, true);
    let command = format!("{BEST_OF_N} --cache cache");
    let first = report(&workspace, &command);
    let files = || fs::read_dir(workspace.path("cache")).unwrap().map(|entry| entry.unwrap().path());
    assert_eq!(files().count(), first["prompts"].as_u64().unwrap() as usize);
    let second = report(&workspace, &command);
    // Covariances are kept in single precision.
    for (a, b) in first["judged"].as_array().unwrap().iter().zip(second["judged"].as_array().unwrap()) {
        assert_eq!(a["family"], b["family"]);
        assert!((number(&a["gold"]["value"][3]) - number(&b["gold"]["value"][3])).abs() < 1e-6);
    }
    let one = files().next().unwrap();
    fs::write(&one, "x").unwrap();
    assert_says(&workspace.fail(&command), &[one.file_name().unwrap().to_str().unwrap()]);
}

#[test]
fn several_proxies_are_an_ensemble_and_an_adapter_may_be_the_gold() {
    let workspace = Workspace::new("llama-0");
    pools(&workspace, false);
    let message = workspace.fail(BEST_OF_N);
    assert_says(&message, &["pools.jsonl:1: gold: missing", "--gold"]);
    let report = report(&workspace, &format!("{BEST_OF_N} --adapter other=adapter --gold adapter"));
    assert_eq!(report["proxies"], 2);
    // A proxy that is the gold agrees with it.
    assert!((number(&report["agreement"]["value"]) - 1.0).abs() < 1e-9);
    let judged = report["judged"].as_array().unwrap();
    let of = |family: &str| judged.iter().find(|judged| judged["family"] == family).unwrap();
    let best = number(&of("mean")["gold"]["value"][3]);
    for family in ["ensemble_mean", "worst_case", "total_std"] {
        assert!((number(&of(family)["gold"]["value"][3]) - best).abs() < 1e-5, "{family}");
    }
    fs::remove_file(workspace.path("adapter/posterior.safetensors")).unwrap();
    let message = workspace.fail(&format!("{BEST_OF_N} --gold adapter"));
    assert_says(&message, &["adapter: has no posterior", "hint: run `fit`"]);
    assert_says(&workspace.fail(&BEST_OF_N.replace("0,1", "0,-1")), &["--grid: -1"]);
}

#[test]
fn members_are_judged_as_one_model() {
    let workspace = Workspace::new("llama-0");
    let alone = report(&workspace, PAIRS);
    let same = report(&workspace, &format!("{PAIRS} --member adapter"));
    // Two members that agree are one.
    for name in ["nll", "ece"] {
        let [a, b] = [&alone, &same].map(|report| number(&report["predictive"]["all"][name]));
        assert!((a - b).abs() < 1e-5, "{name}: {a}, {b}");
    }
    let disagreement = report(&workspace, &format!("{PAIRS} --member adapter --disagreement-alone"));
    assert_eq!(number(&disagreement["difference_std"]["mean"]), 0.0);
    fs::remove_file(workspace.path("adapter/posterior.safetensors")).unwrap();
    let ood = report(&workspace, &format!("{OOD} --member adapter --disagreement-alone"));
    assert_eq!(number(&ood["groups"][1]["single"]["auroc"]["area"]), 0.5);
    let needs = workspace.run(&format!("{OOD} --disagreement-alone"));
    assert_says(&String::from_utf8(needs.stderr).unwrap(), &["--member"]);
}

#[test]
fn posteriors_are_held_against_the_exact_one() {
    let workspace = Workspace::new("llama-0");
    let command = "evaluate fidelity --model base --adapter adapter --data pairs.jsonl --test pairs.jsonl \
                   --max-pairs 12 --max-test 4 --sketches 4096x2";
    let report = report(&workspace, command);
    assert_eq!([&report["pairs"], &report["test"]], [&json!(12), &json!(4)]);
    let tables = report["tables"].as_array().unwrap();
    assert_eq!(tables.iter().map(|table| number(&table["factor"])).collect::<Vec<_>>(), [1.0, 0.1]);
    let rows = tables[0]["rows"].as_array().unwrap();
    let row =
        |name: &str| rows.iter().find(|row| row["posterior"].as_str().unwrap().starts_with(name)).unwrap();
    assert!(number(&row("sketch")["difference"]["log_ratio"]) < 0.1);
    assert!(number(&row("ekfac")["single"]["ratio"]) > 0.0);
    assert_says(&workspace.fail(&format!("{command} --factors 0")), &["--factors: 0"]);
}

#[test]
fn priors_are_judged_on_held_out_pairs() {
    let workspace = Workspace::new("llama-0");
    let command = "evaluate prior --model base --adapter adapter --data pairs.jsonl --held-out pairs.jsonl \
                   --max-pairs 12 --features 256 --groups 2";
    let report = report(&workspace, command);
    let rows = report["choices"].as_array().unwrap();
    let row = |name: &str| rows.iter().find(|row| row["choice"].as_str().unwrap().starts_with(name)).unwrap();
    let evidence = |name: &str| number(&row(name)["log_evidence"]);
    // More freedom, more evidence.
    let by_kind = evidence("evidence, one for each kind of block");
    assert!(by_kind >= evidence("evidence, one for all") - 1e-6);
    assert!(evidence("evidence, one for each kind and group") >= by_kind - 1e-2);
    let point = row("point estimate");
    assert_eq!([number(&point["difference_std"]), number(&point["pairs"])], [0.0, 12.0]);
    for row in rows {
        assert_eq!(row["accuracy"], point["accuracy"], "a posterior changes no sign: {row}");
        number(&row["nll"]);
    }
    assert_eq!(rows.iter().filter(|row| row["validated"].is_array()).count(), 4);
    assert_says(&workspace.fail(&format!("{command} --label-noise 0.5")), &["--label-noise: 0.5"]);
}

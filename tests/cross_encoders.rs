//! Encoders with a classification head against transformers, in float64 (`tests/fixtures/cross_encoders.py`).

use candle_core::Device;
use rewarden::{
    data,
    item::{Input, Message},
    model::{cross_encoder::CrossEncoder, head::Outputs},
    score::{Score, Want},
    text::{Limit, Truncation},
};
use serde_json::Value;
use std::path::{Path, PathBuf};

const CASES: [&str; 3] = ["bert", "deberta", "modernbert"];
const NO_LIMIT: Limit = Limit { max_length: 96, truncation: None };

fn folder(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/cross_encoders").join(case)
}

fn open(case: &str) -> CrossEncoder {
    CrossEncoder::open(&folder(case).join("base"), &Outputs::One, &Device::Cpu).unwrap()
}

#[test]
fn tokens_and_rewards_are_those_of_transformers() {
    for case in CASES {
        let mut model = open(case);
        let expected = std::fs::read(folder(case).join("expected.json")).unwrap();
        let expected: Value = serde_json::from_slice(&expected).unwrap();
        let items = data::read_items(&folder(case).join("inputs.jsonl")).unwrap();
        assert_eq!(items.len(), expected.as_object().unwrap().len());
        let mut sequences = Vec::new();
        for (id, input) in &items {
            let sequence = model.reader.encoder.encode(input, &NO_LIMIT).unwrap();
            let want = &expected[id.as_ref().unwrap()];
            assert_eq!(serde_json::json!(sequence.ids), want["input_ids"], "{case} {id:?}");
            sequences.push((sequence, want["mean"].as_f64().unwrap()));
        }
        let batch: Vec<_> = sequences.iter().map(|(sequence, _)| sequence).collect();
        let estimates = model.score(&batch, Want::MeanAndVariance).unwrap();
        for (estimate, (sequence, want)) in estimates.iter().zip(&sequences) {
            assert_eq!(estimate.variance, None);
            let got = estimate.mean;
            assert!(
                (got - want).abs() <= 1e-4 * want.abs().max(1.0),
                "{case} {sequence:?}: {got} is not {want}"
            );
        }
    }
}

#[test]
fn of_a_pair_that_is_too_long_the_response_is_cut() {
    let encoder = open("bert").reader.encoder;
    let pair =
        Input::Pair { prompt: "reward model".into(), response: "bake bread then bake bread again".into() };
    let whole = encoder.encode(&pair, &NO_LIMIT).unwrap();
    let limit = |max_length, truncation| Limit { max_length, truncation };
    assert!(encoder.encode(&pair, &limit(8, None)).is_err());
    let cut = encoder.encode(&pair, &limit(whole.ids.len() - 2, Some(Truncation::KeepSuffix))).unwrap();
    let response = whole.ids.len() - 3;
    assert_eq!(cut.ids, [&whole.ids[..response], &whole.ids[response + 2..]].concat());
    assert!(cut.truncated && encoder.types(&cut.ids).ends_with(&[1, 1]));
    let message = encoder.encode(&pair, &limit(3, Some(Truncation::KeepSuffix))).unwrap_err().to_string();
    assert!(message.starts_with("truncation: "), "{message}");
}

/// A text on its own, as other servers' clients send it.
#[test]
fn plain_text_is_surrounded_by_the_special_tokens() {
    let model = open("bert");
    let plain = model.reader.encoder.encode(&Input::Plain("bake bread".into()), &NO_LIMIT).unwrap();
    assert!(plain.ids.starts_with(&[2]) && plain.ids.ends_with(&[3]), "{plain:?}");
    assert!(model.reader.encoder.types(&plain.ids).iter().all(|kind| *kind == 0));
    assert!(model.rewards(&[&plain]).unwrap()[0].is_finite());
}

#[test]
fn without_a_template_a_conversation_of_more_turns_is_refused() {
    let said = |role: &str| Message::new(role, "x");
    let input = Input::Messages(vec![said("user"), said("assistant"), said("user"), said("assistant")]);
    let message = open("deberta").reader.encoder.encode(&input, &NO_LIMIT).unwrap_err().to_string();
    assert!(message.starts_with("messages: the model has no chat template"), "{message}");
}

#[test]
fn what_is_not_one_is_told_apart() {
    assert!(CASES.iter().all(|case| CrossEncoder::is_one(&folder(case).join("base"))));
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/cases");
    assert!(!CrossEncoder::is_one(&cases.join("llama-0/base")));
    assert!(!CrossEncoder::is_one(Path::new("nowhere")));
}

use std::{collections::HashSet, fs, path::Path};

use regex::Regex;

use super::*;

/// Prompts with answers of 4 to 13 different words.
fn items() -> Vec<Answered> {
    let answer = |at: usize| (0..at + 4).map(|word| format!("w{at}.{word}")).collect::<Vec<_>>().join(" ");
    (0..10).map(|at| Answered::to(&format!("question {at}"), &answer(at))).collect()
}

fn at(kind: AnswerKind) -> usize {
    AnswerKind::ALL.iter().position(|other| *other == kind).unwrap()
}

#[test]
fn six_kinds_are_trained_and_five_are_not() {
    let names = |trained: bool| -> Vec<&str> {
        AnswerKind::ALL.into_iter().filter(|kind| kind.trained() == trained).map(AnswerKind::name).collect()
    };
    assert_eq!(names(true), ["refusal", "shuffled", "off_topic", "spam", "flattery", "other_language"]);
    assert_eq!(names(false), ["unsure", "empty", "gibberish", "repeated", "code"]);
}

#[test]
fn names_are_those_of_serde() {
    for kind in AnswerKind::ALL {
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        assert_eq!(serde_json::from_value::<AnswerKind>(kind.name().into()).unwrap(), kind);
    }
}

#[test]
fn every_item_gets_one_answer_of_each_kind() {
    let items = items();
    let injected = inject(&items, 3);
    assert_eq!(injected.len(), items.len());
    for (item, answers) in items.iter().zip(&injected) {
        for (kind, answer) in AnswerKind::ALL.into_iter().zip(answers) {
            let answer = answer.as_deref().unwrap();
            assert_ne!(answer, item.response, "{}", kind.name());
            assert_eq!(answer.is_empty(), kind == AnswerKind::Empty, "{}", kind.name());
        }
    }
}

#[test]
fn answers_follow_from_the_seed() {
    let items = items();
    assert_eq!(inject(&items, 3), inject(&items, 3));
    let (three, four) = (inject(&items, 3), inject(&items, 4));
    for kind in AnswerKind::ALL.into_iter().filter(|kind| *kind != AnswerKind::Empty) {
        let differ = three.iter().zip(&four).any(|(a, b)| a[at(kind)] != b[at(kind)]);
        assert!(differ, "{}", kind.name());
    }
}

/// Only off-topic answers depend on other items.
#[test]
fn an_item_does_not_depend_on_the_others() {
    let items = items();
    let mut changed = items.clone();
    changed[2] = Answered::to("another question", "");
    let (before, after) = (inject(&items, 5), inject(&changed, 5));
    for index in (0..items.len()).filter(|index| *index != 2) {
        for kind in AnswerKind::ALL.into_iter().filter(|kind| *kind != AnswerKind::OffTopic) {
            assert_eq!(before[index][at(kind)], after[index][at(kind)], "{}", kind.name());
        }
    }
}

#[test]
fn made_of_the_good_answer_or_of_another() {
    let items = items();
    for (item, answers) in items.iter().zip(inject(&items, 1)) {
        let of = |kind: AnswerKind| answers[at(kind)].as_deref().unwrap();
        let sorted = |text: &str| {
            let mut words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
            words.sort_unstable();
            words
        };
        assert_eq!(sorted(of(AnswerKind::Shuffled)), sorted(&item.response));
        assert!(of(AnswerKind::Repeated).starts_with(item.response.split(' ').next().unwrap()));
        let of_another = |other: &&Answered| other.response == of(AnswerKind::OffTopic);
        assert_ne!(items.iter().find(of_another).unwrap().prompt, item.prompt);
        assert!(of(AnswerKind::Gibberish).chars().all(|c| c.is_ascii_lowercase() || c == ' '));
    }
}

#[test]
fn what_cannot_be_made_is_none() {
    let items = [
        Answered::to("a", ""),
        Answered::to("a", "word"),
        Answered::to("a", "same same same"),
        Answered::to("a", "one two"),
    ];
    let missing: Vec<Vec<&str>> = inject(&items, 1)
        .iter()
        .map(|answers| {
            let kinds = AnswerKind::ALL.into_iter().zip(answers);
            kinds.filter(|(_, answer)| answer.is_none()).map(|(kind, _)| kind.name()).collect()
        })
        .collect();
    let want: [&[&str]; 4] = [
        &["empty", "gibberish", "shuffled", "repeated", "off_topic"],
        &["shuffled", "off_topic"],
        &["shuffled", "off_topic"],
        &["off_topic"],
    ];
    assert_eq!(missing, want);
    assert!(inject(&[], 1).is_empty());
}

#[test]
fn an_off_topic_answer_has_text() {
    let items = [Answered::to("a", "One two."), Answered::to("b", " ")];
    assert_eq!(inject(&items, 1)[0][at(AnswerKind::OffTopic)], None);
}

#[test]
fn a_good_answer_is_not_injected_beside_itself() {
    for good in texts::REFUSALS {
        let injected = inject(&[Answered::to("a", good)], 9);
        assert!(injected[0][at(AnswerKind::Refusal)].as_deref().is_some_and(|answer| answer != good));
    }
}

#[test]
fn built_in_texts_differ_and_vary_in_length() {
    let all = [&texts::REFUSALS[..], &texts::UNSURE, &texts::SPAM, &texts::FLATTERY, &foreign()].concat();
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
    for texts in [&texts::REFUSALS[..], &texts::UNSURE, &texts::SPAM, &texts::FLATTERY] {
        let lengths = || texts.iter().map(|text| text.len());
        assert!(lengths().max().unwrap() > 4 * lengths().min().unwrap());
    }
}

/// Sentences in lower case and without punctuation, so that two wordings count as equal when only that differs.
fn sentences(text: &str) -> impl Iterator<Item = String> {
    let ends = |c: char| matches!(c, '.' | '!' | '?' | '。' | '！' | '？' | '।');
    let words = |sentence: &str| {
        let letters = sentence.to_lowercase().replace(|c: char| !c.is_alphanumeric(), " ");
        letters.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    text.split(ends).map(words).filter(|sentence| !sentence.is_empty())
}

/// Every string literal of the modules that make training pairs: read as text, so that no list there can be forgotten.
fn training_texts() -> Vec<String> {
    let train = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/train");
    let mut files = vec![train.join("constructed.rs")];
    if let Ok(folder) = fs::read_dir(train.join("constructed")) {
        files.extend(folder.map(|entry| entry.unwrap().path()));
    }
    let literal = Regex::new(r#""((?:[^"\\]|\\.)*)""#).unwrap();
    let of = |file| {
        let source = fs::read_to_string(file).unwrap();
        literal.captures_iter(&source).map(|found| found[1].to_owned()).collect::<Vec<_>>()
    };
    files.into_iter().flat_map(of).collect()
}

#[test]
fn no_injected_sentence_is_one_of_training() {
    let training = training_texts();
    assert!(training.iter().any(|text| text == "I don't know."), "the training lists were not found");
    let whole = |text: &str| sentences(text).collect::<Vec<_>>().join(" ");
    let seen: HashSet<String> =
        training.iter().flat_map(|text| sentences(text).chain([whole(text)])).collect();
    let injected =
        [&texts::REFUSALS[..], &texts::UNSURE, &texts::SPAM, &texts::FLATTERY, &foreign()].concat();
    for text in injected {
        for sentence in sentences(text).chain([whole(text)]) {
            assert!(!seen.contains(&sentence), "{sentence:?} occurs in training and in {text:?}");
        }
    }
}

//! Pairs made from the data's own texts, whose rejected answer is evidently worse (after RRM, Liu et al., 2024).
//!
//! Human pairs never show an answer to another question, shuffled words or an evasion, so a model that saw only them
//! may score such answers high. Where the length could give the answer away, the rejected text has the chosen one's.

use crate::{
    data::{Pair, pairs::Place},
    item::{Input, Message},
};
use rand::{
    Rng, SeedableRng,
    seq::{IndexedRandom, SliceRandom},
};

/// Answers that evade every question.
const EVASIONS: [&str; 14] = [
    "",
    "I don't know.",
    "Sure!",
    "Okay.",
    "...",
    "As I said before.",
    "It depends.",
    "That is a great question!",
    "I'm sorry, but I can't help with that.",
    "I would rather not answer that.",
    "I'm not sure what you mean.",
    "No comment.",
    "Sorry, I cannot answer this question.",
    "As an AI language model, I am not able to do that.",
];

/// Others whose answer is considered as an off-topic one.
const CANDIDATES: usize = 8;

/// Makes `count` pairs from pairs whose answers are single messages; fewer if there are none such.
pub fn pairs(from: &[&Pair], count: usize, seed: u64) -> Vec<Pair> {
    let usable: Vec<Source> = from.iter().copied().filter_map(Source::of).collect();
    if usable.len() < 2 {
        return Vec::new();
    }
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    (0..count).filter_map(|_| made(&usable, &mut rng)).collect()
}

struct Source<'a> {
    place: Option<&'a Place>,
    prompt: &'a [Message],
    chosen: &'a str,
}

impl<'a> Source<'a> {
    fn of(pair: &'a Pair) -> Option<Self> {
        let chosen = pair.chosen_text.as_deref().filter(|text| text.split_whitespace().count() >= 3)?;
        Some(Self { place: pair.place.as_ref(), prompt: pair.prompt.as_deref()?, chosen })
    }

    fn with(&self, rejected: String) -> Pair {
        let input = |answer: &str| {
            Input::Messages(self.prompt.iter().cloned().chain([Message::new("assistant", answer)]).collect())
        };
        Pair {
            source: Some("constructed".into()),
            chosen: input(self.chosen),
            rejected: input(&rejected),
            margin: 0.0,
            weight: 1.0,
            prompt: Some(self.prompt.to_vec()),
            chosen_text: Some(self.chosen.to_owned()),
            rejected_text: Some(rejected),
            place: self.place.cloned(),
        }
    }
}

fn made(sources: &[Source], rng: &mut impl Rng) -> Option<Pair> {
    let source = sources.choose(rng)?;
    let words: Vec<&str> = source.chosen.split_whitespace().collect();
    let rejected = match rng.random_range(0..10) {
        0..=3 => off_topic(source, sources, rng)?,
        4 => shuffled(&words, rng),
        5 => repeated(&words, rng),
        6 => words[..words.len().div_ceil(4)].join(" "),
        7..=8 => EVASIONS.choose(rng)?.to_string(),
        _ => gibberish(source.chosen.chars().count(), rng),
    };
    (rejected != source.chosen).then(|| source.with(rejected))
}

/// Of a few answers to other prompts the one whose length is nearest.
fn off_topic(source: &Source, sources: &[Source], rng: &mut impl Rng) -> Option<String> {
    let others =
        (0..CANDIDATES).filter_map(|_| sources.choose(rng)).filter(|other| other.prompt != source.prompt);
    let nearest = others.min_by_key(|other| other.chosen.len().abs_diff(source.chosen.len()))?;
    Some(nearest.chosen.to_owned())
}

fn shuffled(words: &[&str], rng: &mut impl Rng) -> String {
    let mut words = words.to_vec();
    words.shuffle(rng);
    words.join(" ")
}

/// A few of the answer's first words, over and over, to the answer's length.
fn repeated(words: &[&str], rng: &mut impl Rng) -> String {
    let phrase = rng.random_range(1..=words.len().min(6));
    let all: Vec<&str> = words[..phrase].iter().copied().cycle().take(words.len()).collect();
    all.join(" ")
}

/// Words of random letters.
fn gibberish(characters: usize, rng: &mut impl Rng) -> String {
    let mut text = String::new();
    while text.len() < characters {
        let length = rng.random_range(2..9);
        text.extend((0..length).map(|_| rng.random_range(b'a'..=b'z') as char));
        text.push(' ');
    }
    text.trim_end().to_owned()
}

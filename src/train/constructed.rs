//! Pairs made from the data's own texts, whose rejected answer is evidently worse (after RRM, Liu et al., 2024).
//!
//! Human pairs never show an answer to another question, shuffled words or an evasion, so a model that saw only them
//! may score such answers high. Where the length could give the answer away, the rejected text has the chosen one's.

use crate::{
    data::{Pair, pairs::Place},
    item::{Input, Message},
    shift::words::{gibberish, nearest, repeated, shuffled},
};
use clap::ValueEnum;
use rand::{Rng, SeedableRng, seq::IndexedRandom};

mod neighbour;
mod phrases;

/// A way to make an answer that is evidently worse than the chosen one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Construction {
    /// The chosen answer of another prompt
    OffTopic,
    /// The chosen answer's words in another order
    Shuffled,
    /// The chosen answer's first words over and over
    Repeated,
    /// The first quarter of the chosen answer
    CutOff,
    /// Words of random letters
    Gibberish,
    /// A refusal
    Refusal,
    /// "I don't know.", "It depends."
    Evasion,
    /// No text at all
    Empty,
    /// Praise of the user, and nothing else
    Flattery,
    /// Advertising
    Spam,
    /// Sentences in another language
    Language,
    /// The longest chosen answer of the prompts that are most like this one
    Neighbour,
}

/// Answers that evade every question.
const EVASIONS: [&str; 9] = [
    "I don't know.",
    "Sure!",
    "Okay.",
    "...",
    "As I said before.",
    "It depends.",
    "That is a great question!",
    "I have no idea.",
    "I'm not sure what you mean.",
];

impl Construction {
    /// The kinds that are made where none are named: those that may be trained on, so that the selection benchmark can judge by others
    /// ([`crate::shift::AnswerKind::trained`]), and answers that break off.
    pub const DEFAULT: [Self; 8] = [
        Self::OffTopic,
        Self::Neighbour,
        Self::Shuffled,
        Self::CutOff,
        Self::Refusal,
        Self::Flattery,
        Self::Spam,
        Self::Language,
    ];

    /// Returns the name, as flags write it.
    pub fn name(&self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Relative frequency of the kind. Answers to other prompts and refusals are drawn more often: they are fluent, and so hardest to reject.
    fn weight(self) -> usize {
        match self {
            Self::OffTopic | Self::Refusal => 4,
            Self::Neighbour => 3,
            _ => 1,
        }
    }

    /// Returns true for an answer that declines, which may be right where the request is harmful.
    fn declines(self) -> bool {
        matches!(self, Self::Refusal | Self::Evasion | Self::Empty)
    }

    /// An answer to `source` of this kind; it may happen to be the chosen one.
    fn answer(self, source: &Source, sources: &[Source], rng: &mut impl Rng) -> Option<String> {
        let words: Vec<&str> = source.chosen.split_whitespace().collect();
        // Half of them shorter than the chosen answer, so that its length does not give it away.
        let bytes = (source.chosen.len() as f64 * rng.random_range(0.1..1.5)) as usize;
        Some(match self {
            Self::OffTopic => off_topic(source, sources, rng)?,
            Self::Shuffled => shuffled(&words, rng),
            Self::Repeated => repeated(&words, words.len(), rng),
            Self::CutOff => words[..words.len().div_ceil(4)].join(" "),
            Self::Gibberish => gibberish(source.chosen.chars().count(), rng),
            Self::Refusal => (*phrases::REFUSALS.choose(rng)?).to_owned(),
            Self::Evasion => (*EVASIONS.choose(rng)?).to_owned(),
            Self::Empty => String::new(),
            Self::Flattery => phrases::flattery(bytes, rng),
            Self::Spam => phrases::spam(bytes, rng),
            Self::Language => phrases::language(bytes, rng),
            Self::Neighbour => neighbour::answer(source, sources, rng)?,
        })
    }
}

/// Makes `count` pairs of these kinds from pairs whose answers are single messages; fewer if there are none such. Where a pair
/// `may_refuse`, no answer that declines is made for it.
pub fn pairs(
    from: &[&Pair],
    kinds: &[Construction],
    may_refuse: impl Fn(&Pair) -> bool,
    count: usize,
    seed: u64,
) -> Vec<Pair> {
    let mut usable: Vec<Source> = Vec::new();
    for pair in from {
        usable.extend(Source::of(pair).map(|source| Source { may_refuse: may_refuse(pair), ..source }));
    }
    if usable.len() < 2 {
        return Vec::new();
    }
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    (0..count).filter_map(|_| made(&usable, kinds, &mut rng)).collect()
}

struct Source<'a> {
    place: Option<&'a Place>,
    prompt: &'a [Message],
    chosen: &'a str,
    may_refuse: bool,
}

impl<'a> Source<'a> {
    fn of(pair: &'a Pair) -> Option<Self> {
        let chosen = pair.chosen_text.as_deref().filter(|text| text.split_whitespace().count() >= 3)?;
        let (place, prompt) = (pair.place.as_ref(), pair.prompt.as_deref()?);
        Some(Self { place, prompt, chosen, may_refuse: false })
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

fn made(sources: &[Source], kinds: &[Construction], rng: &mut impl Rng) -> Option<Pair> {
    let source = sources.choose(rng)?;
    let fits = |kind: &&Construction| !(source.may_refuse && kind.declines());
    let kinds: Vec<Construction> = kinds.iter().filter(fits).copied().collect();
    let kind = kinds.choose_weighted(rng, |kind| kind.weight()).ok()?;
    let rejected = kind.answer(source, sources, rng)?;
    (rejected != source.chosen).then(|| source.with(rejected))
}

/// The answer to another prompt.
fn off_topic(source: &Source, sources: &[Source], rng: &mut impl Rng) -> Option<String> {
    let nearest = nearest(
        sources,
        source.chosen.len(),
        |other| (other.prompt != source.prompt).then_some(other.chosen),
        rng,
    )?;
    Some(nearest.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::pairs::Record;

    /// Pairs whose answers differ in words and in length.
    fn data() -> Vec<Pair> {
        let json = |at: usize| {
            let answer: Vec<String> = (0..=at + 3).map(|word| format!("w{at}.{word}")).collect();
            format!(r#"{{"prompt":"question {at}","chosen":"{}","rejected":"r"}}"#, answer.join(" "))
        };
        (0..6).map(|at| serde_json::from_str::<Record>(&json(at)).unwrap().parse().unwrap()).collect()
    }

    /// A training run that is repeated must see the pairs that it saw.
    #[test]
    fn a_seed_gives_the_same_pairs_for_ever() {
        let data = data();
        let from: Vec<&Pair> = data.iter().collect();
        let made: Vec<String> = pairs(&from, Construction::value_variants(), |_| false, 24, 7)
            .into_iter()
            .filter_map(|pair| pair.rejected_text)
            .collect();
        let want = [
            "w1.0 w1.1 w1.2 w1.3 w1.4",
            "w2.0 w2.1 w2.2 w2.3 w2.4 w2.5",
            "That is not something I can help you with. Please ask someone else.",
            "w2.1 w2.4 w2.5 w2.3 w2.0 w2.2",
            "w4.0 w4.1 w4.2 w4.3 w4.4 w4.5 w4.6 w4.7",
            "w1.0 w1.1 w1.2 w1.3 w1.4",
            "w5.0 w5.1 w5.2 w5.3 w5.4 w5.5 w5.6 w5.7 w5.8",
            "As a language model I do not have opinions, and I can't respond to this.",
            "w1.0 w1.2 w1.3 w1.1 w1.4",
            "As a language model I do not have opinions, and I can't respond to this.",
            "w4.0 w4.1",
            "It is always a pleasure to talk with somebody so gifted.",
            "I love the way you think.",
            "w0.0 w0.1 w0.2 w0.3",
            "w3.0 w3.1 w3.2 w3.3 w3.4 w3.5 w3.6",
            "I'm not sure what you mean.",
            "This request goes against my programming, so I will not respond to it.",
            "w4.0 w4.1 w4.2 w4.3 w4.4 w4.5 w4.6 w4.7",
            "w2.0 w2.1 w2.2 w2.3 w2.4 w2.5",
            "w4.0 w4.1 w4.2 w4.3 w4.4 w4.5 w4.6 w4.7",
            "sacpge yhclhnda zhim isntxj",
            "w1.0 w1.1 w1.2 w1.3 w1.4",
            "Hay varias razones que lo explican.",
            "w1.0 w1.1 w1.2 w1.3 w1.4",
        ];
        assert_eq!(made, want);
    }

    #[test]
    fn where_a_refusal_may_be_right_none_is_made() {
        let data = data();
        let from: Vec<&Pair> = data.iter().collect();
        let kinds = [Construction::Refusal, Construction::Evasion, Construction::Empty, Construction::Spam];
        let first = |pair: &Pair| pair.prompt == data[0].prompt;
        let made = pairs(&from, &kinds, first, 200, 1);
        let declined = |pair: &&Pair| {
            let rejected = pair.rejected_text.as_deref().unwrap_or_default();
            rejected.is_empty() || EVASIONS.contains(&rejected) || phrases::REFUSALS.contains(&rejected)
        };
        let (of_first, of_others): (Vec<&Pair>, Vec<&Pair>) = made.iter().partition(|pair| first(pair));
        assert!(!of_first.is_empty() && of_first.iter().all(|pair| !declined(pair)));
        assert!(of_others.iter().any(declined));
        // Without a kind that fits nothing is made, and nothing loops.
        assert!(pairs(&from, &kinds[..3], |_| true, 10, 1).is_empty());
    }
}

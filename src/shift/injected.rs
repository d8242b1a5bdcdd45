//! Bad answers of known kinds, which the selection benchmark adds to a good answer.
//!
//! A selection rule should prefer the good answer to all of them. Six kinds may be used in training and for choosing a rule
//! ([`AnswerKind::trained`]). The other five are for judgement alone: they show whether a result carries over to kinds of bad
//! answers that the model was not prepared for.
//!
//! The answers depend on the items and the seed. One answer does not depend on whether another could be made. Prompts are
//! assumed to be in English: an answer in another language is a bad one there.

use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{Answered, DRAWS, Shift, languages, rng, same};

mod texts;

/// A kind of bad answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerKind {
    /// A refusal of a harmless request.
    Refusal,
    /// An answer that only admits not knowing, such as "I am not sure."
    Unsure,
    /// No text at all.
    Empty,
    /// Words of random letters, as long as the good answer.
    Gibberish,
    /// The good answer's words in random order.
    Shuffled,
    /// The good answer's first words over and over.
    Repeated,
    /// The good answer to another prompt, of about the same length.
    OffTopic,
    /// Advertising or fraud.
    Spam,
    /// Praise of the user without an answer.
    Flattery,
    /// A fluent answer in a language other than English.
    OtherLanguage,
    /// A program.
    Code,
}

impl AnswerKind {
    /// Number of kinds.
    pub const COUNT: usize = 11;

    /// Every kind, in the order of reports.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Refusal,
        Self::Unsure,
        Self::Empty,
        Self::Gibberish,
        Self::Shuffled,
        Self::Repeated,
        Self::OffTopic,
        Self::Spam,
        Self::Flattery,
        Self::OtherLanguage,
        Self::Code,
    ];

    /// The kind's name in reports and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Refusal => "refusal",
            Self::Unsure => "unsure",
            Self::Empty => "empty",
            Self::Gibberish => "gibberish",
            Self::Shuffled => "shuffled",
            Self::Repeated => "repeated",
            Self::OffTopic => "off_topic",
            Self::Spam => "spam",
            Self::Flattery => "flattery",
            Self::OtherLanguage => "other_language",
            Self::Code => "code",
        }
    }

    /// Returns true for the kinds that may be used in training and for choosing a rule.
    pub fn trained(self) -> bool {
        match self {
            Self::OffTopic
            | Self::Shuffled
            | Self::Refusal
            | Self::Flattery
            | Self::Spam
            | Self::OtherLanguage => true,
            Self::Unsure | Self::Empty | Self::Gibberish | Self::Repeated | Self::Code => false,
        }
    }

    /// Draws an answer of this kind; it may happen to be the good one.
    fn draw(self, item: &Answered, items: &[Answered], rng: &mut ChaCha8Rng) -> Option<String> {
        let one_of = |texts: &[&str], rng: &mut ChaCha8Rng| texts.choose(rng).map(|text| (*text).to_owned());
        match self {
            Self::Empty => Some(String::new()),
            Self::Refusal => one_of(&texts::REFUSALS, rng),
            Self::Unsure => one_of(&texts::UNSURE, rng),
            Self::Spam => one_of(&texts::SPAM, rng),
            Self::Flattery => one_of(&texts::FLATTERY, rng),
            Self::OtherLanguage => one_of(&foreign(), rng),
            Self::Gibberish => Shift::Gibberish.response(item, items, rng),
            Self::Shuffled => Shift::Shuffled.response(item, items, rng),
            Self::Repeated => Shift::Repeated.response(item, items, rng),
            Self::OffTopic => Shift::OffTopic.response(item, items, rng),
            Self::Code => Shift::Code.response(item, items, rng),
        }
    }

    /// Makes an answer of this kind whose words differ from the good answer's; `None` where no draw gave one.
    fn make(self, item: &Answered, items: &[Answered], rng: &mut ChaCha8Rng) -> Option<String> {
        let usable = |answer: &String| {
            !same(answer, &item.response) && (self == Self::Empty || !answer.trim().is_empty())
        };
        (0..DRAWS).filter_map(|_| self.draw(item, items, rng)).find(usable)
    }
}

/// Makes one bad answer of each kind for each item, whose responses are good answers.
///
/// Row `i` belongs to `items[i]`, and its answers are in the order of [`AnswerKind::ALL`]. An entry is `None` where the kind
/// cannot be made: one word has no other order, and a single prompt has no answer to another prompt.
pub fn inject(items: &[Answered], seed: u64) -> Vec<[Option<String>; AnswerKind::COUNT]> {
    let of = |(item, at): (&Answered, u64)| {
        let mut stream = at * AnswerKind::COUNT as u64;
        AnswerKind::ALL.map(|kind| {
            let mut rng = rng(seed, stream);
            stream += 1;
            kind.make(item, items, &mut rng)
        })
    };
    items.iter().zip(0..).map(of).collect()
}

/// Returns the general answers in other languages, and the answers of [`languages::TEXTS`].
fn foreign() -> Vec<&'static str> {
    texts::LANGUAGES.into_iter().chain(languages::TEXTS.map(|(_, answer)| answer)).collect()
}

#[cfg(test)]
mod tests;

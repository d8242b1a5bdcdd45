//! Items out of the distribution, made of given ones: what a reward model should be less sure of.
//!
//! A shift replaces the answer and keeps the prompt, but for [`Shift::Languages`] and [`Shift::CodeTask`], which replace
//! both. Everything follows from the items and the seed, and what becomes of one item does not depend on whether
//! another could be shifted.

use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

use crate::{
    data::Pair,
    item::{Input, Message},
};

mod code;
mod injected;
mod languages;
pub(crate) mod words;

pub use injected::{AnswerKind, inject};

use words::{gibberish, nearest, repeated, shuffled};

/// Draws before an item is given up, whose answer every draw left as it was.
const DRAWS: usize = 16;
/// Words of a repetition, at least.
const REPETITION: usize = 64;
/// Words of a very long answer, at most.
pub const MAX_WORDS: usize = 16_384;

/// A conversation so far and the answer to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Answered {
    pub prompt: Vec<Message>,
    pub response: String,
}

/// A way out of the distribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shift {
    /// The answer's words in another order.
    Shuffled,
    /// Words of random letters, as long as the answer.
    Gibberish,
    /// The answer's first words, up to six, over and over: as long as the answer, or 64 words if that is shorter.
    Repeated,
    /// The answer to another prompt, of about the answer's length.
    OffTopic,
    /// A program in place of the answer.
    Code,
    /// A task to write a program, and the program: each of a built-in list once.
    CodeTask,
    /// A question and its answer in a language other than English: each of a built-in list once.
    Languages,
    /// Answers to other prompts, one after the other.
    VeryLong {
        /// Words of the whole, [`MAX_WORDS`] at most.
        words: usize,
    },
}

impl Answered {
    /// The better answer of a pair, if it is a single message after a prompt.
    pub fn chosen(pair: &Pair) -> Option<Self> {
        Some(Self { prompt: pair.prompt.clone()?, response: pair.chosen_text.clone()? })
    }

    /// The item, if it is a prompt and an answer.
    pub fn of(input: &Input) -> Option<Self> {
        match input {
            Input::Pair { prompt, response } => Some(Self::to(prompt, response)),
            Input::Answer { prompt, response } => Self::after(prompt, response),
            Input::Messages(messages) => Self::after(&[], messages),
            Input::Text(_) | Input::Plain(_) | Input::Ids(_) | Input::IdPair { .. } => None,
        }
    }

    /// A conversation, if it ends with an answer.
    fn after(before: &[Message], rest: &[Message]) -> Option<Self> {
        let (last, between) = rest.split_last()?;
        let prompt = [before, between].concat();
        let answers = last.role == "assistant" && !prompt.is_empty();
        answers.then(|| Self { prompt, response: last.content.text().into_owned() })
    }

    /// An answer to one message of a user.
    fn to(prompt: &str, response: &str) -> Self {
        Self { prompt: vec![Message::new("user", prompt)], response: response.to_owned() }
    }

    /// The answer, if this is an answer to another prompt than `item` is, and another answer.
    fn elsewhere(&self, item: &Self) -> Option<&str> {
        (self.prompt != item.prompt && !same(&self.response, &item.response)).then_some(&self.response)
    }
}

impl From<Answered> for Input {
    /// Strings where one message of a user is answered: a model without a chat template takes nothing else.
    fn from(Answered { prompt, response }: Answered) -> Self {
        match prompt.as_slice() {
            [message] if message.role == "user" => {
                Self::Pair { prompt: message.content.text().into(), response }
            }
            _ => Self::Answer { prompt: prompt.into(), response: vec![Message::new("assistant", response)] },
        }
    }
}

impl Shift {
    /// All of them, the very long answers of 2048 words.
    pub const ALL: [Self; 8] = [
        Self::Shuffled,
        Self::Gibberish,
        Self::Repeated,
        Self::OffTopic,
        Self::Code,
        Self::CodeTask,
        Self::Languages,
        Self::VeryLong { words: 2048 },
    ];

    /// The shift's name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shuffled => "shuffled words",
            Self::Gibberish => "gibberish",
            Self::Repeated => "repetition",
            Self::OffTopic => "off topic",
            Self::Code => "code as answer",
            Self::CodeTask => "code task",
            Self::Languages => "other languages",
            Self::VeryLong { .. } => "very long",
        }
    }

    /// Shifts every item that can be, in their order: an answer of one word has no other order, and without another
    /// prompt there is nothing off topic. From a built-in list come as many as there are items, or all.
    pub fn apply(self, items: &[Answered], seed: u64) -> Vec<Answered> {
        match self {
            Self::CodeTask => some_of(&code::TEXTS, items.len(), seed),
            Self::Languages => some_of(&languages::TEXTS, items.len(), seed),
            _ => items
                .iter()
                .zip(0..)
                .filter_map(|(item, at)| self.one(item, items, &mut rng(seed, at)))
                .collect(),
        }
    }

    fn one(self, item: &Answered, items: &[Answered], rng: &mut ChaCha8Rng) -> Option<Answered> {
        let mut responses = (0..DRAWS).filter_map(|_| self.response(item, items, rng));
        let response = responses.find(|response| !same(response, &item.response))?;
        Some(Answered { prompt: item.prompt.clone(), response })
    }

    /// A response in place of the item's; it may happen to be the same.
    fn response(self, item: &Answered, items: &[Answered], rng: &mut ChaCha8Rng) -> Option<String> {
        let words: Vec<&str> = item.response.split_whitespace().collect();
        match self {
            Self::Shuffled => Some(shuffled(&words, rng)),
            Self::Gibberish => Some(gibberish(item.response.chars().count(), rng)),
            Self::Repeated if words.is_empty() => None,
            Self::Repeated => Some(repeated(&words, words.len().max(REPETITION), rng)),
            Self::OffTopic => {
                nearest(items, item.response.len(), |other| other.elsewhere(item), rng).map(str::to_owned)
            }
            Self::Code => code::TEXTS.choose(rng).map(|(_, program)| (*program).to_owned()),
            Self::VeryLong { words } => joined(item, items, words.min(MAX_WORDS), rng),
            // They replace the prompt too, and are made of no item.
            Self::CodeTask | Self::Languages => None,
        }
    }
}

/// Numbers for the item at this place.
fn rng(seed: u64, at: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(at);
    rng
}

/// Whether the texts have the same words.
fn same(a: &str, b: &str) -> bool {
    a.split_whitespace().eq(b.split_whitespace())
}

/// Different ones of the built-in texts, in any order.
fn some_of(texts: &[(&str, &str)], count: usize, seed: u64) -> Vec<Answered> {
    let chosen = texts.choose_multiple(&mut rng(seed, 0), count);
    chosen.map(|(prompt, response)| Answered::to(prompt, response)).collect()
}

/// Answers to other prompts one after the other, to this number of words.
fn joined(item: &Answered, items: &[Answered], count: usize, rng: &mut impl Rng) -> Option<String> {
    let mut answers: Vec<&str> = items.iter().filter_map(|other| other.elsewhere(item)).collect();
    answers.retain(|answer| !answer.trim().is_empty());
    if answers.is_empty() {
        return None;
    }
    let drawn = std::iter::repeat_with(|| answers.choose(rng)).flatten();
    let words: Vec<&str> = drawn.flat_map(|answer| answer.split_whitespace()).take(count).collect();
    Some(words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// Questions with answers of 4 to 23 words.
    fn items() -> Vec<Answered> {
        let answer = |at: usize| -> String {
            let words: Vec<String> = (0..at + 4).map(|word| format!("w{at}.{word}")).collect();
            words.join(" ")
        };
        (0..20).map(|at| Answered::to(&format!("question {at}"), &answer(at))).collect()
    }

    fn words(item: &Answered) -> Vec<&str> {
        item.response.split_whitespace().collect()
    }

    #[test]
    fn a_seed_says_everything() {
        let items = items();
        for shift in Shift::ALL {
            let shifted = shift.apply(&items, 3);
            assert_eq!(shifted, shift.apply(&items, 3), "{}", shift.name());
            assert_ne!(shifted, shift.apply(&items, 4), "{}", shift.name());
        }
    }

    #[test]
    fn every_item_is_shifted_and_none_is_as_it_was() {
        let items = items();
        for shift in Shift::ALL {
            let shifted = shift.apply(&items, 3);
            let replaced = matches!(shift, Shift::CodeTask | Shift::Languages);
            assert!(replaced || shifted.len() == items.len(), "{}", shift.name());
            for (was, is) in items.iter().zip(&shifted) {
                assert!(!same(&was.response, &is.response) && !is.response.is_empty(), "{}", shift.name());
                assert_eq!(was.prompt != is.prompt, replaced, "{}", shift.name());
            }
        }
    }

    #[test]
    fn lengths() {
        let items = items();
        let both = |shift: Shift| items.iter().zip(shift.apply(&items, 1)).collect::<Vec<_>>();
        for (was, is) in both(Shift::Shuffled) {
            let (mut was, mut is) = (words(was), words(&is));
            was.sort_unstable();
            is.sort_unstable();
            assert_eq!(was, is);
        }
        for (was, is) in both(Shift::Gibberish) {
            let (was, is) = (was.response.len(), is.response.len());
            assert!((was - 1..was + 8).contains(&is), "{was} {is}");
        }
        for (was, is) in both(Shift::Repeated) {
            assert_eq!(words(&is).len(), REPETITION);
            assert!(
                words(&is).iter().collect::<HashSet<_>>().len() <= 6
                    && words(was).starts_with(&words(&is)[..1])
            );
        }
        for (count, want) in [(500, 500), (usize::MAX, MAX_WORDS)] {
            let shifted = Shift::VeryLong { words: count }.apply(&items[..2], 1);
            assert_eq!(words(&shifted[0]).len(), want);
        }
    }

    #[test]
    fn off_topic_is_the_answer_to_another_prompt() {
        let items = items();
        for (was, is) in items.iter().zip(Shift::OffTopic.apply(&items, 5)) {
            assert!(items.iter().any(|item| item.response == is.response && item.prompt != was.prompt));
        }
        let equal = [Answered::to("a", "Yes."), Answered::to("b", "Yes. "), Answered::to("a", "No.")];
        let shifted = Shift::OffTopic.apply(&equal, 5);
        assert_eq!(shifted, [Answered::to("b", "No."), Answered::to("a", "Yes. ")]);
    }

    #[test]
    fn what_cannot_be_shifted_is_left_out() {
        let items = [Answered::to("a", ""), Answered::to("a", "word"), Answered::to("a", "one two")];
        let lengths = Shift::ALL.map(|shift| shift.apply(&items, 1).len());
        assert_eq!(lengths, [1, 2, 2, 0, 3, 3, 3, 0]);
        assert!(Shift::ALL.iter().all(|shift| shift.apply(&[], 1).is_empty()));
    }

    #[test]
    fn built_in_texts_come_once_each() {
        for (shift, texts) in
            [(Shift::CodeTask, code::TEXTS.as_slice()), (Shift::Languages, &languages::TEXTS)]
        {
            let shifted = shift.apply(&vec![Answered::to("a", "b"); 100], 1);
            let different: HashSet<&str> = shifted.iter().map(|item| item.response.as_str()).collect();
            assert_eq!((shifted.len(), different.len()), (texts.len(), texts.len()));
        }
    }

    #[test]
    fn items_of_every_form_that_has_an_answer() {
        let want = Answered::to("p", "r");
        let messages = vec![Message::new("user", "p"), Message::new("assistant", "r")];
        let pair = Input::Pair { prompt: "p".into(), response: "r".into() };
        for input in [pair, Input::from(want.clone()), Input::Messages(messages.clone())] {
            assert_eq!(Answered::of(&input), Some(want.clone()));
        }
        for input in [Input::Messages(messages[..1].to_vec()), Input::Text("t".into()), Input::Ids(vec![1])] {
            assert_eq!(Answered::of(&input), None);
        }
    }
}

//! The answer to a prompt that is like another.

use super::Source;
use crate::item::Message;
use rand::{Rng, seq::IndexedRandom};
use std::collections::HashSet;

/// Prompts among which like ones are looked for, so that the work of a pair does not grow with the data.
const CANDIDATES: usize = 512;
/// Of the most alike, this many are considered.
const NEAREST: usize = 4;
/// Times that the answer may be as long as the chosen one; a longer one would not fit where the pair did.
const LONGER: usize = 4;
/// Shorter words say little of a prompt's subject.
const LETTERS: usize = 5;

/// The longest of the chosen answers to the prompts that share most words with the one of `source`, so that neither subject nor
/// length speaks for the chosen answer.
pub(super) fn answer(source: &Source, sources: &[Source], rng: &mut impl Rng) -> Option<String> {
    let words = words(source.prompt);
    let fits =
        |other: &&Source| other.prompt != source.prompt && other.chosen.len() <= LONGER * source.chosen.len();
    let candidates = sources.choose_multiple(rng, CANDIDATES).filter(fits);
    let mut alike: Vec<(f64, &Source)> =
        candidates.map(|other| (likeness(&words, other.prompt), other)).collect();
    alike.sort_by(|a, b| b.0.total_cmp(&a.0));
    let longest = alike.iter().take(NEAREST).max_by_key(|(_, other)| other.chosen.len())?;
    Some(longest.1.chosen.to_owned())
}

/// Share of words in common (Ochiai, 1957): 1 for the same words, 0 for none.
fn likeness(words: &HashSet<String>, other: &[Message]) -> f64 {
    let others = self::words(other);
    let scale = (words.len() * others.len()) as f64;
    words.intersection(&others).count() as f64 / scale.sqrt().max(1.0)
}

/// The longer words of the last message.
fn words(prompt: &[Message]) -> HashSet<String> {
    let text = prompt.last().map(|message| message.content.text().to_lowercase()).unwrap_or_default();
    let letters = |word: &&str| word.chars().count() >= LETTERS;
    text.split(|c: char| !c.is_alphanumeric()).filter(letters).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn the_subject_decides_then_the_length() {
        let asked = [
            "How do bees make honey in winter?",
            "Where is honey stored by bees, in winter?",
            "What should bees be fed when honey lacks?",
            "Do bees sleep beside their honey?",
            "Are bees fond of honey themselves?",
            "Which tram goes to the central station, please?",
        ];
        let prompts = asked.map(|text| [Message::new("user", text)]);
        let answers = [
            "twelve bytes",
            "short",
            "rather longer",
            "long",
            "the longest of these",
            "The longest of them all: line 4.",
        ];
        let source = |(prompt, chosen)| Source { place: None, prompt, chosen, may_refuse: false };
        let sources: Vec<Source> = prompts.iter().map(|p| &p[..]).zip(answers).map(source).collect();
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        assert_eq!(answer(&sources[0], &sources, &mut rng).as_deref(), Some("the longest of these"));
        // Without another prompt there is none.
        assert_eq!(answer(&sources[0], &sources[..1], &mut rng), None);
    }
}

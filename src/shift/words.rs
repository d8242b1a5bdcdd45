//! Texts made of the words of others.

use rand::{
    Rng,
    seq::{IndexedRandom, SliceRandom},
};

/// Elements among which the nearest is looked for.
const CANDIDATES: usize = 8;

/// The words in another order.
pub fn shuffled(words: &[&str], rng: &mut impl Rng) -> String {
    let mut words = words.to_vec();
    words.shuffle(rng);
    words.join(" ")
}

/// A few of the first words, over and over, to `length` words.
pub fn repeated(words: &[&str], length: usize, rng: &mut impl Rng) -> String {
    let phrase = rng.random_range(1..=words.len().min(6));
    let all: Vec<&str> = words[..phrase].iter().copied().cycle().take(length).collect();
    all.join(" ")
}

/// Words of random letters.
pub fn gibberish(characters: usize, rng: &mut impl Rng) -> String {
    let mut text = String::new();
    while text.len() < characters {
        let length = rng.random_range(2..9);
        text.extend((0..length).map(|_| rng.random_range(b'a'..=b'z') as char));
        text.push(' ');
    }
    text.trim_end().to_owned()
}

/// Of a few elements, those that have a `text`, the text whose length is nearest `bytes`.
pub fn nearest<'a, T>(
    all: &'a [T],
    bytes: usize,
    text: impl Fn(&'a T) -> Option<&'a str>,
    rng: &mut impl Rng,
) -> Option<&'a str> {
    let texts = (0..CANDIDATES).filter_map(|_| all.choose(rng)).filter_map(text);
    texts.min_by_key(|text| text.len().abs_diff(bytes))
}

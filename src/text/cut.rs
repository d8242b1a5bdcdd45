//! Parts of long texts: as much as fills a limit of tokens, so that the rest is never tokenised.
//!
//! The bytes of a token are not known before a text is tokenised. So a part is taken that is long enough for most texts, and a longer
//! one where it was too short. Near the cut, tokens may differ from those of the whole text. A cut is made before a space where one
//! is near, since tokenizers split there, and a part counts as enough only where it has [`MARGIN`] tokens more than are kept.

use std::ops::Range;

use crate::{Error, Result};

/// Bytes of the first part for each token of the limit.
const BYTES_PER_TOKEN: usize = 8;
/// The next part is so many times as long.
const GROWTH: usize = 4;
/// Tokens that a part has beyond those that are kept: the ones near the cut are dropped.
const MARGIN: usize = 64;
/// Bytes among which a space is looked for.
const NEAR: usize = 256;
/// Bytes that are kept on the other side of a cut inside a text.
const SHORE: usize = 64;

/// Tokenises parts of a text of `length` bytes, each longer than the one before, until one is the whole text or has more tokens
/// than are kept; and tells whether it is the whole. `part` tokenises so many bytes, and counts the tokens. Gives up between two
/// parts with [`Error::Deadline`] where nobody waits for it.
pub fn enough<T>(
    length: usize,
    max_length: usize,
    live: &dyn Fn() -> bool,
    mut part: impl FnMut(usize) -> Result<(usize, T)>,
) -> Result<(T, bool)> {
    let wanted = max_length.saturating_add(MARGIN);
    let mut bytes = wanted.saturating_mul(BYTES_PER_TOKEN);
    loop {
        if !live() {
            return Err(Error::Deadline);
        }
        let (tokens, found) = part(bytes)?;
        let whole = length <= bytes;
        if whole || tokens > wanted {
            return Ok((found, whole));
        }
        bytes = bytes.saturating_mul(GROWTH);
    }
}

/// The first bytes of a text, `bytes` of them at most.
pub fn first(text: &str, bytes: usize) -> &str {
    if text.len() <= bytes {
        return text;
    }
    let end = text.floor_char_boundary(bytes);
    let near = text.floor_char_boundary(end.saturating_sub(NEAR));
    let space = text[near..end].rfind(' ').map(|at| near + at).filter(|at| *at > 0);
    &text[..space.unwrap_or(end)]
}

/// The last bytes of a text, `bytes` of them at most.
pub fn last(text: &str, bytes: usize) -> &str {
    if text.len() <= bytes {
        return text;
    }
    let start = text.ceil_char_boundary(text.len() - bytes);
    let near = text.floor_char_boundary((start + NEAR).min(text.len()));
    let space = text[start..near].find(' ').map(|at| start + at);
    &text[space.unwrap_or(start)..]
}

/// A text without the middle of a part of it: what stands before it and its first `bytes`, its end, and what stands after it.
pub fn within(text: &str, part: Range<usize>, bytes: usize) -> Option<(String, Range<usize>)> {
    let inner = text.get(part.clone())?;
    if inner.len() <= bytes.saturating_add(SHORE) {
        return None;
    }
    let (head, tail) = (first(inner, bytes), last(inner, SHORE));
    let whole = [&text[..part.start], head, tail, &text[part.end..]].concat();
    Some((whole, part.start..part.start + head.len() + tail.len()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_cut_is_before_a_space_and_splits_no_character() {
        let table = [
            ("one two three", 100, "one two three", "one two three"),
            ("one two three", 9, "one two", " three"),
            ("one two three", 4, "one", "hree"),
            ("äöü", 3, "ä", "ü"),
            ("äöü", 0, "", ""),
        ];
        for (text, bytes, head, tail) in table {
            assert_eq!((first(text, bytes), last(text, bytes)), (head, tail), "{text} {bytes}");
        }
    }

    #[test]
    fn the_middle_goes() {
        let inner = format!("{}{}", "ab ".repeat(100), "z".repeat(SHORE));
        let text = format!("<{inner}>");
        let (short, part) = within(&text, 1..text.len() - 1, 7).unwrap();
        assert_eq!(short, format!("<ab ab{}>", "z".repeat(SHORE)));
        assert_eq!(&short[part], format!("ab ab{}", "z".repeat(SHORE)));
        assert_eq!(within(&text, 1..text.len() - 1, inner.len()), None);
    }

    #[test]
    fn parts_grow_until_they_are_enough_or_nobody_waits() {
        let tried = |length: usize, bytes_per_token: usize| {
            let mut sizes = Vec::new();
            let (tokens, whole) = enough(length, 36, &|| true, |bytes| {
                sizes.push(bytes);
                let tokens = length.min(bytes) / bytes_per_token;
                Ok((tokens, tokens))
            })
            .unwrap();
            (sizes, tokens, whole)
        };
        // 100 tokens are wanted, and more.
        assert_eq!(tried(700, 1), (vec![800], 700, true));
        assert_eq!(tried(9000, 7), (vec![800], 114, false));
        assert_eq!(tried(9000, 8), (vec![800, 3200], 400, false));
        assert_eq!(tried(9000, 1000), (vec![800, 3200, 12800], 9, true));
        let calls = std::cell::Cell::new(0);
        let live = || calls.replace(calls.get() + 1) == 0;
        let gone = enough(9000, 36, &live, |_| Ok((0, ())));
        assert!(matches!(gone, Err(Error::Deadline)) && calls.get() == 2);
    }

    proptest! {
        #[test]
        fn parts_are_of_the_text_and_not_too_long(text in "[ aä€😀]{0,400}", bytes in 0usize..900) {
            let (head, tail) = (first(&text, bytes), last(&text, bytes));
            prop_assert!(text.starts_with(head) && text.ends_with(tail));
            prop_assert!(head.len() <= bytes && tail.len() <= bytes || text.len() <= bytes);
            let close = |part: &str| part.len() + NEAR + 4 >= bytes.min(text.len());
            prop_assert!(close(head) && close(tail));
        }
    }
}

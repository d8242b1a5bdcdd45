//! Cutting token sequences that are too long.

use std::{fmt::Display, ops::Range};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::tokenizer::Piece;
use crate::{Error, Result};

/// What is cut from an input that is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Truncation {
    /// Tokens at the start of the rendered text.
    Left,
    /// Tokens at the end of the rendered text.
    Right,
    /// The end of the last message's text; what the template puts after it stays.
    KeepSuffix,
}

/// How long a sequence may be, and what happens to longer ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Tokens that a sequence may have.
    pub max_length: usize,
    /// `None`: a longer input is an error.
    pub truncation: Option<Truncation>,
}

impl Limit {
    /// Cuts the first tokens.
    pub fn cut_left(&self, ids: &mut Vec<u32>) {
        ids.drain(..ids.len().saturating_sub(self.max_length));
    }

    /// Cuts the last tokens.
    pub fn cut_right(&self, ids: &mut Vec<u32>) {
        ids.truncate(self.max_length);
    }

    /// Says that so many tokens stay, whatever is cut of the last message.
    pub fn no_room(&self, kept: impl Display) -> Error {
        let message = format!(
            "`keep-suffix` leaves {kept} tokens around the last message, more than the limit of {}",
            self.max_length
        );
        Error::field("truncation", message)
    }

    /// Cuts tokens from the end of those that lie within `text`, a range of bytes, and keeps the tokens
    /// before and after; a token that reaches past the range belongs to what is kept.
    pub fn cut_within(&self, pieces: &[Piece], text: Range<usize>) -> Result<Vec<u32>> {
        let inside = |piece: &Piece| {
            piece.bytes.as_ref().is_some_and(|bytes| text.start <= bytes.start && bytes.end <= text.end)
        };
        let start = pieces.iter().position(inside).unwrap_or(0);
        let end = pieces.iter().rposition(inside).map_or(start, |last| last + 1);
        let kept = pieces.len() - (end - start);
        let Some(room) = self.max_length.checked_sub(kept) else {
            return Err(self.no_room(kept));
        };
        let cut = whole_characters(pieces, start, end.min(start + room));
        Ok(pieces[..cut].iter().chain(&pieces[end..]).map(|piece| piece.id).collect())
    }
}

/// Moves `cut` back to where a character begins: byte-level tokens of one character share its bytes.
fn whole_characters(pieces: &[Piece], start: usize, mut cut: usize) -> usize {
    let split = |cut: usize| match (pieces.get(cut - 1), pieces.get(cut)) {
        (Some(Piece { bytes: Some(before), .. }), Some(Piece { bytes: Some(after), .. })) => {
            after.start < before.end
        }
        _ => false,
    };
    while cut > start && split(cut) {
        cut -= 1;
    }
    cut
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limit(max_length: usize) -> Limit {
        Limit { max_length, truncation: None }
    }

    fn pieces(bytes: &[(usize, usize)]) -> Vec<Piece> {
        bytes.iter().zip(0..).map(|(&(start, end), id)| Piece { id, bytes: Some(start..end) }).collect()
    }

    #[test]
    fn sides_are_those_of_the_cut() {
        let mut ids = vec![1, 2, 3, 4];
        limit(3).cut_left(&mut ids);
        assert_eq!(ids, [2, 3, 4]);
        limit(2).cut_right(&mut ids);
        assert_eq!(ids, [2, 3]);
    }

    #[test]
    fn a_character_is_not_split() {
        // Tokens 2, 3 and 4 are the bytes of one character at 2..5.
        let pieces = pieces(&[(0, 1), (1, 2), (2, 5), (2, 5), (2, 5), (5, 6)]);
        for (length, want) in [(5, vec![0, 1, 2, 3, 4]), (4, vec![0, 1]), (3, vec![0, 1]), (1, vec![0])] {
            assert_eq!(limit(length).cut_within(&pieces, 1..6).unwrap(), want, "{length}");
        }
    }

    #[test]
    fn what_surrounds_the_text_stays() {
        let mut pieces = pieces(&[(0, 0), (0, 3), (3, 5), (5, 8), (8, 9), (0, 0)]);
        pieces[0].bytes = None;
        pieces[5].bytes = None;
        assert_eq!(limit(5).cut_within(&pieces, 3..8).unwrap(), [0, 1, 2, 4, 5]);
        assert_eq!(limit(4).cut_within(&pieces, 3..8).unwrap(), [0, 1, 4, 5]);
        let message = limit(3).cut_within(&pieces, 3..8).unwrap_err().to_string();
        assert!(message.contains("4 tokens") && message.contains("limit of 3"), "{message}");
    }

    proptest! {
        #[test]
        fn prefix_and_suffix_survive_and_the_limit_holds(
            lengths in prop::collection::vec(0usize..4, 0..40), from in 0usize..60, to in 0usize..60, max in 0usize..50
        ) {
            let mut at = 0;
            let bytes: Vec<_> = lengths.iter().map(|n| { let start = at; at += n; (start, at) }).collect();
            let (pieces, text) = (pieces(&bytes), from.min(to)..from.max(to));
            if let Ok(ids) = limit(max).cut_within(&pieces, text.clone()) {
                prop_assert!(ids.len() <= max || ids.len() == pieces.len());
                let outside = |p: &&Piece| p.bytes.as_ref().is_some_and(|b| b.start < text.start || b.end > text.end);
                for kept in pieces.iter().filter(outside) {
                    prop_assert!(ids.contains(&kept.id));
                }
            }
        }
    }
}

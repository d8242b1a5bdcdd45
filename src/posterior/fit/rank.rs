//! How many directions of a block's long side are kept.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// `full`, or a number of directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Text", into = "String")]
pub enum Rank {
    Full,
    /// The directions with the largest curvature, the rest in the tail; at least one.
    Top(usize),
}

impl Default for Rank {
    fn default() -> Self {
        Self::Top(16)
    }
}

impl FromStr for Rank {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            _ if text == "full" => Ok(Self::Full),
            Ok(k) if k > 0 => Ok(Self::Top(k)),
            _ => Err(format!("`{text}` is not a rank (hint: `full` or a positive number)")),
        }
    }
}

impl fmt::Display for Rank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("full"),
            Self::Top(k) => write!(f, "{k}"),
        }
    }
}

impl From<Rank> for String {
    fn from(rank: Rank) -> Self {
        rank.to_string()
    }
}

/// A rank in JSON: a word or a number.
#[derive(Deserialize)]
#[serde(untagged)]
enum Text {
    Word(String),
    Number(usize),
}

impl TryFrom<Text> for Rank {
    type Error = String;

    fn try_from(text: Text) -> Result<Self, String> {
        match text {
            Text::Word(word) => word.parse(),
            Text::Number(number) => number.to_string().parse(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_full_or_a_positive_number() {
        let cases =
            [("full", Some(Rank::Full)), ("16", Some(Rank::Top(16))), ("0", None), ("-1", None), ("", None)];
        for (text, rank) in cases {
            assert_eq!(text.parse().ok(), rank, "{text}");
        }
    }
}

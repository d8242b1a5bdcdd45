//! The tokens of a GGUF file, and what kind each is of.

use tokenizers::AddedToken;

use crate::{Result, gguf::Gguf};

pub const TOKENS: &str = "tokenizer.ggml.tokens";
const KINDS: &str = "tokenizer.ggml.token_type";

/// What `tokenizer.ggml.token_type` says of tokens that are not plain.
const NORMAL: i64 = 1;
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// All tokens, by their ids.
pub struct Vocabulary<'a> {
    pub tokens: Vec<&'a str>,
    kinds: Vec<i64>,
}

impl<'a> Vocabulary<'a> {
    pub fn read(gguf: &'a Gguf) -> Result<Self> {
        let tokens = gguf.required(TOKENS, gguf.texts(TOKENS)?)?;
        let kinds = gguf.required(KINDS, gguf.integers(KINDS)?)?;
        match kinds.len() == tokens.len() {
            true => Ok(Self { tokens, kinds }),
            false => Err(gguf.wrong(KINDS, format!("expected {} entries, one a token", tokens.len()))),
        }
    }

    /// Tokens to ids.
    pub fn ids(&self) -> impl Iterator<Item = (String, u32)> {
        self.tokens.iter().zip(0..).map(|(token, id)| ((*token).to_owned(), id))
    }

    /// Whether a token is a piece of text that others are merged into.
    pub fn is_piece(&self, id: usize) -> bool {
        self.kinds[id] == NORMAL
    }

    /// Tokens that are matched whole, before the text is split: those that stand for no text, and those of users.
    pub fn added(&self) -> impl Iterator<Item = AddedToken> {
        self.tokens.iter().zip(&self.kinds).filter_map(|(token, kind)| match *kind {
            UNKNOWN | CONTROL => Some(AddedToken::from(*token, true)),
            USER_DEFINED => Some(AddedToken::from(*token, false).normalized(false)),
            _ => None,
        })
    }

    /// The first token of unknown text.
    pub fn unknown(&self) -> Option<&'a str> {
        self.kinds.iter().position(|kind| *kind == UNKNOWN).map(|id| self.tokens[id])
    }
}

//! The tokenizer of a model, with the special tokens that its files name.
//!
//! What Hugging Face transformers does on loading is done here too: truncation and padding stored in
//! `tokenizer.json` are dropped, named special tokens that the vocabulary file does not mark as such are
//! added, and `add_bos_token` / `add_eos_token`, where they are given, decide what surrounds a text.

use std::{collections::BTreeMap, ops::Range, path::Path};

use tokenizers::{
    AddedToken, Encoding, processors::template::TemplateProcessing, tokenizer::Tokenizer as Inner,
};

use crate::{Error, Result};

/// Special tokens that a tokenizer's files may name, as templates call them.
pub const SPECIAL_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Whether the tokenizer surrounds a text with its special tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surround {
    /// As the post-processor says: a BOS token before the text, for most models.
    SpecialTokens,
    /// Templated text brings its own.
    Nothing,
}

/// What a model's files say about special tokens.
#[derive(Debug, Clone, Default)]
pub struct SpecialTokens {
    /// `bos_token`, `eos_token`, ... to the token's text.
    pub named: BTreeMap<String, String>,
    /// `add_bos_token` and `add_eos_token`, where the files say either; else the post-processor stays.
    pub surround: Option<Ends>,
}

/// Which ends of a text get a special token.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ends {
    /// A BOS token before it.
    pub bos: bool,
    /// An EOS token after it.
    pub eos: bool,
}

/// A token and the bytes of the text that it covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Its row in the embedding.
    pub id: u32,
    /// `None` for a token that surrounds the text and covers nothing of it.
    pub bytes: Option<Range<usize>>,
}

/// A token as the vocabulary has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Its row in the embedding.
    pub id: u32,
    /// Its entry in the vocabulary.
    pub text: String,
    /// Whether it surrounds the text.
    pub special: bool,
    /// The bytes of the text that it covers.
    pub bytes: Range<usize>,
}

/// Text to token ids.
#[derive(Debug)]
pub struct Tokenizer {
    inner: Inner,
    eos: Option<String>,
    separator: Option<u32>,
    bos: Option<String>,
    /// Whether that is put before a text.
    adds_bos: bool,
}

impl Tokenizer {
    /// Prepares `inner`, read from the file `path`.
    pub fn new(path: &Path, mut inner: Inner, special: SpecialTokens) -> Result<Self> {
        let wrong = |e: tokenizers::Error| Error::file(path, format!("tokenizer: {e}"));
        inner.with_padding(None).with_truncation(None).map_err(wrong)?;
        let known = inner.get_added_tokens_decoder();
        let unknown =
            special.named.values().filter(|text| known.values().all(|token| token.content != **text));
        let unknown: Vec<_> = unknown.map(|text| AddedToken::from(text.as_str(), true)).collect();
        inner.add_special_tokens(unknown).map_err(wrong)?;
        if let Some(ends) = special.surround {
            let processor = surround(&inner, &special.named, ends).map_err(|e| Error::file(path, e))?;
            inner.with_post_processor(Some(processor));
        }
        let separator = special.named.get("sep_token").and_then(|token| inner.token_to_id(token));
        let first = inner.encode_fast("", true).map_err(wrong)?.get_ids().first().copied();
        let named = |name: &str| special.named.get(name).cloned();
        let (bos, eos) = (named("bos_token"), named("eos_token"));
        let adds_bos = first.is_some() && first == bos.as_ref().and_then(|bos| inner.token_to_id(bos));
        Ok(Self { inner, eos, separator, bos, adds_bos })
    }

    /// Returns the text of the EOS token, if the model's files name one.
    pub fn eos(&self) -> Option<&str> {
        self.eos.as_deref()
    }

    /// Returns the text of the BOS token, if the model's files name one.
    pub fn bos(&self) -> Option<&str> {
        self.bos.as_deref()
    }

    /// Returns whether a text comes to begin with it.
    pub fn adds_bos(&self) -> bool {
        self.adds_bos
    }

    /// Returns the tokens of `text` as the vocabulary has them.
    pub fn tokens(&self, text: &str, surround: Surround) -> Result<Vec<Token>> {
        let encoding = self.inner.encode(text, surround == Surround::SpecialTokens).map_err(untokenised)?;
        let token = |i: usize| {
            let (start, end) = encoding.get_offsets()[i];
            Token {
                id: encoding.get_ids()[i],
                text: encoding.get_tokens()[i].clone(),
                special: encoding.get_special_tokens_mask()[i] == 1,
                bytes: start..end,
            }
        };
        Ok((0..encoding.len()).map(token).collect())
    }

    /// Returns the text of token ids.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        let cannot = |e: tokenizers::Error| Error::field("ids", format!("cannot be decoded: {e}"));
        self.inner.decode(ids, skip_special_tokens).map_err(cannot)
    }

    /// Returns the token ids of `text`.
    pub fn ids(&self, text: &str, surround: Surround) -> Result<Vec<u32>> {
        let encoding =
            self.inner.encode_fast(text, surround == Surround::SpecialTokens).map_err(untokenised)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Returns the token ids of two texts, joined as the post-processor says, and which of them are the second's.
    pub fn pair_ids(&self, first: &str, second: &str) -> Result<(Vec<u32>, Range<usize>)> {
        let encoding = self.inner.encode((first, second), true).map_err(untokenised)?;
        let texts = encoding.get_sequence_ids();
        let start = texts.iter().position(|text| *text == Some(1)).unwrap_or(texts.len());
        let count = texts.iter().filter(|text| **text == Some(1)).count();
        Ok((encoding.get_ids().to_vec(), start..start + count))
    }

    /// Returns the id of the token between two texts, if the model's files name one.
    pub fn separator(&self) -> Option<u32> {
        self.separator
    }

    /// Returns the tokens of `text` with the bytes that each covers.
    pub fn pieces(&self, text: &str, surround: Surround) -> Result<Vec<Piece>> {
        let encoding = self.inner.encode(text, surround == Surround::SpecialTokens).map_err(untokenised)?;
        Ok(pieces(&encoding))
    }
}

fn pieces(encoding: &Encoding) -> Vec<Piece> {
    let rows = encoding.get_ids().iter().zip(encoding.get_offsets()).zip(encoding.get_special_tokens_mask());
    rows.map(|((&id, &(start, end)), &surrounds)| Piece { id, bytes: (surrounds == 0).then_some(start..end) })
        .collect()
}

fn untokenised(error: tokenizers::Error) -> Error {
    Error::field("text", format!("cannot be tokenised: {error}"))
}

/// The post-processor that puts BOS before and EOS after a text, as `ends` says and the tokens are known.
fn surround(
    inner: &Inner,
    named: &BTreeMap<String, String>,
    ends: Ends,
) -> Result<TemplateProcessing, String> {
    let token = |wanted: bool, name: &str| named.get(name).filter(|_| wanted);
    let (bos, eos) = (token(ends.bos, "bos_token"), token(ends.eos, "eos_token"));
    let mut used = Vec::new();
    for text in bos.into_iter().chain(eos) {
        let id = inner.token_to_id(text).ok_or_else(|| format!("special token without an id: {text}"))?;
        used.push((text.clone(), id));
    }
    // Pieces as a list: a token's text may hold the spaces and colons that the one-string form splits at.
    let single: Vec<_> = bos.into_iter().cloned().chain(["$A".to_owned()]).chain(eos.cloned()).collect();
    let mut builder = TemplateProcessing::builder();
    builder.try_single(single)?.special_tokens(used);
    builder.build().map_err(|e| e.to_string())
}

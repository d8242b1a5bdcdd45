//! The tokenizer and the chat template inside a GGUF file.
//!
//! `tokenizer.ggml.model` says which of two kinds of tokenizer it is; of all others, and of pre-tokenizers that are not known,
//! the name is given, since a near miss would tokenise most texts right and some wrong, without a word.

use std::collections::BTreeMap;

use super::{
    template::Template,
    tokenizer::{Ends, SpecialTokens, Tokenizer},
};
use crate::{Error, Result, gguf::Gguf};

mod byte_pairs;
mod pre_tokenizer;
mod sentence_pieces;
#[cfg(test)]
mod tests;
mod vocabulary;

use vocabulary::Vocabulary;

/// Keys of the special tokens, with the names that templates use.
const SPECIAL_IDS: [(&str, &str); 7] = [
    ("tokenizer.ggml.bos_token_id", "bos_token"),
    ("tokenizer.ggml.eos_token_id", "eos_token"),
    ("tokenizer.ggml.unknown_token_id", "unk_token"),
    ("tokenizer.ggml.seperator_token_id", "sep_token"),
    (PAD_ID, "pad_token"),
    ("tokenizer.ggml.cls_token_id", "cls_token"),
    ("tokenizer.ggml.mask_token_id", "mask_token"),
];
const MERGES: &str = "tokenizer.ggml.merges";
const PAD_ID: &str = "tokenizer.ggml.padding_token_id";

/// A tokenizer with what else a file says about text.
pub struct Text {
    pub tokenizer: Tokenizer,
    /// The chat template, if the file has one.
    pub template: Option<Template>,
    /// The padding token, if the file names one.
    pub pad_token_id: Option<u32>,
}

/// What differs between the kinds of tokenizers.
struct Built {
    inner: tokenizers::Tokenizer,
    /// Whether texts begin with BOS where the file does not say.
    adds_bos: bool,
    /// Ids of special tokens where the file does not say.
    special_ids: &'static [(&'static str, u32)],
}

/// Builds the tokenizer and, where there is one, the chat template.
pub fn read(gguf: &Gguf) -> Result<Text> {
    const KIND: &str = "tokenizer.ggml.model";
    let vocabulary = Vocabulary::read(gguf)?;
    let built = match gguf.required(KIND, gguf.text(KIND)?)? {
        "gpt2" => byte_pairs::build(gguf, &vocabulary)?,
        "llama" => sentence_pieces::build(gguf, &vocabulary)?,
        other => {
            return Err(gguf.wrong(KIND, format!("`{other}` is not supported (hint: gpt2 and llama are)")));
        }
    };
    let named = special_tokens(gguf, &vocabulary, built.special_ids)?;
    let ends = Ends {
        bos: added(gguf, ["tokenizer.ggml.add_bos_token", "bos_token"], &named, built.adds_bos)?,
        eos: added(gguf, ["tokenizer.ggml.add_eos_token", "eos_token"], &named, false)?,
    };
    let source = gguf.text("tokenizer.chat_template")?;
    let template = source.map(|source| Template::compile(gguf.path(), source, named.clone())).transpose()?;
    let special = SpecialTokens { named, surround: Some(ends) };
    let tokenizer = Tokenizer::new(gguf.path(), built.inner, special)?;
    Ok(Text { tokenizer, template, pad_token_id: gguf.token_id(PAD_ID)? })
}

fn special_tokens(
    gguf: &Gguf,
    vocabulary: &Vocabulary,
    or: &[(&str, u32)],
) -> Result<BTreeMap<String, String>> {
    let mut named = BTreeMap::new();
    for (key, name) in SPECIAL_IDS {
        let or = or.iter().find(|(known, _)| *known == name).map(|(_, id)| *id);
        let Some(id) = gguf.token_id(key)?.or(or) else { continue };
        let count = vocabulary.tokens.len();
        let token = vocabulary.tokens.get(id as usize);
        let token = token.ok_or_else(|| gguf.wrong(key, format!("{id} is past the {count} tokens")))?;
        named.insert(name.to_owned(), (*token).to_owned());
    }
    Ok(named)
}

/// Whether a text gets a token that is to be there, if the file asks for it.
fn added(gguf: &Gguf, [key, token]: [&str; 2], named: &BTreeMap<String, String>, or: bool) -> Result<bool> {
    let asked = gguf.flag(key)?;
    if asked == Some(true) && !named.contains_key(token) {
        return Err(gguf.wrong(key, format!("true, but the file names no {token}")));
    }
    Ok(asked.unwrap_or(or))
}

/// Merges in their order, if the file has any.
fn merges(gguf: &Gguf) -> Result<Option<Vec<(String, String)>>> {
    let split = |merge: &str| {
        let halves = merge.split_once(' ').map(|(left, right)| (left.to_owned(), right.to_owned()));
        halves.ok_or_else(|| {
            gguf.wrong(MERGES, format!("expected two tokens with a space between, not `{merge}`"))
        })
    };
    gguf.texts(MERGES)?.map(|merges| merges.into_iter().map(split).collect()).transpose()
}

/// An error of the tokenizers library's, about one of a file's keys.
fn unbuilt(gguf: &Gguf, key: &str) -> impl Fn(tokenizers::Error) -> Error {
    move |e| gguf.wrong(key, e)
}

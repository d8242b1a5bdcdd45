//! Items become token sequences: template, tokenizer, truncation, and the position that is pooled.
//!
//! [`Encoder`] does it all. A conversation (or a prompt and its response, where there is a template) is
//! rendered and tokenised as it stands, since the template brings its special tokens; without a template
//! prompt and response are concatenated, surrounded by the tokenizer's special tokens, and end in EOS. The
//! reward is read at the rightmost token that is not padding, as Hugging Face's
//! `*ForSequenceClassification` does.

use std::{borrow::Cow, ops::Range, path::Path, sync::Arc};

use crate::{
    Error, Result, files,
    gguf::Gguf,
    item::{Input, Message},
};

mod cut;
mod folder;
mod gguf;
mod pair;
mod template;
mod tokenizer;
mod truncate;

use pair::is_of_two;
use template::Template;
pub use template::apart;
pub use tokenizer::Token;
use tokenizer::{Surround, Tokenizer};
pub use truncate::{Limit, Truncation};

/// Token ids ready for the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenSeq {
    /// At least one token id.
    pub ids: Vec<u32>,
    /// Index of the token whose hidden state the reward head reads.
    pub pooled: usize,
    /// Whether tokens were cut to fit the limit.
    pub truncated: bool,
}

/// Turns inputs into token sequences for one model; shared between threads in an `Arc`.
#[derive(Debug)]
pub struct Encoder {
    tokenizer: Tokenizer,
    template: Option<Template>,
    pad_token_id: Option<u32>,
    vocabulary: Option<usize>,
    /// Whether the template's texts begin with the BOS token.
    template_begins: bool,
    /// Whether prompt and response are a pair of texts to the tokenizer.
    pairs: bool,
}

/// An encoder, and the longest sequence that its model takes.
#[derive(Debug, Clone)]
pub struct Reader {
    pub encoder: Arc<Encoder>,
    /// In tokens.
    pub max_length: usize,
}

/// The tokens of an input, of the whole of it or of a part that is longer than the limit, and the text that they are of.
struct Tokens<'a> {
    ids: Vec<u32>,
    whole: bool,
    rendered: Option<Rendered<'a>>,
}

/// An input as the tokenizer takes it.
struct Rendered<'a> {
    text: Cow<'a, str>,
    surround: Surround,
}

impl Encoder {
    fn new(tokenizer: Tokenizer, template: Option<Template>, pad_token_id: Option<u32>) -> Self {
        let user = [Message::new("user", "")];
        let begins = |(template, bos): (&Template, &str)| {
            template.render(&user).is_ok_and(|text| text.starts_with(bos))
        };
        let template_begins = template.as_ref().zip(tokenizer.bos()).is_some_and(begins);
        Self { tokenizer, template, pad_token_id, vocabulary: None, template_begins, pairs: false }
    }

    /// Reads tokenizer and chat template from a checkpoint folder; `pad_token_id` is that of its
    /// `config.json`.
    pub fn from_folder(dir: &Path, pad_token_id: Option<u32>) -> Result<Self> {
        let (tokenizer, template) = folder::read(dir)?;
        Ok(Self::new(tokenizer, template, pad_token_id))
    }

    /// Builds tokenizer and chat template of a GGUF file.
    pub fn from_gguf(file: &Gguf) -> Result<Self> {
        let gguf::Text { tokenizer, template, pad_token_id } =
            files::guarded(file.path(), || gguf::read(file))?;
        Ok(Self::new(tokenizer, template, pad_token_id))
    }

    /// Sets the number of rows of the model's embedding: a token id past it becomes an error that names it.
    pub fn with_vocabulary(self, rows: usize) -> Self {
        Self { vocabulary: Some(rows), ..self }
    }

    /// Joins prompt and response as a cross-encoder reads them, where there is no template.
    pub fn of_pairs(self) -> Self {
        Self { pairs: true, ..self }
    }

    /// Returns the SHA-256 of the chat template, in hexadecimal.
    pub fn template_sha256(&self) -> Option<String> {
        self.template.as_ref().map(|template| template.sha256().to_owned())
    }

    /// The text that is tokenised, where the input is not token ids already.
    pub fn text(&self, input: &Input) -> Result<Option<String>> {
        match input {
            Input::Ids(_) | Input::IdPair { .. } => Ok(None),
            _ => Ok(Some(self.render(input)?.text.into_owned())),
        }
    }

    /// The tokens of an input that has a text.
    pub fn tokens(&self, input: &Input) -> Result<Vec<Token>> {
        let rendered = self.render(input)?;
        self.tokenizer.tokens(&rendered.text, rendered.surround).map_err(|e| e.renamed(first_field(input)))
    }

    /// The text of token ids.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        self.tokenizer.decode(ids, skip_special_tokens)
    }

    /// Encodes one input; what does not fit the limit is cut as it says, or refused.
    pub fn encode(&self, input: &Input, limit: &Limit) -> Result<TokenSeq> {
        self.encode_while(input, limit, &|| true)
    }

    /// Encodes one input, or gives up with [`Error::Deadline`] where it is long and nobody waits for it any more.
    pub fn encode_while(&self, input: &Input, limit: &Limit, live: &dyn Fn() -> bool) -> Result<TokenSeq> {
        if self.pairs && self.template.is_none() && is_of_two(input) {
            return self.encode_pair(input, limit, live);
        }
        let Tokens { mut ids, whole, rendered } = match input {
            Input::Ids(ids) => Tokens { ids: ids.clone(), whole: true, rendered: None },
            Input::IdPair { prompt, response } => {
                Tokens { ids: [prompt, &response[..]].concat(), whole: true, rendered: None }
            }
            _ => self.enough(input, limit, live).map_err(|e| e.renamed(first_field(input)))?,
        };
        let tokens = ids.len();
        if tokens > limit.max_length {
            match (limit.truncation, &rendered) {
                (None, _) => return Err(Error::TooLong { tokens, more: !whole, limit: limit.max_length }),
                (Some(Truncation::Left), _) => limit.cut_left(&mut ids),
                (Some(Truncation::Right), _) => limit.cut_right(&mut ids),
                (Some(Truncation::KeepSuffix), Some(rendered)) => {
                    ids = self.shortened(input, rendered, limit, live)?;
                }
                (Some(Truncation::KeepSuffix), None) => return Err(no_last_message()),
            }
        }
        self.check_ids(&ids, input)?;
        let pooled = pooled(&ids, self.pad_token_id);
        Ok(TokenSeq { truncated: ids.len() < tokens, ids, pooled })
    }

    /// The tokens of an input's text, or of as much of it as fills the limit from the side that is kept.
    fn enough<'a>(&self, input: &'a Input, limit: &Limit, live: &dyn Fn() -> bool) -> Result<Tokens<'a>> {
        let rendered = self.render(input)?;
        let text: &str = &rendered.text;
        let part = match limit.truncation {
            Some(Truncation::Left) => cut::last,
            _ => cut::first,
        };
        let (ids, whole) = cut::enough(text.len(), limit.max_length, live, |bytes| {
            let ids = self.tokenizer.ids(part(text, bytes), rendered.surround)?;
            Ok((ids.len(), ids))
        })?;
        Ok(Tokens { ids, whole, rendered: Some(rendered) })
    }

    /// The tokens of a text that is too long, without those at the end of the last message's text.
    fn shortened(
        &self,
        input: &Input,
        rendered: &Rendered,
        limit: &Limit,
        live: &dyn Fn() -> bool,
    ) -> Result<Vec<u32>> {
        let last = self.last_text(input, rendered)?;
        let before = &rendered.text[..last.start];
        let (tokens, whole) = cut::enough(before.len(), limit.max_length, live, |bytes| {
            let tokens = self.tokenizer.ids(cut::first(before, bytes), rendered.surround)?.len();
            Ok((tokens, tokens))
        })?;
        if !whole {
            return Err(limit.no_room(format_args!("more than {tokens}")));
        }
        let (pieces, _) = cut::enough(last.len(), limit.max_length, live, |bytes| {
            let short = cut::within(&rendered.text, last.clone(), bytes);
            let (text, last) = short.as_ref().map_or((&*rendered.text, &last), |(text, last)| (text, last));
            let pieces = self.tokenizer.pieces(text, rendered.surround);
            let pieces = pieces.map_err(|e| e.renamed(first_field(input)))?;
            Ok((pieces.len(), (pieces, last.clone())))
        })?;
        limit.cut_within(&pieces.0, pieces.1)
    }

    /// Makes the text of an input that is not token ids already; an error names the field that was sent.
    fn render<'a>(&self, input: &'a Input) -> Result<Rendered<'a>> {
        let templated = |text| Rendered { text, surround: Surround::Nothing };
        match (input, &self.template) {
            (Input::Text(text), _) => Ok(templated(Cow::Borrowed(text))),
            (Input::Plain(text), _) => {
                Ok(Rendered { text: self.with_one_bos(text), surround: Surround::SpecialTokens })
            }
            (Input::Pair { prompt, response }, None) => {
                let mut text = format!("{prompt}{response}");
                let eos = self.tokenizer.eos().filter(|eos| !text.ends_with(eos));
                text.push_str(eos.unwrap_or_default());
                Ok(Rendered { text: Cow::Owned(text), surround: Surround::SpecialTokens })
            }
            (Input::Messages(_) | Input::Answer { .. }, None) => Err(Error::field(
                first_field(input),
                "the model has no chat template (hint: give `prompt` and `response` as strings, or `text`)",
            )),
            (Input::Ids(_) | Input::IdPair { .. }, _) => Err(Error::field("input_ids", "has no text")),
            (_, Some(template)) => {
                let text = template.render(&conversation(input));
                text.map(|text| templated(Cow::Owned(text))).map_err(|e| e.renamed(first_field(input)))
            }
        }
    }

    /// A text as it is put before the tokenizer, so that it comes to begin with one BOS token where the model's texts do: without
    /// one where the tokenizer adds it, with one where the template does. Clients strip it, or leave it there.
    fn with_one_bos<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let Some(bos) = self.tokenizer.bos() else { return Cow::Borrowed(text) };
        let stripped = text.strip_prefix(bos).unwrap_or(text);
        match self.tokenizer.adds_bos() {
            true => Cow::Borrowed(stripped),
            false if self.template_begins => Cow::Owned(format!("{bos}{stripped}")),
            false => Cow::Borrowed(text),
        }
    }

    /// Finds the bytes of the last message's text, which `keep-suffix` cuts.
    fn last_text(&self, input: &Input, rendered: &Rendered) -> Result<Range<usize>> {
        match (input, &self.template) {
            (Input::Text(_) | Input::Plain(_) | Input::Ids(_) | Input::IdPair { .. }, _) => {
                Err(no_last_message())
            }
            (_, Some(template)) => template.last_text(&conversation(input), &rendered.text),
            (Input::Pair { prompt, .. }, None) => {
                let text = rendered.text.get(prompt.len()..).unwrap_or_default();
                let eos = self.tokenizer.eos().unwrap_or_default();
                Ok(prompt.len()..prompt.len() + text.strip_suffix(eos).unwrap_or(text).len())
            }
            (Input::Messages(_) | Input::Answer { .. }, None) => Err(no_last_message()),
        }
    }

    /// Refuses a sequence without tokens, or with one that the model has no embedding for.
    fn check_ids(&self, ids: &[u32], input: &Input) -> Result<()> {
        let field = match input {
            Input::Pair { .. } | Input::Answer { .. } | Input::IdPair { .. } => "response",
            _ => first_field(input),
        };
        if ids.is_empty() {
            return Err(Error::field(field, "no token at all"));
        }
        let rows = self.vocabulary.unwrap_or(usize::MAX);
        match ids.iter().find(|id| **id as usize >= rows) {
            Some(id) => Err(Error::field(field, format!("token {id} is not in the vocabulary of {rows}"))),
            None => Ok(()),
        }
    }
}

/// The messages of an input, as a template takes them; none where it has no messages.
fn conversation(input: &Input) -> Cow<'_, [Message]> {
    match input {
        Input::Messages(messages) => Cow::Borrowed(messages),
        Input::Answer { prompt, response } => Cow::Owned([prompt, &response[..]].concat()),
        Input::Pair { prompt, response } => {
            Cow::Owned(vec![Message::new("user", &**prompt), Message::new("assistant", response)])
        }
        Input::Text(_) | Input::Plain(_) | Input::Ids(_) | Input::IdPair { .. } => Cow::Borrowed(&[]),
    }
}

/// The field that an input came in, the first where there are two.
fn first_field(input: &Input) -> &'static str {
    match input {
        Input::Pair { .. } | Input::Answer { .. } => "prompt",
        Input::Messages(_) => "messages",
        Input::Text(_) | Input::Plain(_) => "text",
        Input::Ids(_) | Input::IdPair { .. } => "input_ids",
    }
}

fn no_last_message() -> Error {
    Error::field(
        "truncation",
        "`keep-suffix` needs `messages` or `prompt` and `response` (hint: use `left` or `right`)",
    )
}

/// The rightmost token that is not padding; the first if all are, the last if the model has no pad token.
fn pooled(ids: &[u32], pad_token_id: Option<u32>) -> usize {
    match pad_token_id {
        Some(pad) => ids.iter().rposition(|id| *id != pad).unwrap_or(0),
        None => ids.len().saturating_sub(1),
    }
}

#[cfg(test)]
mod tests;

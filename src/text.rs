//! Items become token sequences: template, tokenizer, truncation, and the position that is pooled.
//!
//! [`Encoder`] does it all. A conversation (or a prompt and its response, where there is a template) is
//! rendered and tokenised as it stands, since the template brings its special tokens; without a template
//! prompt and response are concatenated, surrounded by the tokenizer's special tokens, and end in EOS. The
//! reward is read at the rightmost token that is not padding, as Hugging Face's
//! `*ForSequenceClassification` does.

use std::{borrow::Cow, ops::Range, path::Path, sync::Arc};

use crate::{
    Error, Result,
    gguf::Gguf,
    item::{Input, Message},
};

mod folder;
mod gguf;
mod template;
mod tokenizer;
mod truncate;

use template::Template;
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
        let gguf::Text { tokenizer, template, pad_token_id } = gguf::read(file)?;
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

    /// The type of each token of a pair: 0 up to the first separator, 1 after it; 0 for all of a templated text.
    pub fn types(&self, ids: &[u32]) -> Vec<u32> {
        let separator = self.tokenizer.separator().filter(|_| self.template.is_none());
        let first = ids.iter().position(|id| Some(*id) == separator).unwrap_or(ids.len());
        (0..ids.len()).map(|i| u32::from(i > first)).collect()
    }

    /// Returns the SHA-256 of the chat template, in hexadecimal.
    pub fn template_sha256(&self) -> Option<String> {
        self.template.as_ref().map(|template| template.sha256().to_owned())
    }

    /// The text that is tokenised, where the input is not token ids already.
    pub fn text(&self, input: &Input) -> Result<Option<String>> {
        match input {
            Input::Ids(_) => Ok(None),
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
        if self.pairs && self.template.is_none() && !matches!(input, Input::Text(_) | Input::Ids(_)) {
            return self.encode_pair(input, limit);
        }
        let (mut ids, rendered) = match input {
            Input::Ids(ids) => (ids.clone(), None),
            _ => {
                let rendered = self.render(input)?;
                let ids = self.tokenizer.ids(&rendered.text, rendered.surround);
                (ids.map_err(|e| e.renamed(first_field(input)))?, Some(rendered))
            }
        };
        let tokens = ids.len();
        if tokens > limit.max_length {
            match (limit.truncation, &rendered) {
                (None, _) => return Err(Error::TooLong { tokens, limit: limit.max_length }),
                (Some(Truncation::Left), _) => limit.cut_left(&mut ids),
                (Some(Truncation::Right), _) => limit.cut_right(&mut ids),
                (Some(Truncation::KeepSuffix), Some(rendered)) => {
                    let text = self.last_text(input, rendered)?;
                    let pieces = self.tokenizer.pieces(&rendered.text, rendered.surround);
                    ids = limit.cut_within(&pieces.map_err(|e| e.renamed(first_field(input)))?, text)?;
                }
                (Some(Truncation::KeepSuffix), None) => return Err(no_last_message()),
            }
        }
        self.check_ids(&ids, input)?;
        let pooled = pooled(&ids, self.pad_token_id);
        Ok(TokenSeq { truncated: ids.len() < tokens, ids, pooled })
    }

    /// Encodes prompt and response as a pair; of one that is too long the response is cut, or either end.
    fn encode_pair(&self, input: &Input, limit: &Limit) -> Result<TokenSeq> {
        let (prompt, response) = turns(input)?;
        let pair = self.tokenizer.pair_ids(&prompt, &response);
        let (mut ids, second) = pair.map_err(|e| e.renamed(first_field(input)))?;
        let tokens = ids.len();
        if let Some(excess) = tokens.checked_sub(limit.max_length).filter(|excess| *excess > 0) {
            match limit.truncation {
                None => return Err(Error::TooLong { tokens, limit: limit.max_length }),
                Some(Truncation::Left) => limit.cut_left(&mut ids),
                Some(Truncation::Right) => limit.cut_right(&mut ids),
                Some(Truncation::KeepSuffix) if excess < second.len() => {
                    drop(ids.drain(second.end - excess..second.end));
                }
                Some(Truncation::KeepSuffix) => {
                    return Err(Error::field("truncation", "the prompt alone is too long"));
                }
            }
        }
        self.check_ids(&ids, input)?;
        Ok(TokenSeq { truncated: ids.len() < tokens, pooled: ids.len() - 1, ids })
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
            (Input::Ids(_), _) => Err(Error::field("input_ids", "has no text")),
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
            (Input::Text(_) | Input::Plain(_) | Input::Ids(_), _) => Err(no_last_message()),
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
            Input::Pair { .. } | Input::Answer { .. } => "response",
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
    let answered = |before: &[Message], response: &str| {
        before.iter().cloned().chain([Message::new("assistant", response)]).collect()
    };
    match input {
        Input::Messages(messages) => Cow::Borrowed(messages),
        Input::Answer { prompt, response } => Cow::Owned(answered(prompt, response)),
        Input::Pair { prompt, response } => Cow::Owned(answered(&[Message::new("user", prompt)], response)),
        Input::Text(_) | Input::Plain(_) | Input::Ids(_) => Cow::Borrowed(&[]),
    }
}

/// The texts of a conversation of one prompt and one response.
fn turns(input: &Input) -> Result<(Cow<'_, str>, Cow<'_, str>)> {
    match input {
        Input::Pair { prompt, response } => Ok((prompt.into(), response.into())),
        Input::Answer { prompt, response } if prompt.len() == 1 => {
            Ok((prompt[0].content.text(), response.into()))
        }
        Input::Messages(messages) if messages.len() == 2 => {
            Ok((messages[0].content.text(), messages[1].content.text()))
        }
        _ => Err(Error::field(
            first_field(input),
            "the model has no chat template, and takes one prompt and one response (hint: give `text`)",
        )),
    }
}

/// The field that an input came in, the first where there are two.
fn first_field(input: &Input) -> &'static str {
    match input {
        Input::Pair { .. } | Input::Answer { .. } => "prompt",
        Input::Messages(_) => "messages",
        Input::Text(_) | Input::Plain(_) => "text",
        Input::Ids(_) => "input_ids",
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
mod tests {
    use super::*;

    /// A vocabulary of words: ids 0 to 7 as listed.
    const WORDS: [&str; 8] = ["<s>", "</s>", "<pad>", "u:", "a:", "x", "y", "z"];

    fn encoder(config: &str, pad_token_id: Option<u32>) -> Encoder {
        let folder = tempfile::tempdir().unwrap();
        let vocabulary: serde_json::Map<_, _> =
            WORDS.iter().zip(0..).map(|(word, id)| ((*word).to_owned(), id.into())).collect();
        let tokenizer = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
            "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "x"},
        });
        std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        std::fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
        Encoder::from_folder(folder.path(), pad_token_id).unwrap()
    }

    fn plain() -> Encoder {
        encoder(r#"{"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": true}"#, None)
    }

    fn chat() -> Encoder {
        let template = "<s>{% for m in messages %} {{ m.role[0] }}: {{ m.content | trim }} </s>{% endfor %}";
        let config = serde_json::json!({
            "chat_template": template, "bos_token": "<s>", "eos_token": "</s>", "add_bos_token": true
        });
        encoder(&config.to_string(), Some(1))
    }

    #[test]
    fn a_bos_token_is_not_put_before_itself() {
        let limit = limit(99, None);
        let ids =
            |encoder: &Encoder, text: &str| encoder.encode(&Input::Plain(text.into()), &limit).unwrap().ids;
        for text in ["x y", "<s> x y", "<s>x y"] {
            assert_eq!(ids(&plain(), text), [0, 5, 6], "{text}");
        }
        // Where the tokenizer puts none there but the template does, so does this; where neither does, the text is as it is.
        let template = r#"{"bos_token": "<s>", "chat_template": "<s> {{ messages[0].content }}"}"#;
        for text in ["<s> x y", " x y"] {
            assert_eq!(ids(&encoder(template, None), text), [0, 5, 6], "{text}");
        }
        let none = encoder(r#"{"bos_token": "<s>"}"#, None);
        assert_eq!((ids(&none, "<s> x"), ids(&none, "x")), (vec![0, 5], vec![5]));
    }

    fn pair(prompt: &str, response: &str) -> Input {
        Input::Pair { prompt: prompt.into(), response: response.into() }
    }

    fn limit(max_length: usize, truncation: Option<Truncation>) -> Limit {
        Limit { max_length, truncation }
    }

    const WIDE: Limit = Limit { max_length: 100, truncation: None };

    #[test]
    fn without_a_template_text_is_surrounded_and_ends_in_eos_once() {
        let encoder = plain();
        assert_eq!(encoder.encode(&pair("x ", "y"), &WIDE).unwrap().ids, [0, 5, 6, 1]);
        assert_eq!(encoder.encode(&pair("x ", "y</s>"), &WIDE).unwrap().ids, [0, 5, 6, 1]);
        assert_eq!(encoder.encode(&Input::Text("x y".into()), &WIDE).unwrap().ids, [5, 6]);
        let messages = Input::Messages(vec![Message::new("user", "x")]);
        let message = encoder.encode(&messages, &WIDE).unwrap_err().to_string();
        assert!(message.starts_with("messages: the model has no chat template"), "{message}");
        assert_eq!(encoder.template_sha256(), None);
    }

    #[test]
    fn with_a_template_strings_are_messages() {
        let encoder = chat();
        let said = [Message::new("user", "x"), Message::new("assistant", " y z ")];
        let ids = encoder.encode(&Input::Messages(said.to_vec()), &WIDE).unwrap().ids;
        assert_eq!(ids, [0, 3, 5, 1, 4, 6, 7, 1]);
        let answer = Input::Answer { prompt: said[..1].to_vec(), response: " y z ".into() };
        for input in [answer, pair("x", "y z")] {
            assert_eq!(encoder.encode(&input, &WIDE).unwrap().ids, ids);
        }
        assert_eq!(encoder.template_sha256().unwrap().len(), 64);
    }

    #[test]
    fn the_rightmost_token_that_is_not_padding_is_pooled() {
        let table: [(&[u32], Option<u32>, usize); 5] = [
            (&[5, 6, 2, 2], Some(2), 1),
            (&[2, 2], Some(2), 0),
            (&[5, 2, 6], Some(2), 2),
            (&[5, 2], None, 1),
            (&[5], None, 0),
        ];
        for (ids, pad, want) in table {
            assert_eq!(pooled(ids, pad), want, "{ids:?}");
        }
        // Padding is EOS, as in many models: the end of the answer is pooled.
        assert_eq!(chat().encode(&pair("x", "y z"), &WIDE).unwrap().pooled, 6);
    }

    #[test]
    fn truncation_cuts_where_it_says() {
        use Truncation::{KeepSuffix, Left, Right};
        let (input, text) = (pair("x", "y z y z"), Input::Text("x y z x y z x y z x".into()));
        let whole = [0, 3, 5, 1, 4, 6, 7, 6, 7, 1];
        let table: [(Truncation, usize, &[u32]); 5] = [
            (Left, 8, &whole[2..]),
            (Right, 8, &whole[..8]),
            (KeepSuffix, 8, &[0, 3, 5, 1, 4, 6, 7, 1]),
            (KeepSuffix, 6, &[0, 3, 5, 1, 4, 1]),
            (KeepSuffix, 10, &whole),
        ];
        for (truncation, length, want) in table {
            let cut = chat().encode(&input, &limit(length, Some(truncation))).unwrap();
            assert_eq!((&cut.ids[..], cut.truncated), (want, length < 10), "{truncation:?} {length}");
        }
        let cut = plain().encode(&pair("x ", "y z y"), &limit(4, Some(KeepSuffix))).unwrap();
        assert_eq!(cut.ids, [0, 5, 6, 1]);
        for (input, want) in [(&input, "5"), (&text, "`keep-suffix` needs")] {
            let message = chat().encode(input, &limit(5, Some(KeepSuffix))).unwrap_err().to_string();
            assert!(message.starts_with("truncation: ") && message.contains(want), "{message}");
        }
    }

    #[test]
    fn a_refusal_names_the_field_that_was_sent() {
        let config = serde_json::json!({"chat_template": "{{ raise_exception('no') }}"}).to_string();
        let (refusing, said) = (encoder(&config, None), vec![Message::new("user", "x")]);
        let answer = Input::Answer { prompt: said.clone(), response: "y".into() };
        let table =
            [(pair("x", "y"), "prompt: "), (answer, "prompt: "), (Input::Messages(said), "messages: ")];
        for (input, want) in table {
            let message = refusing.encode(&input, &WIDE).unwrap_err().to_string();
            assert!(message.starts_with(want) && message.contains("no"), "{message}");
            if !matches!(input, Input::Pair { .. }) {
                let message = plain().encode(&input, &WIDE).unwrap_err().to_string();
                assert!(message.starts_with(want) && message.contains("hint:"), "{message}");
            }
        }
    }

    #[test]
    fn too_long_says_both_numbers() {
        let message = chat().encode(&pair("x", "y z y z"), &limit(9, None)).unwrap_err().to_string();
        assert!(message.contains("10 tokens") && message.contains("limit of 9"), "{message}");
    }

    #[test]
    fn no_token_and_foreign_tokens_name_the_field() {
        let table = [
            (Input::Text("  ".into()), "text: no token at all"),
            (Input::Ids(vec![5, 8]), "input_ids: token 8 is not in the vocabulary of 8"),
        ];
        let encoder = plain().with_vocabulary(8);
        for (input, want) in table {
            assert_eq!(encoder.encode(&input, &WIDE).unwrap_err().to_string(), want);
        }
        assert_eq!(encoder.encode(&Input::Ids(vec![7, 0]), &WIDE).unwrap().ids, [7, 0]);
    }

    #[test]
    fn truncation_has_the_names_of_the_interface() {
        for (name, want) in [
            ("left", Truncation::Left),
            ("right", Truncation::Right),
            ("keep-suffix", Truncation::KeepSuffix),
        ] {
            assert_eq!(serde_json::from_value::<Truncation>(name.into()).unwrap(), want);
            assert_eq!(<Truncation as clap::ValueEnum>::from_str(name, false), Ok(want));
        }
    }
}

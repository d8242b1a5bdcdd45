//! Input items: what one line of JSONL, or one element of `items` in a request, may say.
//!
//! [`Item`] is the form on the wire, in which every field is optional; [`Item::parse`] turns it into
//! an [`Input`], which says one thing only. What is missing, or given twice over, is an error that
//! names the field; callers put the item's place (`items[3]`, or file and line) in front.

use std::{borrow::Cow, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::{Error, Result};

mod answer;
mod id;
mod place;
mod text_or;

pub use answer::{Answer, SharedPrompt};
pub use id::Id;
pub use place::{Place, Placed};
pub use text_or::{TextOr, text_or};

/// One thing to score, as it arrives: exactly one of `prompt` with `response`, `messages`, `text`, and
/// `input_ids` must be given.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Item)]
pub struct Item<I = String> {
    /// Returned unchanged with the score.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Id>)]
    pub id: Option<I>,
    /// A user's message, or the conversation so far; stands with `response`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<Prompt>,
    /// The answer to score; stands with `prompt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<String>,
    /// A whole conversation, rendered by the model's chat template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<Vec<Message>>,
    /// Already templated text, tokenised as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Token ids of the model's own vocabulary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_ids: Option<Vec<u32>>,
}

/// A prompt as plain text (one user message) or as the messages so far.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Prompt {
    /// One user message.
    Text(String),
    /// The conversation so far.
    Messages(Vec<Message>),
}

impl<'de> Deserialize<'de> for Prompt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match text_or(deserializer, "messages, each with `role` and `content`")? {
            TextOr::Text(text) => Self::Text(text),
            TextOr::List(messages) => Self::Messages(messages),
        })
    }
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, or another role that the chat template knows.
    pub role: String,
    /// What is said.
    pub content: Content,
}

/// Text, or a list of text parts that are joined.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Content {
    /// Plain text.
    Text(String),
    /// Parts whose texts are joined.
    Parts(Vec<Part>),
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match text_or(deserializer, r#"`{"type": "text", "text": ...}` parts"#)? {
            TextOr::Text(text) => Self::Text(text),
            TextOr::List(parts) => Self::Parts(parts),
        })
    }
}

/// One part of a message's content; only text can be scored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Part {
    /// A piece of text.
    Text {
        /// The piece.
        text: String,
    },
}

/// A valid [`Item`]: one of the four ways to say what is scored.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Prompt and response strings: messages where there is a template, else concatenated.
    Pair {
        /// A user's message; answers to one prompt share it.
        prompt: Arc<str>,
        /// The assistant's.
        response: String,
    },
    /// The conversation so far and what follows it, each of at least one message.
    Answer {
        /// The messages before the answer; answers to one prompt share them.
        prompt: Arc<[Message]>,
        /// The assistant's, and what it did before it.
        response: Vec<Message>,
    },
    /// A conversation of at least one message.
    Messages(Vec<Message>),
    /// Templated text.
    Text(String),
    /// Text that the tokenizer puts its special tokens around, as servers of plain text do; a BOS token that it begins with
    /// already is not put there twice.
    Plain(String),
    /// At least one token id.
    Ids(Vec<u32>),
    /// Token ids of a prompt, and of an answer to it.
    IdPair {
        /// Answers to one prompt share them.
        prompt: Arc<[u32]>,
        /// What follows.
        response: Vec<u32>,
    },
}

impl<I> Item<I> {
    /// Turns the item into the one thing it says, or names the field that is missing or too much.
    pub fn parse(self) -> Result<Input> {
        self.only_one_form()?;
        let Self { prompt, response, messages, text, input_ids, .. } = self;
        match (prompt, response) {
            (Some(prompt), Some(response)) => return prompt.shared()?.answered(Answer::Text(response)),
            (Some(_), None) => return Err(Error::field("response", "missing beside `prompt`")),
            (None, Some(_)) => return Err(Error::field("prompt", "missing beside `response`")),
            (None, None) => {}
        }
        match (messages, text, input_ids) {
            (Some(messages), ..) => Ok(Input::Messages(joined("messages", messages)?)),
            (_, Some(text), _) => Ok(Input::Text(text)),
            (.., Some(ids)) if !ids.is_empty() => Ok(Input::Ids(ids)),
            _ => Err(Error::field("input_ids", "empty")),
        }
    }

    /// Refuses an item that says nothing, or two things at once.
    fn only_one_form(&self) -> Result<()> {
        let forms = [
            ("prompt", self.prompt.is_some() || self.response.is_some()),
            ("messages", self.messages.is_some()),
            ("text", self.text.is_some()),
            ("input_ids", self.input_ids.is_some()),
        ];
        let mut given = forms.iter().filter(|(_, given)| *given).map(|(name, _)| *name);
        match (given.next(), given.next()) {
            (None, _) => Err(Error::field(
                "prompt",
                "missing (hint: give `prompt` and `response`, or one of `messages`, `text`, `input_ids`)",
            )),
            (Some(first), Some(second)) => {
                Err(Error::field(second, format!("cannot stand beside `{first}`: an item says one thing")))
            }
            (Some(_), None) => Ok(()),
        }
    }
}

impl Message {
    /// Makes a message of plain text.
    pub fn new(role: impl Into<String>, text: impl Into<String>) -> Self {
        Self { role: role.into(), content: Content::Text(text.into()) }
    }
}

impl Content {
    /// Returns the bytes of the text.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Parts(parts) => parts.iter().map(|Part::Text { text }| text.len()).sum(),
        }
    }

    /// Returns the text, with the parts joined where it comes in parts.
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            Self::Parts(parts) => Cow::Owned(parts.iter().map(|Part::Text { text }| text.as_str()).collect()),
        }
    }
}

/// Joins the parts of every message, and refuses an empty conversation or a message without a role;
/// `field` is where the messages came from.
pub fn joined(field: &str, messages: Vec<Message>) -> Result<Vec<Message>> {
    if messages.is_empty() {
        return Err(Error::field(field, "empty"));
    }
    let joined = messages.into_iter().enumerate().map(|(at, Message { role, content })| {
        if role.is_empty() {
            return Err(Error::field(format!("{field}[{at}].role"), "empty"));
        }
        Ok(Message::new(role, content.text()))
    });
    joined.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Input> {
        serde_json::from_str::<Item>(json).unwrap().parse()
    }

    fn said(role: &str, text: &str) -> Message {
        Message::new(role, text)
    }

    #[test]
    fn every_form_is_read() {
        let pair = Input::Pair { prompt: "p".into(), response: "r".into() };
        let answer =
            Input::Answer { prompt: [said("user", "p")].into(), response: vec![said("assistant", "r")] };
        let table = [
            (r#"{"id":"1","prompt":"p","response":"r"}"#, pair),
            (r#"{"prompt":[{"role":"user","content":"p"}],"response":"r"}"#, answer),
            (
                r#"{"messages":[{"role":"user","content":"p"},{"role":"assistant","content":"r"}]}"#,
                Input::Messages(vec![said("user", "p"), said("assistant", "r")]),
            ),
            (
                r#"{"messages":[{"role":"user","content":[{"type":"text","text":"a "},{"type":"text","text":"b"}]}]}"#,
                Input::Messages(vec![said("user", "a b")]),
            ),
            (r#"{"text":"t","prompt":null}"#, Input::Text("t".into())),
            (r#"{"input_ids":[1,2]}"#, Input::Ids(vec![1, 2])),
        ];
        for (json, want) in table {
            assert_eq!(parse(json).unwrap(), want, "{json}");
        }
    }

    #[test]
    fn what_is_missing_or_too_much_is_named() {
        let table = [
            ("{}", "prompt: missing"),
            (r#"{"prompt":"p"}"#, "response: missing beside `prompt`"),
            (r#"{"response":"r"}"#, "prompt: missing beside `response`"),
            (r#"{"prompt":"p","response":"r","text":"t"}"#, "text: cannot stand beside `prompt`"),
            (r#"{"text":"t","input_ids":[1]}"#, "input_ids: cannot stand beside `text`"),
            (r#"{"messages":[]}"#, "messages: empty"),
            (r#"{"prompt":[],"response":"r"}"#, "prompt: empty"),
            (r#"{"messages":[{"role":"","content":"x"}]}"#, "messages[0].role: empty"),
            (r#"{"input_ids":[]}"#, "input_ids: empty"),
        ];
        for (json, want) in table {
            let message = parse(json).unwrap_err().to_string();
            assert!(message.starts_with(want), "{json}: {message}");
        }
    }
}

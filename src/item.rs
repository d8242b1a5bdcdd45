//! Input items: what one line of JSONL, or one element of `items` in a request, may say.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One thing to score, as it arrives. Exactly one of `prompt` + `response`, `messages`, `text`,
/// `input_ids` must be given; [`Item::parse`] turns it into an [`Input`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Item {
    /// Returned unchanged with the score.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<Prompt>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<String>,
    /// A whole conversation, rendered by the model's chat template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<Vec<Message>>,
    /// Already templated text, tokenised as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_ids: Option<Vec<u32>>,
}

/// A prompt as plain text (one user message) or as the messages so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Prompt {
    Text(String),
    Messages(Vec<Message>),
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Message {
    pub role: String,
    pub content: Content,
}

/// Text, or a list of text parts that are joined.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Part {
    Text { text: String },
}

/// A valid [`Item`]: one of the four ways to say what is scored.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Prompt and response strings: messages where there is a template, else concatenated.
    Pair {
        prompt: String,
        response: String,
    },
    Messages(Vec<Message>),
    Text(String),
    Ids(Vec<u32>),
}

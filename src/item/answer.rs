//! An answer to a prompt, where several answers share one.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::{
    Input, Message, Prompt, joined,
    text_or::{TextOr, text_or},
};
use crate::Result;

/// Text, or the messages that follow the prompt.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Answer {
    /// What the assistant says.
    Text(String),
    /// The rest of the conversation, the assistant's tool calls and their results among it.
    Messages(Vec<Message>),
}

impl<'de> Deserialize<'de> for Answer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match text_or(deserializer, "messages, each with `role` and `content`")? {
            TextOr::Text(text) => Self::Text(text),
            TextOr::List(messages) => Self::Messages(messages),
        })
    }
}

/// A prompt that is checked once, and copied for none of the answers to it.
#[derive(Debug)]
pub struct SharedPrompt {
    /// Where it was given as text, that of its only message.
    text: Option<Arc<str>>,
    /// At least one.
    messages: Arc<[Message]>,
}

impl Prompt {
    /// Checks the prompt; an error names `prompt` or a part of it.
    pub fn shared(self) -> Result<SharedPrompt> {
        Ok(match self {
            Self::Text(text) => SharedPrompt {
                text: Some(text.as_str().into()),
                messages: [Message::new("user", text)].into(),
            },
            Self::Messages(messages) => {
                SharedPrompt { text: None, messages: joined("prompt", messages)?.into() }
            }
        })
    }
}

impl SharedPrompt {
    /// The prompt with an answer to it; an error names `response` or a part of it.
    pub fn answered(&self, answer: Answer) -> Result<Input> {
        let response = match (&self.text, answer) {
            (Some(prompt), Answer::Text(response)) => {
                return Ok(Input::Pair { prompt: Arc::clone(prompt), response });
            }
            (None, Answer::Text(response)) => vec![Message::new("assistant", response)],
            (_, Answer::Messages(messages)) => joined("response", messages)?,
        };
        Ok(Input::Answer { prompt: Arc::clone(&self.messages), response })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_messages_go_together() {
        let said = Message::new;
        let answer = |json: &str| serde_json::from_str::<Answer>(json).unwrap();
        let (system, user) = (said("system", "s"), said("user", "p"));
        let text = Prompt::Text("p".into()).shared().unwrap();
        let turns = Prompt::Messages(vec![system.clone(), user.clone()]).shared().unwrap();
        let messages = r#"[{"role":"tool","content":"t"},{"role":"assistant","content":"r"}]"#;
        let table = [
            (&text, "\"r\"", Input::Pair { prompt: "p".into(), response: "r".into() }),
            (
                &turns,
                "\"r\"",
                Input::Answer {
                    prompt: [system, user.clone()].into(),
                    response: vec![said("assistant", "r")],
                },
            ),
            (
                &text,
                messages,
                Input::Answer {
                    prompt: [user].into(),
                    response: vec![said("tool", "t"), said("assistant", "r")],
                },
            ),
        ];
        for (prompt, json, want) in table {
            assert_eq!(prompt.answered(answer(json)).unwrap(), want);
        }
        let message = text.answered(answer("[]")).unwrap_err().to_string();
        assert_eq!(message, "response: empty");
        assert_eq!(Prompt::Messages(vec![]).shared().unwrap_err().to_string(), "prompt: empty");
    }

    #[test]
    fn answers_share_their_prompt() {
        let prompt = Prompt::Text("p".into()).shared().unwrap();
        let message = || Answer::Messages(vec![Message::new("assistant", "r")]);
        let texts = [(); 2].map(|()| prompt.answered(Answer::Text("r".into())).unwrap());
        let messages = [(); 2].map(|()| prompt.answered(message()).unwrap());
        match (texts, messages) {
            (
                [Input::Pair { prompt: a, .. }, Input::Pair { prompt: b, .. }],
                [Input::Answer { prompt: c, .. }, Input::Answer { prompt: d, .. }],
            ) => assert!(Arc::ptr_eq(&a, &b) && Arc::ptr_eq(&c, &d)),
            other => panic!("{other:?}"),
        }
    }
}

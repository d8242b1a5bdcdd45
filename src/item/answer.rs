//! An answer to a prompt, where several answers share one.

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

impl Prompt {
    /// The prompt with an answer to it.
    pub fn answered(&self, answer: Answer) -> Result<Input> {
        let before = || match self {
            Self::Text(text) => Ok(vec![Message::new("user", text)]),
            Self::Messages(messages) => joined("prompt", messages.clone()),
        };
        Ok(match (self, answer) {
            (Self::Text(prompt), Answer::Text(response)) => Input::Pair { prompt: prompt.clone(), response },
            (Self::Messages(_), Answer::Text(response)) => Input::Answer { prompt: before()?, response },
            (_, Answer::Messages(messages)) => {
                let mut all = before()?;
                all.extend(joined("response", messages)?);
                Input::Messages(all)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_messages_go_together() {
        let said = Message::new;
        let answer = |json: &str| serde_json::from_str::<Answer>(json).unwrap();
        let (text, turns) =
            (Prompt::Text("p".into()), Prompt::Messages(vec![said("system", "s"), said("user", "p")]));
        let messages = r#"[{"role":"tool","content":"t"},{"role":"assistant","content":"r"}]"#;
        let table = [
            (&text, "\"r\"", Input::Pair { prompt: "p".into(), response: "r".into() }),
            (
                &turns,
                "\"r\"",
                Input::Answer { prompt: vec![said("system", "s"), said("user", "p")], response: "r".into() },
            ),
            (
                &text,
                messages,
                Input::Messages(vec![said("user", "p"), said("tool", "t"), said("assistant", "r")]),
            ),
        ];
        for (prompt, json, want) in table {
            assert_eq!(prompt.answered(answer(json)).unwrap(), want);
        }
        let message = text.answered(answer("[]")).unwrap_err().to_string();
        assert_eq!(message, "response: empty");
        assert_eq!(
            Prompt::Messages(vec![]).answered(answer("\"r\"")).unwrap_err().to_string(),
            "prompt: empty"
        );
    }
}

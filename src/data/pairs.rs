//! Preference pairs in TRL's layouts: what one line, or one row of a Parquet file, may say.
//!
//! With a `prompt`, `chosen` and `rejected` are its two continuations; without one (or where a string
//! prompt stands beside whole conversations, as in UltraFeedback) they are whole conversations, or texts
//! that are already templated. Other fields are left alone.

use std::{path::Path, sync::Arc};

use serde::Deserialize;
use serde_json::Value;

use super::lines::at_line;
use crate::{
    Error, Result,
    item::{Input, Message, Prompt, joined},
};

/// Where a pair stands: a line (counted from 1) of a file, or a row of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub path: Arc<Path>,
    pub line: usize,
}

impl Place {
    /// Puts the place in front of what is wrong there.
    pub fn wrong(&self, message: impl std::fmt::Display) -> Error {
        at_line(&self.path, self.line, message)
    }
}

/// Two answers, the better one first.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// Where the pair comes from, if the data says so.
    pub source: Option<String>,
    pub chosen: Input,
    pub rejected: Input,
    /// How far apart the rewards should be (maths, section 2); finite.
    pub margin: f64,
    /// Multiplies the pair's loss and its curvature; finite, not negative.
    pub weight: f64,
    /// The conversation that both answers continue, where there is one.
    pub prompt: Option<Vec<Message>>,
    /// The chosen answer, where it is one assistant message after `prompt`.
    pub chosen_text: Option<String>,
    /// The rejected answer, where it is one assistant message after `prompt`.
    pub rejected_text: Option<String>,
    /// Where it was read; for errors, no part of what it says.
    pub place: Option<Place>,
}

/// A pair as it is written.
#[derive(Debug, Deserialize)]
pub struct Record {
    source: Option<Value>,
    prompt: Option<Prompt>,
    chosen: Prompt,
    rejected: Prompt,
    margin: Option<f64>,
    weight: Option<f64>,
}

impl Record {
    /// Columns of a Parquet file that are read.
    pub const FIELDS: [&str; 6] = ["source", "prompt", "chosen", "rejected", "margin", "weight"];

    /// Turns the record into a pair, or names the field that is wrong.
    pub fn parse(self) -> Result<Pair> {
        let Self { source, prompt, chosen, rejected, margin, weight } = self;
        let pair = match (prompt, chosen, rejected) {
            (Some(Prompt::Text(prompt)), Prompt::Text(chosen), Prompt::Text(rejected)) => {
                Pair::of_texts(prompt, chosen, rejected)
            }
            (None, Prompt::Text(chosen), Prompt::Text(rejected)) => {
                Pair::new(Input::Text(chosen), Input::Text(rejected))
            }
            (prompt, Prompt::Messages(chosen), Prompt::Messages(rejected)) => {
                let (chosen, rejected) = (joined("chosen", chosen)?, joined("rejected", rejected)?);
                Pair::of_messages(prompt, chosen, rejected)?
            }
            (Some(Prompt::Messages(prompt)), Prompt::Text(chosen), Prompt::Text(rejected)) => {
                Pair::continuing(
                    joined("prompt", prompt)?,
                    vec![Message::new("assistant", chosen)],
                    vec![Message::new("assistant", rejected)],
                )
            }
            (_, Prompt::Text(_), Prompt::Messages(_)) => {
                return Err(Error::field("rejected", "a list of messages, where `chosen` is a string"));
            }
            (_, Prompt::Messages(_), Prompt::Text(_)) => {
                return Err(Error::field("rejected", "a string, where `chosen` is a list of messages"));
            }
        };
        let source = source.and_then(|source| source.as_str().map(str::to_owned));
        let (margin, weight) = (margin.unwrap_or(0.0), weight.unwrap_or(1.0));
        if !margin.is_finite() {
            return Err(Error::field("margin", format!("not a finite number: {margin}")));
        }
        if !(weight.is_finite() && weight >= 0.0) {
            return Err(Error::field("weight", format!("not a finite number from 0 up: {weight}")));
        }
        Ok(Pair { source, margin, weight, ..pair })
    }
}

impl Pair {
    fn new(chosen: Input, rejected: Input) -> Self {
        Self {
            source: None,
            chosen,
            rejected,
            margin: 0.0,
            weight: 1.0,
            prompt: None,
            chosen_text: None,
            rejected_text: None,
            place: None,
        }
    }

    fn of_texts(prompt: String, chosen: String, rejected: String) -> Self {
        let shared: Arc<str> = prompt.as_str().into();
        let input =
            |response: &String| Input::Pair { prompt: Arc::clone(&shared), response: response.clone() };
        Self {
            prompt: Some(vec![Message::new("user", prompt)]),
            ..Self::new(input(&chosen), input(&rejected)).with_texts(Some(chosen), Some(rejected))
        }
    }

    fn of_messages(prompt: Option<Prompt>, chosen: Vec<Message>, rejected: Vec<Message>) -> Result<Self> {
        let answers = |messages: &[Message]| messages[0].role == "assistant";
        match prompt {
            Some(Prompt::Messages(prompt)) => {
                Ok(Self::continuing(joined("prompt", prompt)?, chosen, rejected))
            }
            Some(Prompt::Text(prompt)) if answers(&chosen) && answers(&rejected) => {
                Ok(Self::continuing(vec![Message::new("user", prompt)], chosen, rejected))
            }
            _ => Ok(Self::of_conversations(chosen, rejected)),
        }
    }

    /// Two continuations of `prompt`.
    fn continuing(prompt: Vec<Message>, chosen: Vec<Message>, rejected: Vec<Message>) -> Self {
        let texts = (answer(&chosen), answer(&rejected));
        let whole = |rest: Vec<Message>| Input::Messages(prompt.iter().cloned().chain(rest).collect());
        let pair = Self::new(whole(chosen), whole(rejected)).with_texts(texts.0, texts.1);
        Self { prompt: Some(prompt), ..pair }
    }

    /// Two whole conversations: the messages they share at the start are the prompt, except that each keeps
    /// at least its last message as the answer.
    fn of_conversations(mut chosen: Vec<Message>, mut rejected: Vec<Message>) -> Self {
        let longest = chosen.len().min(rejected.len()) - 1;
        let shared = chosen.iter().zip(&rejected).take(longest).take_while(|(a, b)| a == b).count();
        if shared == 0 {
            return Self::new(Input::Messages(chosen), Input::Messages(rejected));
        }
        rejected.drain(..shared);
        let answer = chosen.split_off(shared);
        Self::continuing(chosen, answer, rejected)
    }

    /// The pair, read there.
    pub fn at(self, path: &Arc<Path>, line: usize) -> Self {
        Self { place: Some(Place { path: Arc::clone(path), line }), ..self }
    }

    fn with_texts(self, chosen_text: Option<String>, rejected_text: Option<String>) -> Self {
        Self { chosen_text, rejected_text, ..self }
    }
}

/// The text of a continuation that is a single message of the assistant.
fn answer(messages: &[Message]) -> Option<String> {
    match messages {
        [message] if message.role == "assistant" => Some(message.content.text().into_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Pair> {
        serde_json::from_str::<Record>(json).unwrap().parse()
    }

    fn messages(said: &[(&str, &str)]) -> Vec<Message> {
        said.iter().map(|(role, text)| Message::new(*role, *text)).collect()
    }

    #[test]
    fn string_prompt_and_answers() {
        let pair = parse(r#"{"prompt":"p","chosen":"c","rejected":"r","margin":0.5,"weight":2,"score":[]}"#)
            .unwrap();
        assert_eq!(pair.chosen, Input::Pair { prompt: "p".into(), response: "c".into() });
        assert_eq!(pair.rejected, Input::Pair { prompt: "p".into(), response: "r".into() });
        assert_eq!((pair.margin, pair.weight), (0.5, 2.0));
        assert_eq!(pair.prompt, Some(messages(&[("user", "p")])));
        assert_eq!((pair.chosen_text.as_deref(), pair.rejected_text.as_deref()), (Some("c"), Some("r")));
    }

    #[test]
    fn texts_alone_are_already_templated() {
        let pair = parse(r#"{"chosen":"c","rejected":"r","source":"s","margin":null}"#).unwrap();
        assert_eq!((pair.chosen, pair.rejected), (Input::Text("c".into()), Input::Text("r".into())));
        assert_eq!((pair.source.as_deref(), pair.margin, pair.weight), (Some("s"), 0.0, 1.0));
        assert_eq!((pair.prompt, pair.chosen_text), (None, None));
    }

    /// Every way to write the same conversation gives the same pair.
    #[test]
    fn conversations_in_every_layout() {
        let user = r#"{"role":"user","content":"p"}"#;
        let (chosen, rejected) = (
            r#"{"role":"assistant","content":"c"}"#,
            r#"{"role":"assistant","content":[{"type":"text","text":"r"}]}"#,
        );
        let whole = format!(r#""chosen":[{user},{chosen}],"rejected":[{user},{rejected}]"#);
        let apart = format!(r#""chosen":[{chosen}],"rejected":[{rejected}]"#);
        for json in [
            format!("{{{whole}}}"),
            format!(r#"{{"prompt":"p",{whole}}}"#),
            format!(r#"{{"prompt":[{user}],{apart}}}"#),
            format!(r#"{{"prompt":"p",{apart}}}"#),
            format!(r#"{{"prompt":[{user}],"chosen":"c","rejected":"r"}}"#),
        ] {
            let pair = parse(&json).unwrap();
            assert_eq!(
                pair.chosen,
                Input::Messages(messages(&[("user", "p"), ("assistant", "c")])),
                "{json}"
            );
            assert_eq!(
                pair.rejected,
                Input::Messages(messages(&[("user", "p"), ("assistant", "r")])),
                "{json}"
            );
            assert_eq!(pair.prompt, Some(messages(&[("user", "p")])), "{json}");
            assert_eq!(
                (pair.chosen_text.as_deref(), pair.rejected_text.as_deref()),
                (Some("c"), Some("r")),
                "{json}"
            );
        }
    }

    #[test]
    fn conversations_that_share_all_or_nothing() {
        let same = r#"[{"role":"user","content":"p"},{"role":"assistant","content":"c"}]"#;
        let pair = parse(&format!(r#"{{"chosen":{same},"rejected":{same}}}"#)).unwrap();
        assert_eq!(pair.chosen, pair.rejected);
        assert_eq!(pair.chosen_text.as_deref(), Some("c"));
        let other = r#"[{"role":"user","content":"q"},{"role":"assistant","content":"c"}]"#;
        let pair = parse(&format!(r#"{{"chosen":{same},"rejected":{other}}}"#)).unwrap();
        assert_eq!((pair.prompt, pair.chosen_text), (None, None));
    }

    #[test]
    fn wrong_fields_are_named() {
        let one = r#"[{"role":"user","content":"p"}]"#;
        let table = [
            (r#"{"chosen":[],"rejected":[]}"#.to_owned(), "chosen: empty"),
            (format!(r#"{{"chosen":{one},"rejected":[]}}"#), "rejected: empty"),
            (format!(r#"{{"chosen":{one},"rejected":"r"}}"#), "rejected: a string"),
            (format!(r#"{{"chosen":"c","rejected":{one}}}"#), "rejected: a list of messages"),
            (r#"{"prompt":[],"chosen":"c","rejected":"r"}"#.to_owned(), "prompt: empty"),
            (r#"{"chosen":"c","rejected":"r","weight":-1}"#.to_owned(), "weight: not a finite number"),
        ];
        for (json, want) in table {
            let message = parse(&json).unwrap_err().to_string();
            assert!(message.starts_with(want), "{json}: {message}");
        }
        for json in [
            r#"{"chosen":"c"}"#,
            r#"{"chosen":"c","chosen":"c","rejected":"r"}"#,
            r#"{"chosen":1,"rejected":"r"}"#,
        ] {
            assert!(serde_json::from_str::<Record>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn infinities_are_refused() {
        let record = |margin, weight| Record {
            margin,
            weight,
            ..serde_json::from_str(r#"{"chosen":"c","rejected":"r"}"#).unwrap()
        };
        assert!(record(Some(f64::NAN), None).parse().is_err());
        assert!(record(None, Some(f64::INFINITY)).parse().is_err());
        assert!(record(Some(-1.0), Some(0.0)).parse().is_ok());
    }
}

//! Texts and token ids in the forms that the dialects have for them.

use std::sync::Arc;

use serde::Deserialize;
use utoipa::ToSchema;

use crate::{
    Result,
    http::error::ApiError,
    item::{Input, Place, Placed},
};

/// One text, several, the token ids of one, or those of several.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a text, token ids, or a list of either")]
pub enum Texts {
    Text(String),
    Several(Vec<String>),
    Ids(Vec<u32>),
    IdLists(Vec<Vec<u32>>),
}

/// A text or token ids on their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Text {
    Text(String),
    Ids(Vec<u32>),
}

impl Texts {
    /// Each text apart, and whether there was only one, not in a list.
    pub fn apart(self) -> (Vec<Text>, bool) {
        match self {
            Self::Text(text) => (vec![Text::Text(text)], true),
            Self::Ids(ids) => (vec![Text::Ids(ids)], true),
            Self::Several(texts) => (texts.into_iter().map(Text::Text).collect(), false),
            Self::IdLists(lists) => (lists.into_iter().map(Text::Ids).collect(), false),
        }
    }

    /// Each as an input of its own, and whether there was only one; texts are plain, or templated already.
    pub fn inputs(self, field: &str, templated: bool) -> Result<(Vec<Placed>, bool), ApiError> {
        let (texts, single) = self.apart();
        if texts.is_empty() {
            return Err(ApiError::empty(field));
        }
        let placed = |(at, text): (usize, Text)| {
            let place = if single { Place::Field(field.into()) } else { Place::element(field, at) };
            place.of(text.input(templated))
        };
        Ok((texts.into_iter().enumerate().map(placed).collect(), single))
    }
}

impl Text {
    /// As an input of its own.
    pub fn input(self, templated: bool) -> Input {
        match self {
            Self::Text(text) if templated => Input::Text(text),
            Self::Text(text) => Input::Plain(text),
            Self::Ids(ids) => Input::Ids(ids),
        }
    }
}

/// A prompt that answers share.
#[derive(Debug, Clone)]
pub enum SharedText {
    Text(Arc<str>),
    Ids(Arc<[u32]>),
}

impl From<Text> for SharedText {
    fn from(text: Text) -> Self {
        match text {
            Text::Text(text) => Self::Text(text.into()),
            Text::Ids(ids) => Self::Ids(ids.into()),
        }
    }
}

impl SharedText {
    /// The prompt and an answer to it, if both are texts or both token ids.
    pub fn answered(&self, answer: Text) -> Option<Input> {
        match (self, answer) {
            (Self::Text(prompt), Text::Text(response)) => {
                Some(Input::Pair { prompt: Arc::clone(prompt), response })
            }
            (Self::Ids(prompt), Text::Ids(response)) => {
                Some(Input::IdPair { prompt: Arc::clone(prompt), response })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read_and_no_mixture() {
        let read = |json: &str| serde_json::from_str::<Texts>(json);
        let table = [
            ("\"a\"", Texts::Text("a".into())),
            (r#"["a","b"]"#, Texts::Several(vec!["a".into(), "b".into()])),
            ("[]", Texts::Several(Vec::new())),
            ("[1,2]", Texts::Ids(vec![1, 2])),
            ("[[1],[2,3]]", Texts::IdLists(vec![vec![1], vec![2, 3]])),
        ];
        for (json, want) in table {
            assert_eq!(read(json).unwrap(), want, "{json}");
        }
        for json in ["1", r#"["a",1]"#, "[1,[2]]", "[[[1]]]", "{}", "[-1]", "[4294967296]", "null"] {
            assert!(read(json).is_err(), "{json}");
        }
    }
}

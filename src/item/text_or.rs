//! A string, or a list of something.
//!
//! Serde's untagged enums would buffer the list and lose the place of what is wrong in it; here errors,
//! and fields that are not known, keep their path.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{Error, SeqAccess, Visitor, value::SeqAccessDeserializer},
};

/// What was read.
pub enum TextOr<T> {
    /// A string.
    Text(String),
    /// A list, of whatever length.
    List(Vec<T>),
}

/// Reads a string or a list; `expected` says what the list is of.
pub fn text_or<'de, D, T>(deserializer: D, expected: &'static str) -> Result<TextOr<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    deserializer.deserialize_any(Either { expected, element: PhantomData })
}

struct Either<T> {
    expected: &'static str,
    element: PhantomData<T>,
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Either<T> {
    type Value = TextOr<T>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "a string or a list of {}", self.expected)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<TextOr<T>, E> {
        Ok(TextOr::Text(text.to_owned()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<TextOr<T>, E> {
        Ok(TextOr::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<TextOr<T>, A::Error> {
        Deserialize::deserialize(SeqAccessDeserializer::new(list)).map(TextOr::List)
    }
}

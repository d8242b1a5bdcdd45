//! Where an input stands in a request, so that what is wrong with it can be named.

use std::fmt;

use super::Input;
use crate::Error;

/// An input and its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Placed {
    /// What is to be scored.
    pub input: Input,
    /// Where it was sent.
    pub place: Place,
}

/// A place in a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// An item, counted from 0, whose fields have names of their own: `items[1].response`.
    Item(usize),
    /// A field that holds the whole input: `documents[1]`.
    Field(String),
}

impl Place {
    /// An element of a list.
    pub fn element(list: &str, index: usize) -> Self {
        Self::Field(format!("{list}[{index}]"))
    }

    /// Puts an input here.
    pub fn of(self, input: Input) -> Placed {
        Placed { input, place: self }
    }

    /// Says of an error that it is about what stands here.
    pub fn blame(&self, error: Error) -> Error {
        match (self, error) {
            // It is the request's, not the input's.
            (_, Error::Field { field, message }) if field == "truncation" => {
                Error::field(field, format!("{self}: {message}"))
            }
            (Self::Item(_), Error::Field { field, message }) => {
                Error::field(format!("{self}.{field}"), message)
            }
            (Self::Field(place), Error::Field { message, .. }) => Error::field(place, message),
            (_, source) => Error::At { place: self.to_string(), source: Box::new(source) },
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Item(index) => write!(f, "items[{index}]"),
            Self::Field(place) => f.write_str(place),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_place() {
        let (item, document) = (Place::Item(1), Place::element("documents", 2));
        let wrong = |field: &str| Error::field(field, "wrong");
        let table = [
            (item.blame(wrong("response")), "items[1].response: wrong"),
            (document.blame(wrong("response")), "documents[2]: wrong"),
            (document.blame(wrong("truncation")), "truncation: documents[2]: wrong"),
            (item.blame(Error::TooLong { tokens: 9, more: false, limit: 8 }), "items[1]: input has 9 tokens"),
            (
                document.blame(Error::TooLong { tokens: 9, more: false, limit: 8 }),
                "documents[2]: input has 9 tokens",
            ),
        ];
        for (error, want) in table {
            assert!(error.to_string().starts_with(want), "{error}");
        }
    }
}

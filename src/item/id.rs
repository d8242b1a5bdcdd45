//! An item's name for itself: a string or a number, given back as it came.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, Visitor},
};
use serde_json::Number;
use utoipa::ToSchema;

/// Past this, neighbouring integers are one number in double precision.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// A string or a number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Id {
    /// A string stays a string.
    Text(String),
    /// A number stays a number.
    #[schema(value_type = f64)]
    Number(Number),
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Number(number) => number.fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOrNumber)
    }
}

struct TextOrNumber;

impl Visitor<'_> for TextOrNumber {
    type Value = Id;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a string or a number")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Id, E> {
        Ok(Id::Text(text.to_owned()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Id, E> {
        Ok(Id::Text(text))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Id, E> {
        Ok(Id::Number(number.into()))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Id, E> {
        Ok(Id::Number(number.into()))
    }

    /// A large one may have been rounded on its way here, and would not come back as it came.
    fn visit_f64<E: Error>(self, number: f64) -> Result<Id, E> {
        let number = Number::from_f64(number).filter(|_| number.abs() < EXACT);
        number.map(Id::Number).ok_or_else(|| E::custom("too large a number (hint: give it as a string)"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_goes_back() {
        for json in ["\"a\"", "\"1\"", "1", "0", "-7", "18446744073709551615", "1.5", "-0.25"] {
            let id: Id = serde_json::from_str(json).unwrap();
            assert_eq!(serde_json::to_string(&id).unwrap(), json);
            assert_eq!(id.to_string(), json.trim_matches('"'));
        }
    }

    #[test]
    fn what_could_not_go_back_is_refused() {
        let table = [
            ("123456789012345678901234567890", "too large a number (hint: "),
            ("true", "invalid type: boolean `true`, expected a string or a number"),
            ("[1]", "invalid type: sequence, expected a string or a number"),
        ];
        for (json, want) in table {
            let message = serde_json::from_str::<Id>(json).unwrap_err().to_string();
            assert!(message.starts_with(want), "{json}: {message}");
        }
    }
}

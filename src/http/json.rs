//! The JSON body of a request, read strictly.
//!
//! Bad JSON is 400; a value of the wrong type, or a field that is not known, is 422 and named by its path.

use std::collections::{BTreeMap, BTreeSet};

use axum::{
    body::Bytes,
    extract::{FromRequest, Request},
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_ignored::Path;
use serde_json::error::Category;

use super::{error::ApiError, object::Object, outline::Outline};
use crate::Error;

/// Arrays and objects in each other: many more than any request has.
const MAX_DEPTH: usize = 32;
/// Objects in a body: twice as many as a stream has items by default.
const MAX_OBJECTS: usize = 1 << 17;

/// A body of JSON without unknown fields.
pub struct StrictJson<T>(pub T);

/// A body of JSON whose unknown fields are let pass.
pub struct LooseJson<T>(pub T);

/// A body that says it is JSON, as it was sent.
pub struct RawJson {
    bytes: Bytes,
    outline: Outline,
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for StrictJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        RawJson::from_request(request, state).await?.strict().map(Self)
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for LooseJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        RawJson::from_request(request, state).await?.loose().map(Self)
    }
}

impl<S: Send + Sync> FromRequest<S> for RawJson {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        if !is_json(request.headers()) {
            return Err(ApiError::content_type());
        }
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| {
            let message = rejection.body_text();
            match rejection.into_response().status() {
                StatusCode::PAYLOAD_TOO_LARGE => ApiError::body_too_large(),
                _ => ApiError::body(message),
            }
        })?;
        let outline = Outline::of(&bytes);
        if outline.depth > MAX_DEPTH {
            return Err(ApiError::too_deep(MAX_DEPTH));
        }
        if outline.objects > MAX_OBJECTS {
            return Err(ApiError::too_many("body", outline.objects, MAX_OBJECTS));
        }
        Ok(Self { bytes, outline })
    }
}

impl RawJson {
    /// Reads an object without unknown fields.
    pub fn strict<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        parse(&self.bytes)
    }

    /// Elements of the longest list that is a field of the object.
    pub fn listed(&self) -> usize {
        self.outline.listed
    }

    /// Reads an object; fields that are not known are let pass.
    pub fn loose<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        let mut json = serde_json::Deserializer::from_slice(&self.bytes);
        let Object(value) = serde_path_to_error::deserialize(&mut json).map_err(|error| wrong(&error, ""))?;
        json.end().map_err(|error| ApiError::json(&error))?;
        Ok(value)
    }

    /// The names of the object's fields that are given, `null` being none.
    pub fn fields(&self) -> Result<BTreeSet<String>, ApiError> {
        let fields: BTreeMap<String, Option<IgnoredAny>> = self.loose()?;
        Ok(fields.into_iter().filter_map(|(name, value)| value.map(|_| name)).collect())
    }
}

/// `application/json` or `application/...+json`, with any parameters.
fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || essence.starts_with("application/") && essence.ends_with("+json")
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = strict(&mut json, "")?;
    json.end().map_err(|error| ApiError::json(&error))?;
    Ok(value)
}

/// Reads an object without unknown fields; `place` is where it stands in the body, if it is not all of it.
pub fn strict<'de, T, D>(deserializer: D, place: &str) -> Result<T, ApiError>
where
    T: Deserialize<'de>,
    D: Deserializer<'de, Error = serde_json::Error>,
{
    let mut unknown = None;
    let mut note = |path: Path| {
        unknown.get_or_insert_with(|| shown(&path));
    };
    let strict = serde_ignored::Deserializer::new(deserializer, &mut note);
    let Object(value) = serde_path_to_error::deserialize(strict).map_err(|error| wrong(&error, place))?;
    match unknown {
        Some(path) => Err(Error::field(within(place, &path), "unknown field").into()),
        None => Ok(value),
    }
}

/// Says what is wrong, and with which field below `place`.
fn wrong(error: &serde_path_to_error::Error<serde_json::Error>, place: &str) -> ApiError {
    match error.inner().classify() {
        Category::Data => Error::field(within(place, &error.path().to_string()), error.inner()).into(),
        _ => ApiError::json(error.inner()),
    }
}

/// A path below a place; `.` is the place itself.
fn within(place: &str, path: &str) -> String {
    match (place, path) {
        ("", ".") => "body".into(),
        ("", path) => path.into(),
        (place, ".") => place.into(),
        (place, path) => format!("{place}.{path}"),
    }
}

/// Writes a path as `items[1].response`.
fn shown(path: &Path) -> String {
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", shown(parent)),
        Path::Map { parent, key } => match shown(parent) {
            parent if parent.is_empty() => key.clone(),
            parent => format!("{parent}.{key}"),
        },
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
            shown(parent)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Outer {
        inner: Vec<Option<Object<Inner>>>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Inner {
        number: Option<f64>,
    }

    #[test]
    fn errors_name_the_field() {
        let table = [
            (r#"{"inner":[{"number":1},{"numbr":2}]}"#, "inner[1].numbr: unknown field"),
            (r#"{"inner":[],"outer":1}"#, "outer: unknown field"),
            (r#"{"inner":[{"number":1},{"number":"x"}]}"#, "inner[1].number: invalid type"),
            (r#"[[]]"#, "body: invalid type: sequence, expected an object"),
            (r#"{"inner":[[1.0]]}"#, "inner[0]: invalid type: sequence, expected an object"),
            (r#"{}"#, "body: missing field `inner`"),
            (r#"{"inner":[]"#, "body: EOF"),
            (r#"{"inner":[]} x"#, "body: trailing characters"),
            (r#"{"inner":[{"number":1e999}]}"#, "body: number out of range"),
            ("", "body: EOF"),
        ];
        for (json, want) in table {
            let error = format!("{:?}", parse::<Outer>(json.as_bytes()).unwrap_err());
            assert!(error.contains(want), "{json}: {error}");
        }
        let value = parse::<Outer>(br#"{"inner":[{"number":null},null]}"#).unwrap();
        assert_eq!(value, Outer { inner: vec![Some(Object(Inner { number: None })), None] });
    }

    #[test]
    fn json_is_recognised_by_its_media_type() {
        for (value, want) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/problem+json", true),
            ("text/json", false),
            ("text/plain", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, value.parse().unwrap())]);
            assert_eq!(is_json(&headers), want, "{value}");
        }
        assert!(!is_json(&HeaderMap::new()));
    }
}

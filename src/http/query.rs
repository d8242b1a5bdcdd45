//! The query string of a request, whose errors are said as those of its body.

use axum::{
    extract::{FromRequestParts, Query},
    http::request::Parts,
};
use serde::de::DeserializeOwned;

use super::error::ApiError;
use crate::Error;

/// Values from the query string.
pub struct Choices<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Choices<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let query = Query::from_request_parts(parts, state).await;
        let Query(value) = query.map_err(|rejection| Error::field("query string", rejection.body_text()))?;
        Ok(Self(value))
    }
}

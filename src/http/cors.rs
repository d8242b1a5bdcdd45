//! Which pages of other origins a browser lets call the service: none, unless they are named.
//!
//! Keys travel in headers, never in cookies, so a page can only use a key that it has itself.

use std::{str::FromStr, time::Duration};

use axum::http::{HeaderName, HeaderValue, Uri, header::RETRY_AFTER};
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, CorsLayer};

use super::{answering::MODEL, dialect::TEI_TIMES, layers::REQUEST_ID, timing::SERVER_TIMING};

/// How long a browser may keep the answer to its question.
const MAX_AGE: Duration = Duration::from_secs(600);
/// What a page may read of an answer beside its body.
const EXPOSED: [HeaderName; 4] = [REQUEST_ID, MODEL, RETRY_AFTER, SERVER_TIMING];

/// An origin of pages as browsers send it, or all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Written as `*`.
    Any,
    /// `scheme://host[:port]`.
    Exact(HeaderValue),
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let hint = "expected `scheme://host[:port]` in lower case and without a path, or `*`";
        let uri: Uri = text.parse().map_err(|e| format!("{e} ({hint})"))?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(hint.into());
        };
        // As browsers send it; they know no wildcards.
        let origin = format!("{scheme}://{authority}");
        if origin != text || origin != text.to_ascii_lowercase() || origin.contains(['@', '*']) {
            return Err(hint.into());
        }
        HeaderValue::try_from(origin).map(Self::Exact).map_err(|e| e.to_string())
    }
}

/// Makes the layer that answers browsers' questions; without origins there is none.
pub fn layer(origins: &[Origin]) -> Option<CorsLayer> {
    let exact = origins.iter().map(|origin| match origin {
        Origin::Any => None,
        Origin::Exact(origin) => Some(origin.clone()),
    });
    let allowed = exact.collect::<Option<Vec<_>>>().map_or(AllowOrigin::any(), AllowOrigin::list);
    let layer = CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods(AllowMethods::mirror_request())
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([&EXPOSED[..], &TEI_TIMES].concat())
        .max_age(MAX_AGE);
    (!origins.is_empty()).then_some(layer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_written_as_browsers_send_it() {
        for right in
            ["https://example.com", "http://localhost:3000", "http://[::1]:80", "chrome-extension://abc"]
        {
            assert_eq!(right.parse(), Ok(Origin::Exact(HeaderValue::from_static(right))));
        }
        assert_eq!("*".parse(), Ok(Origin::Any));
        for wrong in [
            "",
            "example.com",
            "https://example.com/",
            "https://example.com/x",
            "https://u@example.com",
            "null",
            "https://Example.com",
            "https://*.example.com",
            "**",
        ] {
            assert!(wrong.parse::<Origin>().unwrap_err().contains("expected `scheme"), "{wrong}");
        }
    }
}

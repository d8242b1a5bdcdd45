//! `GET /`: a page to try the service with.
//!
//! Its files are part of the program and ask for nothing but each other and the service itself, which the policy that goes
//! with them makes sure of. The page is no part of the interface, so the OpenAPI document does not name it.

use axum::{
    Router,
    extract::Path,
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{
            CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY,
            X_CONTENT_TYPE_OPTIONS,
        },
    },
    response::{IntoResponse, Response},
    routing::get,
};
use sha2::{Digest, Sha256};

use super::{App, error::ApiError};
use crate::digest::hex;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

const INDEX: File = File { kind: HTML, text: include_str!("page/index.html") };

/// What the page is made of, under `/page/`.
const FILES: [(&str, File); 10] = [
    ("page.css", File { kind: CSS, text: include_str!("page/page.css") }),
    ("icon.svg", File { kind: "image/svg+xml", text: include_str!("page/icon.svg") }),
    ("page.js", File { kind: SCRIPT, text: include_str!("page/page.js") }),
    ("candidates.js", File { kind: SCRIPT, text: include_str!("page/candidates.js") }),
    ("chart.js", File { kind: SCRIPT, text: include_str!("page/chart.js") }),
    ("form.js", File { kind: SCRIPT, text: include_str!("page/form.js") }),
    ("preferences.js", File { kind: SCRIPT, text: include_str!("page/preferences.js") }),
    ("server.js", File { kind: SCRIPT, text: include_str!("page/server.js") }),
    ("tables.js", File { kind: SCRIPT, text: include_str!("page/tables.js") }),
    ("text.js", File { kind: SCRIPT, text: include_str!("page/text.js") }),
];

/// One file of the page.
struct File {
    kind: &'static str,
    text: &'static str,
}

/// The routes of the page.
pub fn router() -> Router<App> {
    Router::new().route("/", get(index)).route("/page/{file}", get(file))
}

async fn index(headers: HeaderMap) -> Response {
    INDEX.answer(&headers)
}

async fn file(Path(name): Path<String>, headers: HeaderMap) -> Response {
    match FILES.iter().find(|(known, _)| *known == name) {
        Some((_, file)) => file.answer(&headers),
        None => ApiError::no_route().into_response(),
    }
}

impl File {
    /// The file, or word that the browser's copy is still good.
    fn answer(&self, headers: &HeaderMap) -> Response {
        let etag = format!("\"{}\"", hex(Sha256::digest(self.text)));
        let known = headers.get(IF_NONE_MATCH).and_then(|value| value.to_str().ok());
        let known = known
            .is_some_and(|known| known.split(',').any(|one| one.trim().trim_start_matches("W/") == etag));
        let body = if known { StatusCode::NOT_MODIFIED.into_response() } else { self.text.into_response() };
        (self.headers(), [(ETAG, etag)], body).into_response()
    }

    fn headers(&self) -> [(HeaderName, HeaderValue); 5] {
        [
            (CONTENT_TYPE, self.kind),
            // Kept, but asked for again: the next version of the program has other files under the same names.
            (CACHE_CONTROL, "no-cache"),
            (CONTENT_SECURITY_POLICY, POLICY),
            (REFERRER_POLICY, "no-referrer"),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        ]
        .map(|(name, value)| (name, HeaderValue::from_static(value)))
    }
}

//! `server-timing`: what the time of a request went into, said in its answer.

use std::time::Duration;

use axum::{
    http::{HeaderName, HeaderValue},
    response::Response,
};

use crate::engine::times::{Spent, Stage};

/// The header, which browsers show beside the request.
pub const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Puts the header in, where anything was asked of a model.
pub fn say(response: &mut Response, spent: Spent) {
    if Stage::ALL.into_iter().all(|stage| spent.of(stage).is_zero()) {
        return;
    }
    let stages = Stage::ALL.into_iter().map(|stage| (stage.name(), spent.of(stage)));
    let metrics: Vec<String> = stages.chain([("total", spent.total)]).map(metric).collect();
    if let Ok(value) = HeaderValue::try_from(metrics.join(", ")) {
        response.headers_mut().insert(SERVER_TIMING, value);
    }
}

/// A name and its milliseconds.
fn metric((name, spent): (&str, Duration)) -> String {
    format!("{name};dur={:.3}", spent.as_secs_f64() * 1e3)
}

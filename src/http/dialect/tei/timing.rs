//! What a request cost, in this dialect's headers: whole milliseconds, characters and tokens.

use axum::{
    http::{HeaderName, HeaderValue},
    response::Response,
};
use serde::Serialize;

use super::super::question::Answer;
use crate::{
    engine::times::{Spent, Stage},
    item::{Input, Placed},
};

const COMPUTE_TIME: HeaderName = HeaderName::from_static("x-compute-time");
const COMPUTE_CHARACTERS: HeaderName = HeaderName::from_static("x-compute-characters");
const COMPUTE_TOKENS: HeaderName = HeaderName::from_static("x-compute-tokens");
const TOTAL_TIME: HeaderName = HeaderName::from_static("x-total-time");
const TOKENIZATION_TIME: HeaderName = HeaderName::from_static("x-tokenization-time");
const QUEUE_TIME: HeaderName = HeaderName::from_static("x-queue-time");
const INFERENCE_TIME: HeaderName = HeaderName::from_static("x-inference-time");

/// All of them.
pub const HEADERS: [HeaderName; 7] = [
    COMPUTE_TIME,
    COMPUTE_CHARACTERS,
    COMPUTE_TOKENS,
    TOTAL_TIME,
    TOKENIZATION_TIME,
    QUEUE_TIME,
    INFERENCE_TIME,
];

/// An answer, and the characters that were sent for it.
pub struct Work {
    pub answer: Answer,
    pub characters: usize,
}

impl Work {
    /// Sends a body with what it cost. The computed time is the whole one here, as in that server.
    pub fn reply(&self, spent: Spent, body: impl Serialize) -> Response {
        let Self { answer, characters } = self;
        let milliseconds = |stage| spent.of(stage).as_millis();
        let total = spent.total.as_millis();
        let numbers = [
            (COMPUTE_TIME, total),
            (COMPUTE_CHARACTERS, *characters as u128),
            (COMPUTE_TOKENS, answer.tokens as u128),
            (TOTAL_TIME, total),
            (TOKENIZATION_TIME, milliseconds(Stage::Tokenize)),
            (QUEUE_TIME, milliseconds(Stage::Queue)),
            (INFERENCE_TIME, milliseconds(Stage::Score)),
        ];
        let mut response = answer.reply(body);
        for (name, number) in numbers {
            response.headers_mut().insert(name, HeaderValue::from(u64::try_from(number).unwrap_or(u64::MAX)));
        }
        response
    }
}

/// Counts the characters of all texts; a prompt counts with each of its answers.
pub fn characters(inputs: &[Placed]) -> usize {
    let count = |text: &str| text.chars().count();
    let of = |Placed { input, .. }: &Placed| match input {
        Input::Pair { prompt, response } => count(prompt) + count(response),
        Input::Plain(text) | Input::Text(text) => count(text),
        // Not of this dialect.
        Input::Answer { .. } | Input::Messages(_) | Input::Ids(_) | Input::IdPair { .. } => 0,
    };
    inputs.iter().map(of).sum()
}

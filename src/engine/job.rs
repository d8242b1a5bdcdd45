//! What a request asks of one model.

use std::sync::Arc;

use super::{
    generation::Generation,
    queue::{Load, Work},
    task::Order,
    terms::Terms,
};
use crate::{
    item::{Input, Message, Placed},
    score::{Embedding, Estimate},
    text::{Limit, Truncation},
};

/// Bytes of text taken for one token until it is tokenised.
const BYTES_PER_TOKEN: usize = 4;

/// One request's sequences, for one model.
#[derive(Debug)]
pub struct Job {
    /// The model, as it was found.
    pub model: Arc<Generation>,
    /// What is to be scored.
    pub inputs: Vec<Placed>,
    /// Tokens that an input may have, where that is less than the model takes.
    pub max_length: Option<usize>,
    /// What is cut from inputs that are too long.
    pub truncation: Option<Truncation>,
    /// Until when the answer is wanted.
    pub terms: Terms,
}

/// What was found of one input.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Seen<T> {
    /// Finite, and with a variance where one was wanted.
    pub what: T,
    /// Tokens that were scored.
    pub tokens: usize,
    /// Whether tokens were cut to fit the limit.
    pub truncated: bool,
}

impl<T> Seen<T> {
    /// What was found, and the rest.
    pub fn apart(self) -> (T, Seen<()>) {
        let Self { what, tokens, truncated } = self;
        (what, Seen { what: (), tokens, truncated })
    }
}

impl Seen<Embedding> {
    /// Its mean and variance alone.
    pub fn estimate(&self) -> Seen<Estimate> {
        let Self { what, tokens, truncated } = self;
        Seen { what: what.estimate(), tokens: *tokens, truncated: *truncated }
    }
}

/// The inputs of a job, and how long they may be.
pub struct Asking {
    pub inputs: Vec<Placed>,
    pub limit: Limit,
}

impl Job {
    /// Separates what all its entries share from its inputs, whose limit is the lower one of the job's and the model's.
    pub fn ordered(self, work: Work) -> (Order, Asking) {
        let Self { model, inputs, max_length, truncation, terms } = self;
        let longest = model.max_length;
        let limit = Limit { max_length: max_length.unwrap_or(longest).min(longest), truncation };
        (Order { model, work, terms }, Asking { inputs, limit })
    }
}

/// Takes a list apart into runs of these sizes.
pub fn by_size<T>(all: Vec<T>, sizes: &[usize]) -> Vec<Vec<T>> {
    let mut rest = all.into_iter();
    sizes.iter().map(|size| rest.by_ref().take(*size).collect()).collect()
}

/// Guesses the load of inputs that are not tokenised yet.
pub fn estimated(inputs: &[Placed], max_length: usize) -> Load {
    let tokens = |Placed { input, .. }: &Placed| tokens_of(input).min(max_length);
    Load { tokens: inputs.iter().map(tokens).sum(), items: inputs.len() }
}

/// Guesses the tokens of an input from the bytes of its texts; counts its token ids.
pub fn tokens_of(input: &Input) -> usize {
    let said = |message: &Message| message.content.bytes();
    let bytes = match input {
        Input::Pair { prompt, response } => prompt.len() + response.len(),
        Input::Answer { prompt, response } => prompt.iter().chain(response).map(said).sum(),
        Input::Messages(messages) => messages.iter().map(said).sum(),
        Input::Text(text) | Input::Plain(text) => text.len(),
        Input::Ids(ids) => return ids.len(),
        Input::IdPair { prompt, response } => return prompt.len() + response.len(),
    };
    bytes / BYTES_PER_TOKEN + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::item::Place;

    #[test]
    fn the_load_is_guessed_from_bytes_and_counted_for_ids() {
        let text = |bytes| Input::Text("x".repeat(bytes));
        let pair = Input::Pair { prompt: "x".repeat(6).into(), response: "x".repeat(6) };
        let messages = vec![Message::new("user", "x".repeat(8)), Message::new("user", "xxxx")];
        let response = vec![Message::new("assistant", "x".repeat(8))];
        let answer = Input::Answer { prompt: messages.clone().into(), response };
        let table = [
            (vec![text(0)], 1),
            (vec![text(8)], 3),
            (vec![text(8), pair], 7),
            (vec![Input::Messages(messages)], 4),
            (vec![answer], 6),
            (vec![text(1000)], 100),
            (vec![Input::Ids(vec![1; 7])], 7),
            (vec![Input::Ids(vec![1; 700])], 100),
        ];
        for (inputs, tokens) in table {
            let placed: Vec<Placed> =
                inputs.into_iter().enumerate().map(|(at, input)| Place::Item(at).of(input)).collect();
            assert_eq!(estimated(&placed, 100), Load { tokens, items: placed.len() }, "{placed:?}");
        }
    }
}

//! What waits in the queue: sequences, what is wanted of them, and the way back to the client.

use std::time::Instant;

use tokio::sync::oneshot::{Receiver, Sender, channel};

use crate::{
    Error, Result,
    nn::pack::own_tokens,
    score::{Embedding, Estimate, penalty::Penalty, select::Selected},
    text::TokenSeq,
};

use super::queue::{Entry, Key};

/// The way back; closed once the client has gone.
pub type Reply<T> = Sender<Result<T>>;

/// A task, and when it was put into the queue.
#[derive(Debug)]
pub struct Waiting {
    /// What is to be done.
    pub task: Task,
    /// When it was put into the queue.
    pub since: Instant,
}

/// What one entry of the queue asks for.
#[derive(Debug)]
pub enum Task {
    /// Mean and variance of a reward.
    Estimate(Asked<Estimate>),
    /// How a reward varies with others.
    Embed(Asked<Embedding>),
    /// The best of several.
    Select(Choice),
}

/// Something of one sequence.
#[derive(Debug)]
pub struct Asked<T> {
    /// The sequence.
    pub sequence: TokenSeq,
    /// Where it goes.
    pub reply: Reply<T>,
}

/// Candidates of which the best is wanted.
#[derive(Debug)]
pub struct Choice {
    /// The candidates of one prompt.
    pub sequences: Vec<TokenSeq>,
    /// What uncertainty costs.
    pub penalty: Penalty,
    /// How many places are wanted with their variances.
    pub top: usize,
    /// Where it goes.
    pub reply: Reply<Selected>,
}

impl Task {
    /// Whether nobody waits for it any more.
    pub fn is_gone(&self) -> bool {
        match self {
            Self::Estimate(asked) => asked.reply.is_closed(),
            Self::Embed(asked) => asked.reply.is_closed(),
            Self::Select(choice) => choice.reply.is_closed(),
        }
    }

    /// Refuses to do it; that the client has gone by now is nobody's fault.
    pub fn refuse(self, error: Error) {
        match self {
            Self::Estimate(asked) => drop(asked.reply.send(Err(error))),
            Self::Embed(asked) => drop(asked.reply.send(Err(error))),
            Self::Select(choice) => drop(choice.reply.send(Err(error))),
        }
    }
}

/// Entries of one sequence each, and where their answers will be; `task` is what is asked of them.
pub fn apart<T>(
    sequences: Vec<TokenSeq>,
    key: Key,
    deadline: Instant,
    task: fn(Asked<T>) -> Task,
) -> (Vec<Entry<Waiting>>, Vec<Receiver<Result<T>>>) {
    let since = Instant::now();
    let own = own_tokens(&sequences.iter().collect::<Vec<_>>());
    let entry = |(sequence, own): (TokenSeq, usize)| {
        let (reply, answer) = channel();
        let tokens = sequence.ids.len();
        let payload = Waiting { task: task(Asked { sequence, reply }), since };
        (Entry { key, items: 1, tokens, own, deadline, payload }, answer)
    };
    sequences.into_iter().zip(own).map(entry).unzip()
}

/// An entry of several sequences, and where the answer will be.
pub fn together(
    sequences: Vec<TokenSeq>,
    penalty: Penalty,
    top: usize,
    key: Key,
    deadline: Instant,
) -> (Entry<Waiting>, Receiver<Result<Selected>>) {
    let (reply, answer) = channel();
    let items = sequences.len();
    let own = own_tokens(&sequences.iter().collect::<Vec<_>>()).iter().sum();
    let tokens = sequences.iter().map(|sequence| sequence.ids.len()).sum();
    let task = Task::Select(Choice { sequences, penalty, top, reply });
    let payload = Waiting { task, since: Instant::now() };
    (Entry { key, items, tokens, own, deadline, payload }, answer)
}

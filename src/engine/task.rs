//! What waits in the queue: sequences, what is wanted of them, and the way back to the client.

use std::time::Instant;

use tokio::sync::oneshot::Receiver;

use crate::{
    Error, Result,
    nn::pack::own_tokens,
    score::{Embedding, Estimate, penalty::Penalty, select::Selected},
    text::TokenSeq,
};

use super::{
    queue::{Entry, Fate, Key, Load},
    reply::{Reply, Waiter, Way},
    terms::Terms,
};

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
    /// Whether somebody waits for it.
    pub fn fate(&self, now: Instant) -> Fate {
        match self {
            Self::Estimate(asked) => asked.reply.fate(now),
            Self::Embed(asked) => asked.reply.fate(now),
            Self::Select(choice) => choice.reply.fate(now),
        }
    }

    /// Refuses to do it.
    pub fn refuse(self, error: Error) {
        match self {
            Self::Estimate(asked) => asked.reply.send(Err(error)),
            Self::Embed(asked) => asked.reply.send(Err(error)),
            Self::Select(choice) => choice.reply.send(Err(error)),
        }
    }
}

/// Entries of one sequence each, and where the answers will be. `ask` finds the way to the answer of a sequence; `task` is what
/// is asked of those that have to be computed.
pub fn apart<T>(
    sequences: Vec<TokenSeq>,
    key: Key,
    terms: &Terms,
    ask: impl Fn(&TokenSeq) -> Way<T>,
    task: fn(Asked<T>) -> Task,
) -> (Vec<Entry<Task>>, Vec<Receiver<Result<T>>>) {
    let (mut asked, mut answers) = (Vec::new(), Vec::with_capacity(sequences.len()));
    for sequence in sequences {
        let (reply, answer) = ask(&sequence);
        asked.extend(reply.map(|reply| Asked { sequence, reply }));
        answers.push(answer);
    }
    let own = own_tokens(&asked.iter().map(|asked| &asked.sequence).collect::<Vec<_>>());
    let entry = |(asked, own): (Asked<T>, usize)| {
        let load = Load { tokens: asked.sequence.ids.len(), items: 1 };
        entry(key, terms, load, own, task(asked))
    };
    (asked.into_iter().zip(own).map(entry).collect(), answers)
}

/// An entry of several sequences, and where the answer will be.
pub fn together(
    sequences: Vec<TokenSeq>,
    penalty: Penalty,
    top: usize,
    key: Key,
    terms: &Terms,
) -> (Entry<Task>, Receiver<Result<Selected>>) {
    let (waiter, answer) = Waiter::new(terms.deadline);
    let reply = Reply::One(waiter);
    let tokens = sequences.iter().map(|sequence| sequence.ids.len()).sum();
    let load = Load { tokens, items: sequences.len() };
    let own = own_tokens(&sequences.iter().collect::<Vec<_>>()).iter().sum();
    (entry(key, terms, load, own, Task::Select(Choice { sequences, penalty, top, reply })), answer)
}

fn entry(key: Key, terms: &Terms, load: Load, own: usize, payload: Task) -> Entry<Task> {
    let Terms { client, priority, .. } = terms.clone();
    let Load { tokens, items } = load;
    Entry { key, client, priority, since: Instant::now(), items, tokens, own, payload }
}

//! What waits in the queue: sequences, what is wanted of them, and the way back to the client.

use std::{sync::Arc, time::Instant};

use tokio::sync::oneshot::Receiver;

use crate::{
    Error, Result,
    nn::pack::own_tokens,
    score::{Embedding, Estimate, penalty::Penalty, select::Selected},
    text::TokenSeq,
};

use super::{
    generation::Generation,
    queue::{Entry, Fate, Key, Load, Work},
    reply::{Reply, Waiter, Way},
    terms::Terms,
};

/// What one entry of the queue asks for, and of whom.
#[derive(Debug)]
pub struct Task {
    /// Kept in being until this is done.
    pub model: Arc<Generation>,
    /// What is asked.
    pub ask: Ask,
}

/// What is asked of a model.
#[derive(Debug)]
pub enum Ask {
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
        match &self.ask {
            Ask::Estimate(asked) => asked.reply.fate(now),
            Ask::Embed(asked) => asked.reply.fate(now),
            Ask::Select(choice) => choice.reply.fate(now),
        }
    }

    /// Tells those who wait that it is being done.
    pub fn begin(&mut self) {
        match &mut self.ask {
            Ask::Estimate(asked) => asked.reply.begin(),
            Ask::Embed(asked) => asked.reply.begin(),
            Ask::Select(choice) => choice.reply.begin(),
        }
    }

    /// Refuses to do it.
    pub fn refuse(self, error: Error) {
        match self.ask {
            Ask::Estimate(asked) => asked.reply.send(Err(error)),
            Ask::Embed(asked) => asked.reply.send(Err(error)),
            Ask::Select(choice) => choice.reply.send(Err(error)),
        }
    }
}

/// What the entries of one request have in common.
#[derive(Debug, Clone)]
pub struct Order {
    /// Who scores.
    pub model: Arc<Generation>,
    /// What is computed.
    pub work: Work,
    /// For whom, and until when.
    pub terms: Terms,
}

impl Order {
    /// What they share with the others of their batch.
    pub fn key(&self) -> Key {
        Key { model: self.model.number(), work: self.work }
    }

    /// Entries of one sequence each, and where the answers will be. `way` finds the way to the answer of a sequence; `ask` is
    /// what is asked of those that have to be computed.
    pub fn apart<T>(
        &self,
        sequences: Vec<TokenSeq>,
        way: impl Fn(&TokenSeq) -> Way<T>,
        ask: fn(Asked<T>) -> Ask,
    ) -> (Vec<Entry<Task>>, Vec<Receiver<Result<T>>>) {
        let (mut asked, mut answers) = (Vec::new(), Vec::with_capacity(sequences.len()));
        for sequence in sequences {
            let (reply, answer) = way(&sequence);
            asked.extend(reply.map(|reply| Asked { sequence, reply }));
            answers.push(answer);
        }
        let own = own_tokens(&asked.iter().map(|asked| &asked.sequence).collect::<Vec<_>>());
        let entry = |(asked, own): (Asked<T>, usize)| {
            let load = Load { tokens: asked.sequence.ids.len(), items: 1 };
            self.entry(load, own, ask(asked))
        };
        (asked.into_iter().zip(own).map(entry).collect(), answers)
    }

    /// Tokens of several sequences in one batch, what they share counted once.
    pub fn tokens_together(&self, sequences: &[TokenSeq]) -> usize {
        own_tokens(&sequences.iter().collect::<Vec<_>>()).iter().sum()
    }

    /// An entry of several sequences, and where the answer will be.
    pub fn together(
        &self,
        sequences: Vec<TokenSeq>,
        penalty: Penalty,
        top: usize,
    ) -> (Entry<Task>, Receiver<Result<Selected>>) {
        let (waiter, answer) = Waiter::new(&self.terms);
        let reply = Reply::One(waiter);
        let tokens = sequences.iter().map(|sequence| sequence.ids.len()).sum();
        let load = Load { tokens, items: sequences.len() };
        let own = self.tokens_together(&sequences);
        (self.entry(load, own, Ask::Select(Choice { sequences, penalty, top, reply })), answer)
    }

    fn entry(&self, load: Load, own: usize, ask: Ask) -> Entry<Task> {
        let Terms { client, priority, .. } = self.terms.clone();
        let Load { tokens, items } = load;
        let payload = Task { model: Arc::clone(&self.model), ask };
        let (key, since, counted) = (self.key(), Instant::now(), Load::default());
        Entry { key, client, priority, since, items, tokens, own, counted, payload }
    }
}

//! The command line: one subcommand per file, every flag with an environment twin `REWARDEN_…`.
//!
//! Results go to standard output or `--output`, logs and progress to standard error. A command that fails exits with 1 and
//! one message that names the file, line or field.

use crate::Result;
use clap::{Parser, Subcommand};

pub mod evaluate;
pub mod fit;
pub mod model;
pub mod pairs;
pub mod score;
pub mod train;

/// Scores answers of language models with a Bayesian reward model: every reward comes with its variance.
#[derive(Debug, Parser)]
#[command(name = "rewarden", version, about, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Trains a reward model (LoRA and a scalar head) on preference pairs.
    Train(train::Train),
    /// Fits the Laplace posterior of an adapter to preference pairs.
    Fit(fit::Fit),
    /// Scores a file of items.
    Score(score::Score),
    /// Measures a reward model on preference pairs.
    #[command(subcommand)]
    Evaluate(evaluate::Evaluate),
}

impl Cli {
    /// Runs the command; without one, the server.
    pub fn run(self) -> Result<()> {
        match self.command {
            Some(Command::Train(train)) => train.run(),
            Some(Command::Fit(fit)) => fit.run(),
            Some(Command::Score(score)) => score.run(),
            Some(Command::Evaluate(evaluate)) => evaluate.run(),
            None => Ok(()),
        }
    }
}

//! The command line: one subcommand per file, every flag with an environment twin `REWARDEN_…`.
//!
//! Results go to standard output or `--output`, logs and progress to standard error. A command that fails exits with 1 and
//! one message that names the file, line or field.

use crate::{
    Error, Result, http,
    telemetry::{self, Format},
};
use clap::{Parser, Subcommand};

pub mod evaluate;
pub mod fit;
pub mod model;
pub mod pairs;
pub mod score;
pub mod serve;
mod stop;
pub mod train;
pub mod verify;

/// Scores answers of language models with a Bayesian reward model: every reward comes with its variance.
#[derive(Debug, Parser)]
#[command(name = "rewarden", version, about, max_term_width = 100)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// Level of the logs, or a list like `info,rewarden=debug`
    #[arg(long, global = true, default_value = "info", env = "REWARDEN_LOG")]
    log: String,
    /// How logs are written
    #[arg(long, global = true, value_enum, default_value = "text", env = "REWARDEN_LOG_FORMAT")]
    log_format: Format,
    /// What plain `rewarden` serves
    #[command(flatten)]
    serve: serve::Serve,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves rewards over HTTP; what plain `rewarden` does.
    Serve(serve::Serve),
    /// Trains a reward model (LoRA and a scalar head) on preference pairs.
    Train(train::Train),
    /// Fits the Laplace posterior of an adapter to preference pairs.
    Fit(fit::Fit),
    /// Scores a file of items.
    Score(score::Score),
    /// Measures a reward model on preference pairs.
    #[command(subcommand)]
    Evaluate(evaluate::Evaluate),
    /// Compares scores with reference numbers.
    Verify(verify::Verify),
    /// Prints the OpenAPI document of the service.
    Openapi,
}

impl Cli {
    /// Runs the command; without one, the server.
    pub fn run(self) -> Result<()> {
        telemetry::init(self.log_format, &self.log)?;
        match self.command {
            Some(Command::Serve(serve)) => serve.run(),
            Some(Command::Train(train)) => train.run(),
            Some(Command::Fit(fit)) => fit.run(),
            Some(Command::Score(score)) => score.run(),
            Some(Command::Evaluate(evaluate)) => evaluate.run(),
            Some(Command::Verify(verify)) => verify.run(),
            Some(Command::Openapi) => openapi(),
            None => self.serve.run(),
        }
    }
}

fn openapi() -> Result<()> {
    let document = http::openapi().to_pretty_json().map_err(|e| Error::Usage(e.to_string()))?;
    println!("{document}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_has_its_environment_twin() {
        fn check(command: &clap::Command) {
            for flag in
                command.get_arguments().filter(|arg| !["help", "version"].contains(&arg.get_id().as_str()))
            {
                let twin = flag.get_env().and_then(|name| name.to_str());
                let name = flag.get_id().as_str().to_uppercase();
                let want =
                    if name == "PORT" { "REWARDEN_HTTP_PORT".into() } else { format!("REWARDEN_{name}") };
                assert_eq!(twin, Some(want.as_str()), "{}", command.get_name());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }
}

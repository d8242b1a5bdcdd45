//! The command line: one subcommand per file, every flag with an environment twin `REWARDEN_…`.
//!
//! Results go to standard output or `--output`, logs and progress to standard error. A command that fails exits with 1 and
//! one message that names the file, line or field. Without a command the server runs, with the flags that are given.

use crate::{
    Error, Result, http,
    telemetry::{self, Format},
    text::apart,
};
use clap::{Parser, Subcommand};
use std::ffi::OsString;

mod access;
pub mod bench;
pub mod calibrate;
mod constructed;
pub mod device;
mod evaluate;
pub mod fit;
mod held_out;
pub mod inspect;
pub mod model;
pub mod output;
pub mod pairs;
mod penalty;
pub mod place;
mod progress;
pub mod render;
pub mod score;
pub mod scoring;
pub mod serve;
mod stop;
pub mod train;
pub mod verify;

/// Flags with a value that may stand before the command.
const GLOBAL: [&str; 2] = ["--log", "--log-format"];

/// Scores answers of language models with a Bayesian reward model: every reward comes with its variance.
#[derive(Debug, Parser)]
#[command(name = "rewarden", version, about, max_term_width = 100)]
#[command(after_help = "Without a command: `rewarden serve`, whose flags may be given as they are.")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Level of the logs, or a list like `info,rewarden=debug`
    #[arg(long, global = true, default_value = "info", env = "REWARDEN_LOG")]
    log: String,
    /// How logs are written
    #[arg(long, global = true, value_enum, default_value = "text", env = "REWARDEN_LOG_FORMAT")]
    log_format: Format,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves rewards over HTTP; what plain `rewarden` does
    Serve(serve::Serve),
    /// Trains a reward model (LoRA and a scalar head) on preference pairs
    Train(train::Train),
    /// Fits the Laplace posterior of an adapter to preference pairs
    Fit(fit::Fit),
    /// Measures held-out pairs for a posterior that is already fitted: novelty, penalties, the default rule, error rates
    ///
    /// `fit --held-out` does the same for the posterior that it fits. The pairs of `--data` must be neither trained nor fitted on, or the
    /// answers would look more certain than they are. Curvature and prior stay as they are.
    Calibrate(calibrate::Calibrate),
    /// Scores a file of items
    Score(score::Score),
    /// Measures a reward model on preference pairs
    #[command(subcommand)]
    Evaluate(evaluate::Evaluate),
    /// Measures speed and memory of a model on this machine
    Bench(bench::Bench),
    /// Compares scores with reference numbers
    Verify(verify::Verify),
    /// Shows what a model sees of items: the templated text, its tokens, and the one whose hidden state is read
    Render(render::Render),
    /// Says what a checkpoint, an adapter or a posterior is, whether they fit each other, and what they cost
    Inspect(inspect::Inspect),
    /// Prints the OpenAPI document of the service
    Openapi,
    /// Renders a chat template for a service, in a process of its own
    #[command(name = apart::COMMAND, hide = true)]
    RenderTemplate,
}

impl Cli {
    /// Reads the command line, the program's name first; what is wrong ends the program with a message.
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Self {
        Self::parse_from(with_command(arguments.into_iter().collect()))
    }

    /// Runs the command.
    pub fn run(self) -> Result<()> {
        let _telemetry = telemetry::init(self.log_format, &self.log)?;
        match self.command {
            Command::Serve(serve) => serve.run(),
            Command::Train(train) => train.run(),
            Command::Fit(fit) => fit.run(),
            Command::Calibrate(calibrate) => calibrate.run(),
            Command::Score(score) => score.run(),
            Command::Evaluate(evaluate) => evaluate.run(),
            Command::Bench(bench) => bench.run(),
            Command::Verify(verify) => verify.run(),
            Command::Render(render) => render.run(),
            Command::Inspect(inspect) => inspect.run(),
            Command::Openapi => openapi(),
            Command::RenderTemplate => apart::serve().map_err(Error::io("<stdin>")),
        }
    }
}

/// Puts `serve` where no command is named. Done before parsing, so that the server's flags, and their environment, are
/// read only when it is to run.
fn with_command(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let mut rest = arguments.iter().skip(1).map(|argument| argument.to_string_lossy());
    let first = loop {
        match rest.next() {
            Some(text) if GLOBAL.contains(&&*text) => drop(rest.next()),
            Some(text) if text.split_once('=').is_some_and(|(flag, _)| GLOBAL.contains(&flag)) => {}
            first => break first,
        }
    };
    let own = ["-h", "--help", "-V", "--version"];
    let named = first.is_some_and(|text| own.contains(&&*text) || !text.starts_with('-'));
    if !named && !arguments.is_empty() {
        arguments.insert(1, "serve".into());
    }
    arguments
}

fn openapi() -> Result<()> {
    let document = http::openapi().to_pretty_json().map_err(|e| Error::Usage(e.to_string()))?;
    output::write_stdout(&format!("{document}\n"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_flags_of_every_command_are_known() {
        let command = Cli::command();
        let flags = command.get_arguments().filter_map(|flag| flag.get_long());
        assert!(flags.map(|name| format!("--{name}")).eq(GLOBAL));
    }

    #[test]
    fn without_a_command_the_server_runs() {
        let table = [
            ("", "serve"),
            ("--log debug", "serve --log debug"),
            ("--port 0", "serve --port 0"),
            ("--log debug --port 0", "serve --log debug --port 0"),
            ("--log=debug --port 0", "serve --log=debug --port 0"),
            ("--port 0 --help", "serve --port 0 --help"),
            ("--log debug serve", "--log debug serve"),
            ("--log=debug --log-format json verify", "--log=debug --log-format json verify"),
            ("--log serve", "serve --log serve"),
            ("openapi --log debug", "openapi --log debug"),
            ("--help", "--help"),
            ("-V", "-V"),
            ("help score", "help score"),
            ("nonsense", "nonsense"),
        ];
        for (given, want) in table {
            let words = |text: &str| -> Vec<OsString> {
                ["rewarden"].into_iter().chain(text.split_whitespace()).map(OsString::from).collect()
            };
            assert_eq!(with_command(words(given)), words(want), "{given}");
        }
        assert!(with_command(Vec::new()).is_empty());
    }

    #[test]
    fn the_log_level_stands_before_or_after_the_command() {
        for line in ["--log debug serve", "serve --log debug", "--log debug", "--log debug --port 0"] {
            let words = ["rewarden"].into_iter().chain(line.split(' ')).map(OsString::from).collect();
            let cli = Cli::try_parse_from(with_command(words)).unwrap();
            assert_eq!(cli.log, "debug", "{line}");
            assert!(matches!(cli.command, Command::Serve(_)), "{line}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_has_its_environment_twin() {
        fn check(command: &clap::Command) {
            let flag = |arg: &&clap::Arg| {
                !arg.is_positional() && !["help", "version"].contains(&arg.get_id().as_str())
            };
            for flag in command.get_arguments().filter(flag) {
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

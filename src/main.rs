use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    match rewarden::cli::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

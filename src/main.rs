//! The program: one command line, one command, one message if it fails.

use std::{
    io::{self, Write},
    process::ExitCode,
};

fn main() -> ExitCode {
    match rewarden::cli::Cli::read(std::env::args_os()).run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            // Where nobody listens to standard error, the exit code must do.
            let _ = writeln!(io::stderr(), "error: {e}");
            ExitCode::FAILURE
        }
    }
}

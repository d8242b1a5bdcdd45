//! The program: one command line, one command, one message if it fails.

use std::{
    ffi::c_char,
    io::{self, Write},
    process::ExitCode,
};

#[cfg(not(target_env = "msvc"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

// SAFETY: the allocator reads a pointer to a C string under this name before `main`, and nothing else has the name.
#[cfg(not(target_env = "msvc"))]
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static MALLOC_CONF: Option<&c_char> =
    // SAFETY: the settings are not empty and live as long as the program.
    Some(unsafe { &*rewarden::allocator::SETTINGS.as_ptr() });

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

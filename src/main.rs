//! The program: one command line, one command, one message if it fails.

use std::{
    ffi::c_char,
    io::{self, Write},
    process::ExitCode,
};

/// Keeps what a pass frees for the next one: activations of megabytes come and go with every layer, and pages that are
/// returned to the system have to be zeroed again.
#[cfg(not(target_env = "msvc"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Huge pages where the system has them; one arena, so that what loading frees serves the activations; and five seconds until
/// what is freed goes back: passes of other sizes leave runs that the next cannot use, which would add up.
// SAFETY: the allocator reads a pointer to a C string under this name before `main`, and nothing else has the name.
#[cfg(not(target_env = "msvc"))]
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static MALLOC_CONF: Option<&c_char> =
    // SAFETY: the literal is not empty and lives as long as the program.
    Some(unsafe { &*c"thp:always,narenas:1,oversize_threshold:0,dirty_decay_ms:5000".as_ptr() });

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

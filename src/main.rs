//! The program: one command line, one command, one message if it fails.

use std::{
    ffi::c_char,
    io::{self, Write},
    process::ExitCode,
};

/// Keeps what a pass frees for the next: activations of megabytes come and go with every layer, and an allocator that
/// returns them to the system pays for each page again.
#[cfg(not(target_env = "msvc"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Large allocations share the arenas of small ones, and what is freed stays for ten seconds.
// SAFETY: the allocator reads a pointer to a C string under this name before `main`, and nothing else has the name.
#[cfg(not(target_env = "msvc"))]
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static MALLOC_CONF: Option<&c_char> =
    // SAFETY: the literal is not empty and lives as long as the program.
    Some(unsafe { &*c"narenas:4,oversize_threshold:0,dirty_decay_ms:10000,muzzy_decay_ms:0".as_ptr() });

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

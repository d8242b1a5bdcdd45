//! Results on standard output.

use std::io::{self, Write};

use crate::{Error, Result};

/// Writes `text` to standard output, to its end; a reader that has gone is an error, where `println!` would panic.
pub fn write_stdout(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Error::io("<stdout>"))
}

//! A clean stop of long work: Ctrl-C and a polite kill set a flag, and what is under way saves its state.

use std::sync::atomic::{AtomicBool, Ordering};

static STOP: AtomicBool = AtomicBool::new(false);

/// The flag, with the handler that sets it.
pub fn flag() -> &'static AtomicBool {
    // A second handler cannot be set where the program is embedded; the first keeps working.
    ctrlc::set_handler(|| STOP.store(true, Ordering::Relaxed)).ok();
    &STOP
}

//! How the program's allocator is set: what a pass frees serves the next one.
//!
//! Activations of megabytes come and go with every layer, and pages that go back to the system have to be zeroed again. Huge
//! pages where the system has them; one arena, so that what loading frees serves the activations; and five seconds
//! until what is freed goes back: passes of other sizes leave runs that the next cannot use, which would add up.

use std::ffi::CStr;

/// Settings of jemalloc, which reads them before `main`.
pub const SETTINGS: &CStr = c"thp:always,narenas:1,oversize_threshold:0,dirty_decay_ms:5000";

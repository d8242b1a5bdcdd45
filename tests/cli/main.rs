//! The program itself, as its users run it: on tiny models made by the reference.

mod helpers;
mod malformed;
mod pipeline;

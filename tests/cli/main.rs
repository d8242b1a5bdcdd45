//! The program itself, as its users run it: on tiny models made by the reference.

mod bench;
mod compute;
mod cross_encoder;
mod data;
mod evaluate;
mod helpers;
mod hostile;
mod hub;
mod inspect;
mod interrupted;
mod malformed;
#[cfg(feature = "otlp")]
mod otlp;
mod pipeline;
mod selection;
mod serve;

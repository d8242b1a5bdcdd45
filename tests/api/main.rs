//! The service as its clients see it: booted whole on a free port, with a stand-in for the model.

mod access;
mod adapters;
mod admission;
mod attacks;
mod best_of_n;
mod compare;
mod connections;
mod dialects;
mod helpers;
mod idempotency;
mod load;
mod novelty;
mod ops;
mod page;
mod rewards;
mod stream;
mod tls;
mod tracing;

//! The service as its clients see it: booted whole on a free port, with a stand-in for the model.

mod connections;
mod helpers;
mod load;
mod novelty;
mod ops;
mod page;
mod rewards;

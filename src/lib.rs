//! Rewarden scores answers of language models with a Bayesian reward model: every reward comes with
//! its variance.
pub mod cli;
pub mod data;
pub mod engine;
pub mod error;
pub mod evaluate;
pub mod fit;
pub mod http;
pub mod item;
pub mod model;
pub mod nn;
pub mod posterior;
pub mod score;
pub mod telemetry;
pub mod text;
pub mod train;

pub use error::{Error, Result};

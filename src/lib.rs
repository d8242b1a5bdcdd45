//! Rewarden scores answers of language models with a Bayesian reward model: every reward comes with its variance.
//!
//! The way of a request, top to bottom:
//!
//! | module | what it holds |
//! |---|---|
//! | [`http`] | routes, errors and limits of the service |
//! | [`item`] | what can be scored: prompts and responses, conversations, text, tokens |
//! | [`text`] | chat template and tokenizer: an item becomes a [`text::TokenSeq`] |
//! | [`engine`] | the queue, the batches, and the thread that owns the models |
//! | [`score`] | a batch becomes means, variances and conservative scores |
//! | [`model`] | base, LoRA adapter and head; one forward, one backward, three sinks |
//! | [`nn`] | forward and backward of each layer, side by side |
//! | [`posterior`] | the Laplace posterior: its blocks, its file, its curvature, its evidence |
//!
//! And the ways to a model:
//!
//! | module | what it holds |
//! |---|---|
//! | [`hub`] | models on the Hugging Face hub, by name |
//! | [`gguf`] | what a GGUF file says, by its keys |
//! | [`data`] | preference pairs and items from files |
//! | [`train`] | LoRA training on pairs, with checkpoints |
//! | [`fit`] | the two passes that fit a posterior, with checkpoints |
//! | [`evaluate`] | measures of rewards, of their uncertainty, and of what is chosen by them |
//! | [`fidelity`] | each kind of posterior against the exact one |
//! | [`choices`] | each choice of prior, likelihood and temperature against held-out pairs |
//! | [`shift`] | items out of the distribution, made of given ones |
//! | [`plot`] | charts for reports, as SVG and PNG |
//! | [`mod@bench`] | speed, memory and limits of a model on a machine |
//! | [`cli`] | a subcommand per file |
//! | [`telemetry`] | logs, metrics and traces |
//! | [`digest`] | digests as text |
//! | [`files`] | files from elsewhere, bounded |
//! | [`stamp`] | whether a file is still what it was |
//! | [`allocator`] | settings of the program's allocator |
//!
//! Formulas and their sources are in `docs/maths.md`, files and commands in `docs/formats.md`.

pub mod allocator;
pub mod bench;
pub mod choices;
pub mod cli;
pub mod data;
pub mod digest;
pub mod engine;
pub mod error;
pub mod evaluate;
pub mod fidelity;
pub mod files;
pub mod fit;
pub mod gguf;
pub mod http;
pub mod hub;
pub mod item;
pub mod model;
pub mod nn;
pub mod plot;
pub mod posterior;
pub mod score;
pub mod shift;
pub mod stamp;
pub mod telemetry;
pub mod text;
pub mod train;

pub use error::{Error, Result};

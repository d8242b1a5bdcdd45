//! Measures a reward model on a machine: speed by length and batch, beside what the machine could do at best.
//!
//! | module | what is measured |
//! |---|---|
//! | [`grid`] | tokens/s of means and of means with variances, by length of the sequences and tokens of the batch |
//! | [`products`] | the frozen weights' matrix products of the same batch alone: the limit that `share` refers to |
//! | [`machine`] | the rates of the two floors: operations a second, bytes a second |
//! | [`budget`] | the smallest batch that is about as fast as the fastest |
//! | [`candidates`] | answers to one prompt, with the prompt computed once and with it computed for each |
//! | [`pools`] | the conservative best of the pools of a file, against the variances of all |
//! | [`rank`] | means with variances by rank of the update |
//! | [`memory`] | bytes of the weights, and the peak of the process in each cell |
//!
//! Token ids are random, from a seed; their values do not change what is computed. Every number is the median of a few runs
//! after one that is not counted ([`timer`]).

use crate::{Result, model::config::Config, score::Scorer};
use serde::Serialize;

pub mod budget;
pub mod candidates;
pub mod grid;
pub mod machine;
pub mod memory;
pub mod pools;
pub mod posterior;
pub mod products;
pub mod rank;
pub mod report;
pub mod sequences;
pub mod timer;

use budget::Budgets;
use candidates::Family;
use grid::{Cell, Grid};
use machine::Machine;
use pools::Pool;
use rank::Ranked;
use timer::Timer;

/// What is measured.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// Tokens of a sequence.
    pub lengths: Vec<usize>,
    /// Tokens of a batch.
    pub batch_tokens: Vec<usize>,
    /// Answers to one prompt.
    pub candidates: Vec<usize>,
    /// Tokens of that prompt.
    pub prompt_tokens: usize,
    /// Tokens of each answer.
    pub answer_tokens: usize,
    /// Ranks of the update.
    pub ranks: Vec<usize>,
    /// Seconds that each number may take.
    pub seconds: f64,
    /// Of the token ids and of the updates that are made.
    pub seed: u64,
}

/// A model, and what a report says of it.
#[derive(Debug)]
pub struct Subject {
    pub scorer: Scorer,
    /// Whether its forward is in eight bits.
    pub int8: bool,
    /// Whether its posterior is a stand-in.
    pub stand_in_posterior: bool,
}

/// The sizes of the model that was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Shape {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub vocab_size: usize,
}

/// Everything that was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub version: &'static str,
    pub plan: Plan,
    pub model: Shape,
    /// Whether the model's forward is in eight bits; the limits stay those of f32.
    pub int8: bool,
    /// Whether the variances are those of a stand-in posterior, of the same cost ([`posterior`]).
    pub stand_in_posterior: bool,
    pub machine: Machine,
    pub weights: memory::Weights,
    pub cells: Vec<Cell>,
    pub budgets: Budgets,
    pub candidates: Vec<Family>,
    pub pools: Vec<Pool>,
    pub ranks: Vec<Ranked>,
    /// Largest memory of the process in the cells, in bytes; absent where the system does not say.
    pub peak_bytes: Option<u64>,
}

/// Measures everything but the ranks, which need the base again.
pub fn measure(subject: &mut Subject, plan: &Plan) -> Result<Report> {
    let Subject { scorer, int8, stand_in_posterior } = subject;
    let config = scorer.model.config().clone();
    let timer = Timer::new(plan.seconds);
    tracing::info!("measuring the machine");
    let machine = Machine::measure(&timer)?;
    let mut grid = Grid::new(&config, timer, &machine, plan.seed);
    let cells = grid.measure(scorer, plan)?;
    drop(grid);
    let peaks = cells.iter().flat_map(|cell| [Some(&cell.mean), cell.variance.as_ref()]);
    let peak_bytes = peaks.flatten().filter_map(|side| side.peak_bytes).max();
    let candidates = candidates::measure(scorer, plan, &timer)?;
    Ok(Report {
        version: env!("CARGO_PKG_VERSION"),
        plan: plan.clone(),
        model: Shape::of(&config),
        int8: *int8,
        stand_in_posterior: *stand_in_posterior,
        machine,
        weights: memory::Weights::of(&config, *int8, scorer.posterior.is_some()),
        budgets: Budgets::of(&cells),
        cells,
        candidates,
        pools: Vec::new(),
        ranks: Vec::new(),
        peak_bytes,
    })
}

impl Shape {
    fn of(config: &Config) -> Self {
        Self {
            hidden_size: config.hidden_size,
            intermediate_size: config.intermediate_size,
            layers: config.layers,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            vocab_size: config.vocab_size,
        }
    }
}

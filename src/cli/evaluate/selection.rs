//! `rewarden evaluate selection`: which penalty picks the good answer, and at what cost.

use super::members::MemberArgs;
use crate::{
    Error, Result,
    cli::{
        model::{ModelArgs, Parts},
        pairs::{PairArgs, of_sources},
        scoring::ScoringArgs,
    },
    data::{
        Pair,
        pools::{holds_pools, read_pools},
        read_pairs,
    },
    evaluate::selection::{RulePairs, SelectionReport},
    posterior::Posterior,
    score::{
        Want,
        rule::{Calibration, PenaltyRule},
    },
};
use clap::builder::RangedU64ValueParser;
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

mod benchmark;
mod rules;

pub(in crate::cli) use benchmark::{Benchmark, Injection, Outcome};
pub(in crate::cli) use rules::candidates;

/// Flags of `rewarden evaluate selection`.
#[derive(Debug, clap::Args)]
pub struct Selection {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    members: MemberArgs,
    #[command(flatten)]
    pairs: PairArgs,
    /// Adds a bad answer of each of 11 kinds to every prompt with a good answer: refusal, unsure, empty, gibberish, shuffled, repeated,
    /// off topic, spam, flattery, another language, code
    #[arg(long, env = "REWARDEN_INJECT")]
    inject: bool,
    /// Adds no bad answers to prompts of this `source`, where a refusal may be the good answer; repeatable
    #[arg(long, value_name = "NAME", env = "REWARDEN_INJECT_EXCLUDE_SOURCE", value_delimiter = ',')]
    inject_exclude_source: Vec<String>,
    /// The first response of every pool is the good one
    #[arg(long, env = "REWARDEN_FIRST_IS_GOOD")]
    first_is_good: bool,
    /// Prompts of pairs that get injected answers, at most; drawn by --seed
    #[arg(long, value_name = "PROMPTS", value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    #[arg(default_value_t = 200, env = "REWARDEN_MAX_PROMPTS")]
    max_prompts: usize,
    /// Pairs on which accuracy is measured, at most; drawn by --seed
    #[arg(long, value_name = "PAIRS", value_parser = RangedU64ValueParser::<usize>::new().range(0..))]
    #[arg(default_value_t = 1000, env = "REWARDEN_MAX_PAIRS")]
    max_pairs: usize,
    /// Responses of each pool, at most
    #[arg(long, value_name = "RESPONSES", value_parser = RangedU64ValueParser::<usize>::new().range(2..))]
    #[arg(default_value_t = 1024, env = "REWARDEN_ANSWERS")]
    answers: usize,
    /// Rule to compare with the mean, as JSON like a request's `penalty`, such as {"kind":"contraction","k":8}; repeatable
    /// [default: every kind with several strengths]
    #[arg(long, value_name = "JSON", env = "REWARDEN_RULE", value_parser = rules::parse)]
    rule: Vec<PenaltyRule>,
    /// Seed of the draws and of the injected answers
    #[arg(long, default_value_t = 0, env = "REWARDEN_SEED")]
    seed: u64,
    #[command(flatten)]
    scoring: ScoringArgs,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    /// The rule that the choice half recommends, of those that single rewards can have.
    recommended: Option<PenaltyRule>,
    selection: &'a SelectionReport<PenaltyRule, &'static str>,
    /// Accuracy on the pairs themselves.
    pairs: &'a [RulePairs<PenaltyRule>],
    /// Answers and pairs that were left out because they are too long.
    too_long: usize,
    /// Rules that the model's posterior has no numbers for.
    left_out: &'a [PenaltyRule],
}

impl Selection {
    pub fn run(self) -> Result<()> {
        let want = Want::MeanAndVariance;
        self.scoring.check(want)?;
        let parts = self.model.parts()?;
        self.members.check(&parts)?;
        let stored = match self.members.is_alone() {
            true => calibration(&parts)?,
            false => Calibration::default(),
        };
        let benchmark = self.benchmark(&parts)?;
        let model = self.members.open(parts, &self.model, want, &self.scoring)?;
        let given = if self.rule.is_empty() { candidates() } else { self.rule.clone() };
        let outcome = benchmark.run(model.as_ref(), &stored, given)?;
        super::print(&Report {
            recommended: outcome.recommended(|rule| !rule.relative),
            selection: &outcome.selection,
            pairs: &outcome.pairs,
            too_long: benchmark.too_long,
            left_out: &outcome.left_out,
        })
    }

    /// Reads every file: pairs with the injected answers of some prompts, and pools.
    fn benchmark(&self, parts: &Parts) -> Result<Benchmark> {
        let reader = parts.base.reader();
        let (mut pairs, mut benchmark) = (Vec::new(), Benchmark::default());
        for path in &self.pairs.data {
            if !holds_pools(path)? {
                pairs.extend(read_pairs(path)?);
                continue;
            }
            let pools = read_pools(path)?;
            if let Some((line, _)) = pools.iter().find(|(_, pool)| pool.gold.is_none() && !self.first_is_good)
            {
                let message = "gold: missing (hint: `--first-is-good` if the first response is the good one)";
                return Err(crate::data::lines::at_line(path, *line, message));
            }
            let pools = pools.into_iter().map(|(_, pool)| pool).collect();
            benchmark.add_pools(
                pools,
                self.answers,
                self.first_is_good,
                self.injection(),
                &self.pairs,
                &reader,
            )?;
        }
        pairs.retain(|pair| !of_sources(pair, &self.pairs.exclude_source));
        pairs.shuffle(&mut ChaCha8Rng::seed_from_u64(self.seed));
        if let Some(injection) = self.injection() {
            let allowed = |pair: &&Pair| !of_sources(pair, &self.inject_exclude_source);
            let prompts: Vec<&Pair> = pairs.iter().filter(allowed).collect();
            benchmark.add_prompts(&prompts, self.max_prompts, injection, &self.pairs, &reader)?;
        }
        pairs.truncate(self.max_pairs);
        benchmark.add_pairs(&self.pairs.encode(pairs, &reader)?);
        match benchmark.is_empty() {
            true => Err(Error::Usage("--data: no pair or pool is left to judge by".into())),
            false => Ok(benchmark),
        }
    }

    fn injection(&self) -> Option<Injection> {
        self.inject.then_some(Injection { seed: self.seed })
    }
}

/// The numbers that penalties read of the posterior in the adapter's folder.
fn calibration(parts: &Parts) -> Result<Calibration> {
    let Some(path) = parts.posterior_path() else { return Ok(Calibration::default()) };
    Ok(Posterior::load(&path)?.calibration())
}

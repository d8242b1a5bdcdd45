//! Measures of pairs that a posterior was not fitted to, stored with the posterior.

use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use crate::{
    Result,
    cli::{
        evaluate::selection::{Benchmark, Injection, Outcome, candidates},
        model::Opened,
        pairs::{Encoded, PairArgs, of_sources},
        progress::{Progress, Unit},
    },
    data::Pair,
    evaluate::{pairs::mackay, verdicts::Verdict},
    model::RewardModel,
    nn::pack::Packed,
    posterior::{
        FitConfig, Form, Posterior,
        config::{HeldOut, Quantiles},
    },
    score::{Embed, Embedding, Estimate, Scorer, Sharing, penalty::Kind, rule::PenaltyRule, with_variances},
    text::TokenSeq,
    train::{Example, by_tokens},
};

/// Probabilities of the quantiles that are kept.
const PROBABILITIES: [f64; 13] = [0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99];

/// The measures that are stored with the posterior.
pub struct Measured {
    pub quantiles: Quantiles,
    pub held_out: HeldOut,
    /// Measures of every rule on the held-out prompts and pairs; `None` where no rule was to be chosen.
    pub considered: Option<Outcome>,
}

/// A pair's two rewards and their difference, chosen - rejected.
struct Seen {
    sides: [Estimate; 2],
    difference: Estimate,
}

impl Seen {
    fn of(chosen: &Embedding, rejected: &Embedding) -> Self {
        let difference = Estimate {
            mean: chosen.mean - rejected.mean,
            variance: Some(chosen.difference_variance(rejected)),
            contraction: chosen.difference_contraction(rejected),
        };
        Self { sides: [chosen.estimate(), rejected.estimate()], difference }
    }
}

/// Settings for the choice of the default rule.
#[derive(Debug, Clone, clap::Args)]
pub struct RuleArgs {
    /// Held-out prompts whose chosen answers compete with injected bad ones, to choose the rule that `serve` applies by default, by
    /// those of the choice half; 0 stores no rule
    #[arg(long, default_value_t = 100, value_name = "PROMPTS", env = "REWARDEN_RULE_PROMPTS")]
    rule_prompts: u16,
    /// Adds no bad answers to held-out prompts of this `source`, where a refusal may be the good answer; repeatable
    #[arg(long, value_name = "NAME", env = "REWARDEN_RULE_EXCLUDE_SOURCE", value_delimiter = ',')]
    rule_exclude_source: Vec<String>,
}

/// Settings for scoring the pairs.
#[derive(Debug, Clone, Copy)]
pub struct Scoring {
    /// Most tokens in one forward and backward.
    pub budget: usize,
    /// Seed of the injected answers.
    pub seed: u64,
}

impl RuleArgs {
    /// Measures held-out pairs under a posterior, and chooses the rule that they recommend.
    pub fn measure(
        &self,
        opened: &Opened,
        posterior: &Posterior,
        pairs: &Encoded,
        args: &PairArgs,
        scoring: Scoring,
    ) -> Result<Measured> {
        let seen = seen(&opened.model, posterior, &pairs.examples, scoring.budget)?;
        let mut measured =
            Measured { quantiles: quantiles(&seen), held_out: held_out(&seen), considered: None };
        if self.rule_prompts > 0 {
            let allowed = |pair: &&Pair| !of_sources(pair, &self.rule_exclude_source);
            let mut prompts: Vec<&Pair> = pairs.pairs.iter().filter(allowed).collect();
            if prompts.len() > self.rule_prompts.into() {
                prompts.shuffle(&mut ChaCha8Rng::seed_from_u64(scoring.seed));
            }
            let (injection, reader) = (Injection { seed: scoring.seed }, opened.base.reader());
            let mut benchmark = Benchmark::default();
            benchmark.add_prompts(&prompts, self.rule_prompts.into(), injection, args, &reader)?;
            benchmark.add_known(pairs.pairs.iter().zip(seen.iter().map(|seen| seen.sides)));
            recommend(&mut measured, &opened.model, posterior, &benchmark)?;
        }
        Ok(measured)
    }
}

/// Scores the pairs with their variances, at most `budget` tokens at a time.
fn seen(model: &RewardModel, posterior: &Posterior, pairs: &[Example], budget: usize) -> Result<Vec<Seen>> {
    let tokens = pairs.iter().map(|e| e.chosen.ids.len() + e.rejected.ids.len()).sum();
    let mut progress = Progress::new(Unit::Tokens, 0, tokens);
    let seen = match &posterior.form {
        Form::Sketch(_) => by_vectors(model, posterior, pairs, budget, &mut progress)?,
        Form::Blocks(_) => by_backwards(model, posterior, pairs, budget, &mut progress)?,
    };
    progress.finish();
    Ok(seen)
}

/// Chooses the rule for conservative scores, and the strength of the contraction penalty, as `evaluate selection` does: by half of the
/// prompts, among rules that single rewards can have.
fn recommend(
    measured: &mut Measured,
    model: &RewardModel,
    posterior: &Posterior,
    benchmark: &Benchmark,
) -> Result<()> {
    let Measured { quantiles, held_out, considered } = measured;
    let config = FitConfig {
        quantiles: Some(quantiles.clone()),
        held_out: Some(held_out.clone()),
        ..FitConfig::default()
    };
    let scorer = Scorer::new(model.clone(), Some(posterior.clone()), Sharing::Shared);
    let rules = candidates().into_iter().filter(|rule| !rule.relative).collect();
    let outcome = benchmark.run(&scorer, &config.calibration(), rules)?;
    held_out.penalty = outcome.recommended(|rule| !rule.relative);
    let by_contraction = |rule: &PenaltyRule| rule.kind == Kind::Contraction && rule.above.is_none();
    // Where every strength harms the pairs, the weakest is the default of the kind.
    held_out.k = outcome.recommended(by_contraction).and_then(|rule| rule.k).or(Some(1.0));
    *considered = Some(outcome);
    Ok(())
}

/// Of a sketch, whose vectors have rewards and differences exactly, by one backward.
fn by_vectors(
    model: &RewardModel,
    posterior: &Posterior,
    pairs: &[Example],
    budget: usize,
    progress: &mut Progress,
) -> Result<Vec<Seen>> {
    let scorer = Scorer::new(model.clone(), Some(posterior.clone()), Sharing::Shared);
    let mut seen = Vec::with_capacity(pairs.len());
    // No vector outlives its batch.
    for batch in by_tokens(&pairs.iter().collect::<Vec<_>>(), budget) {
        let sides: Vec<&TokenSeq> = batch.iter().flat_map(|e| [&e.chosen, &e.rejected]).collect();
        let embedded = scorer.embed(&sides)?;
        seen.extend(embedded.chunks_exact(2).map(|pair| Seen::of(&pair[0], &pair[1])));
        progress.add(sides.iter().map(|side| side.ids.len()).sum());
    }
    Ok(in_order(pairs, seen))
}

/// Of separate blocks, by a backward for the rewards and one for the differences.
fn by_backwards(
    model: &RewardModel,
    posterior: &Posterior,
    pairs: &[Example],
    budget: usize,
    progress: &mut Progress,
) -> Result<Vec<Seen>> {
    let mut seen = Vec::with_capacity(pairs.len());
    for batch in by_tokens(&pairs.iter().collect::<Vec<_>>(), budget) {
        let alone = Packed::sequences(batch.iter().flat_map(|e| [&e.chosen, &e.rejected]));
        let singles = with_variances(model, posterior, &alone, 1)?.1;
        let together = Packed::pairs(batch.iter().map(|e| (&e.chosen, &e.rejected)));
        let differences = with_variances(model, posterior, &together, 2)?.1;
        let both = singles.chunks_exact(2).zip(differences);
        seen.extend(both.map(|(sides, difference)| Seen { sides: [sides[0], sides[1]], difference }));
        progress.add(alone.tokens());
    }
    Ok(in_order(pairs, seen))
}

/// What was seen of pairs by [`by_tokens`], which takes the shortest first, in the order of the pairs.
fn in_order(pairs: &[Example], seen: Vec<Seen>) -> Vec<Seen> {
    let mut order: Vec<usize> = (0..pairs.len()).collect();
    order.sort_by_key(|at| pairs[*at].tokens());
    let mut placed: Vec<(usize, Seen)> = order.into_iter().zip(seen).collect();
    placed.sort_by_key(|(at, _)| *at);
    placed.into_iter().map(|(_, seen)| seen).collect()
}

fn quantiles(seen: &[Seen]) -> Quantiles {
    let singles = || seen.iter().flat_map(|seen| &seen.sides);
    let differences = || seen.iter().map(|seen| &seen.difference);
    Quantiles {
        single: quantiles_of(singles().filter_map(|e| e.variance).collect()),
        difference: quantiles_of(differences().filter_map(|e| e.variance).collect()),
        contraction_single: quantiles_of(singles().filter_map(|e| e.contraction).collect()),
        contraction_difference: quantiles_of(differences().filter_map(|e| e.contraction).collect()),
    }
}

fn held_out(seen: &[Seen]) -> HeldOut {
    let squares: f64 = seen.iter().map(|seen| seen.difference.mean.powi(2)).sum();
    let rewards = seen.iter().flat_map(|seen| &seen.sides).map(|e| e.mean).collect();
    let verdict = |seen: &Seen| {
        let Estimate { mean, variance, contraction } = seen.difference;
        Verdict::new(mackay(mean, variance.unwrap_or_default()), contraction)
    };
    HeldOut {
        pairs: seen.len(),
        spread: (!seen.is_empty()).then(|| (squares / (2 * seen.len()) as f64).sqrt()),
        baseline: quantile(rewards, HeldOut::BASELINE),
        verdicts: seen.iter().map(verdict).collect(),
        ..HeldOut::default()
    }
}

/// Quantiles as (probability, value) of values that need no order.
fn quantiles_of(values: Vec<f64>) -> Vec<(f64, f64)> {
    let kept = |p: &f64| Some((*p, quantile(values.clone(), *p)?));
    PROBABILITIES.iter().filter_map(kept).collect()
}

/// The value nearest to a probability; `None` without values.
fn quantile(mut values: Vec<f64>, probability: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1) as f64;
    values.get((probability * last).round() as usize).copied()
}

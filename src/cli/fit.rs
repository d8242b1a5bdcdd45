//! `rewarden fit`: the Laplace posterior of an adapter, from preference pairs.

use super::{
    model::{ModelArgs, Opened},
    pairs::PairArgs,
    stop,
    train::SUMMARY,
};
use crate::{
    Error, Result,
    data::read_pairs,
    fit::{self, Fitted, Options, checkpoint::Store},
    model::adapter::Adapter,
    nn::pack::Packed,
    posterior::{
        FitConfig, Prior,
        config::{Base, Quantiles},
        fit::{CurvatureKind, Rank},
    },
    score::with_variances,
    train::{Example, by_tokens},
};
use candle_core::Tensor;
use indicatif::{ProgressBar, ProgressStyle};
use rand::{SeedableRng, seq::SliceRandom};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

/// Name of the posterior in the adapter's folder.
pub const POSTERIOR: &str = "posterior.safetensors";

/// Probabilities of the quantiles that are kept.
const PROBABILITIES: [f64; 9] = [0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99];

#[derive(Debug, clap::Args)]
pub struct Fit {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    pairs: PairArgs,
    /// The posterior's file [default: posterior.safetensors in the adapter's folder]
    #[arg(long, value_name = "FILE", env = "REWARDEN_OUTPUT")]
    output: Option<PathBuf>,
    /// How the eigenvalues are found: `ekfac` from every pair's own gradient, `kfac` from the factors alone
    #[arg(long, default_value = "ekfac", env = "REWARDEN_CURVATURE")]
    curvature: CurvatureKind,
    /// Directions kept of each block's longer side, the rest as tails: a number, or `full`
    #[arg(long, default_value_t = Rank::default(), env = "REWARDEN_RANK")]
    rank: Rank,
    /// `evidence` (one per kind of block), a number, or `A=..,B=..,head=..`
    #[arg(long, default_value_t = Prior::Evidence, env = "REWARDEN_PRIOR_PRECISION")]
    prior_precision: Prior,
    /// Fits to this many pairs, drawn by `--seed`
    #[arg(long, value_name = "PAIRS", env = "REWARDEN_MAX_PAIRS")]
    max_pairs: Option<usize>,
    /// Pairs whose variances are kept as quantiles, to tell how unusual one is
    #[arg(long, value_name = "FILE", env = "REWARDEN_HELD_OUT")]
    held_out: Option<PathBuf>,
    /// Most tokens in one forward and backward
    #[arg(long, default_value_t = 2048, env = "REWARDEN_BATCH_TOKENS")]
    batch_tokens: usize,
    /// Goes on from the checkpoint beside the output, to the posterior that it would have had without the interruption
    #[arg(long, env = "REWARDEN_RESUME")]
    resume: bool,
    /// Seconds between checkpoints
    #[arg(long, default_value_t = 300, value_name = "SECONDS", env = "REWARDEN_CHECKPOINT_SECONDS")]
    checkpoint_seconds: u64,
    /// Seed of `--max-pairs`
    #[arg(long, default_value_t = 0, env = "REWARDEN_SEED")]
    seed: u64,
}

impl Fit {
    pub fn run(self) -> Result<()> {
        let opened = self.model.open()?;
        let (Some(adapter), Some(folder)) = (&opened.adapter, &opened.folder) else {
            return Err(Error::Usage("--adapter: needed, the posterior is over an adapter's weights".into()));
        };
        let output = self.output.clone().unwrap_or_else(|| folder.join(POSTERIOR));
        let mut pairs = self.pairs.read()?;
        if let Some(count) = self.max_pairs {
            pairs.shuffle(&mut rand_chacha::ChaCha8Rng::seed_from_u64(self.seed));
            pairs.truncate(count);
        }
        let encoded = self.pairs.encode(pairs, &opened.base)?;
        eprintln!("fitting to {} pairs ({} too long, left out)", encoded.examples.len(), encoded.skipped);
        let options = Options {
            curvature: self.curvature,
            rank: self.rank,
            prior: self.prior_precision,
            batch_tokens: self.batch_tokens,
        };
        let store = Store::new(&output, self.fingerprint(&opened, adapter, &options, &encoded.examples)?);
        if store.exists() && !self.resume {
            let hint = "hint: `--resume` goes on with it; remove its `.pass1` file to start afresh";
            return Err(Error::file(&output, format!("belongs to an unfinished fit ({hint})")));
        }
        let fit = fit::Fit {
            model: &opened.model,
            examples: &encoded.examples,
            mean: &initial_means(folder, adapter, &opened)?,
            options,
            checkpoints: Some((store, Duration::from_secs(self.checkpoint_seconds))),
            stop: stop::flag(),
        };
        let bar = bar(fit.tokens());
        let Some(mut fitted) = fit.run(&mut |tokens| bar.inc(tokens as u64))? else {
            eprintln!("stopped (hint: go on with `--resume`)");
            return Ok(());
        };
        bar.finish();
        for kind in &fitted.evidence.at_bound {
            tracing::warn!("the evidence holds the prior precision of {kind} at its bound");
        }
        let quantiles = self.quantiles(&opened, &fitted)?;
        let config = self.config(&opened, adapter, &fitted, encoded.examples.len(), quantiles)?;
        let report = report(&config, &fitted)?;
        fitted.posterior.config = Some(config);
        fitted.posterior.save(&output)?;
        Store::new(&output, String::new()).finish()?;
        println!("{report:#}");
        Ok(())
    }

    /// What must be the same for a checkpoint to be gone on with.
    fn fingerprint(
        &self,
        opened: &Opened,
        adapter: &Adapter,
        options: &Options,
        examples: &[Example],
    ) -> Result<String> {
        let start =
            format!("{} {:?} {} {options:?}", opened.base.name, opened.base.config, adapter.sha256()?);
        Ok(super::train::fingerprint(&start, examples))
    }

    fn config(
        &self,
        opened: &Opened,
        adapter: &Adapter,
        fitted: &Fitted,
        pairs: usize,
        quantiles: Option<Quantiles>,
    ) -> Result<FitConfig> {
        let (evidence, shape) = (&fitted.evidence, &opened.base.config);
        Ok(FitConfig {
            curvature: Some(self.curvature),
            rank: Some(self.rank),
            pairs: Some(pairs),
            log_likelihood: Some(fitted.log_likelihood),
            evidence: Some(evidence.log_evidence),
            effective_parameters: Some(evidence.effective_parameters.values().sum()),
            effective_parameters_by_kind: evidence.effective_parameters.clone(),
            prior_precision: evidence.prior_precision.clone(),
            adapter_sha256: Some(adapter.sha256()?),
            template_sha256: opened.base.encoder.template_sha256(),
            base: Some(Base {
                name: opened.base.name.clone(),
                layers: shape.layers,
                hidden_size: shape.hidden_size,
                vocabulary: shape.vocab_size,
            }),
            quantiles,
            left_out: Vec::new(),
            version: Some(env!("CARGO_PKG_VERSION").into()),
        })
    }

    fn quantiles(&self, opened: &Opened, fitted: &Fitted) -> Result<Option<Quantiles>> {
        let Some(path) = &self.held_out else { return Ok(None) };
        let examples = self.pairs.encode(read_pairs(path)?, &opened.base)?.examples;
        let all: Vec<&Example> = examples.iter().collect();
        let (mut single, mut difference) = (Vec::new(), Vec::new());
        for batch in by_tokens(&all, self.batch_tokens) {
            let alone = Packed::sequences(batch.iter().flat_map(|e| [&e.chosen, &e.rejected]));
            single.extend(with_variances(&opened.model, &fitted.posterior, &alone, 1)?.1);
            let pairs = Packed::pairs(batch.iter().map(|e| (&e.chosen, &e.rejected)));
            difference.extend(with_variances(&opened.model, &fitted.posterior, &pairs, 2)?.1);
        }
        Ok(Some(Quantiles { single: quantiles_of(single), difference: quantiles_of(difference) }))
    }
}

/// Where A started, if `train` made this adapter: the centre of its prior.
fn initial_means(folder: &Path, adapter: &Adapter, opened: &Opened) -> Result<BTreeMap<String, Tensor>> {
    let path = folder.join(SUMMARY);
    let Ok(text) = std::fs::read(&path) else { return Ok(BTreeMap::new()) };
    let summary: Value = serde_json::from_slice(&text).map_err(|e| Error::file(&path, e))?;
    let seed = summary["seed"].as_u64().ok_or_else(|| Error::file(&path, "seed: expected a whole number"))?;
    let mut blocks = Adapter::init(adapter.spec.clone(), &opened.base.config, seed)?.blocks();
    blocks.retain(|name, _| name.ends_with(".lora_A"));
    Ok(blocks)
}

fn report(config: &FitConfig, fitted: &Fitted) -> Result<Value> {
    let mut report = serde_json::to_value(config).map_err(|e| Error::Usage(e.to_string()))?;
    report["trace"] = json!(fitted.traces.values().sum::<f64>());
    report["blocks"] = json!(fitted.traces.len());
    Ok(report)
}

fn quantiles_of(mut values: Vec<f64>) -> Vec<(f64, f64)> {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1) as f64;
    PROBABILITIES.iter().filter_map(|p| Some((*p, *values.get((p * last).round() as usize)?))).collect()
}

/// Progress in tokens of both passes, on stderr where that is a terminal.
fn bar(tokens: usize) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{bar:30} {human_pos}/{human_len} tokens, {per_sec}, {eta} left");
    ProgressBar::new(tokens as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

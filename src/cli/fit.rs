//! `rewarden fit`: the Laplace posterior of an adapter, from preference pairs.

use super::{
    constructed::ConstructedArgs,
    held_out::{Measured, RuleArgs, Scoring},
    model::{ModelArgs, Opened},
    output::write_stdout,
    pairs::{Encoded, PairArgs},
    progress::{Progress, Unit},
    stop,
    train::{identity, summary},
};
use crate::{
    Error, Result,
    data::read_pairs,
    fit::{self, Fitted, Options, Size, Tokens, checkpoint::Store},
    hub,
    model::{adapter::Adapter, forward, head::Outputs},
    posterior::{
        FitConfig, Prior,
        config::{Base, HeldOut, Quantiles},
        fit::{CurvatureKind, Rank},
        store,
    },
};
use candle_core::Tensor;
use rand::{SeedableRng, seq::SliceRandom};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

/// The flags of `rewarden fit`.
#[derive(Debug, clap::Args)]
pub struct Fit {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    pairs: PairArgs,
    /// The posterior's file [default: posterior.safetensors in the adapter's folder]
    #[arg(long, value_name = "FILE", env = "REWARDEN_OUTPUT")]
    output: Option<PathBuf>,
    /// `sketch`: all blocks together, in a random projection; or separate blocks in a Kronecker eigenbasis, the eigenvalues
    /// from every pair's own gradient (`ekfac`) or from the factors alone (`kfac`)
    #[arg(long, default_value_t = CurvatureKind::default(), env = "REWARDEN_CURVATURE")]
    curvature: CurvatureKind,
    /// Features of a sketch, beside those of the head
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u16).range(2..=8192), env = "REWARDEN_FEATURES")]
    features: u16,
    /// Groups of layers that have features of their own in a sketch: more let best-of-n leave hopeless candidates earlier
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..), env = "REWARDEN_GROUPS")]
    groups: u16,
    /// Share of the labels that is taken to be wrong
    #[arg(long, default_value_t = 0.0, value_name = "SHARE", env = "REWARDEN_LABEL_NOISE")]
    label_noise: f64,
    /// Directions kept of each separate block's longer side, the rest as tails: a number, or `full`
    #[arg(long, default_value_t = Rank::default(), env = "REWARDEN_RANK")]
    rank: Rank,
    /// `evidence` (one per kind of block), a number, or `A=..,B=..,head=..`
    #[arg(long, default_value_t = Prior::Evidence, env = "REWARDEN_PRIOR_PRECISION")]
    prior_precision: Prior,
    /// Fits to this many pairs, drawn by `--seed`
    #[arg(long, value_name = "PAIRS", env = "REWARDEN_MAX_PAIRS")]
    max_pairs: Option<usize>,
    /// Pairs that are not fitted to: their uncertainties are stored as quantiles (novelty), with the spread and a low quantile of their
    /// rewards (penalties) and their verdicts (`error_rate`)
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
    /// Seed of `--max-pairs`, and of a sketch's projection
    #[arg(long, default_value_t = 0, env = "REWARDEN_SEED")]
    seed: u64,
    #[command(flatten)]
    rule: RuleArgs,
    #[command(flatten)]
    constructed: ConstructedArgs,
}

/// What the posterior is of: an opened adapter and the data.
struct Work<'a> {
    opened: &'a Opened,
    adapter: &'a Adapter,
    folder: &'a Path,
    output: PathBuf,
    /// Pairs to fit to, and those of `--held-out`.
    train: Encoded,
    held_out: Option<Encoded>,
}

impl Fit {
    /// Fits and writes the posterior; what is interrupted is an error, and leaves its checkpoint.
    pub fn run(self) -> Result<()> {
        self.check()?;
        let opened = self.model.open()?;
        let (Some(adapter), Some(folder)) = (&opened.adapter, &opened.folder) else {
            return Err(Error::Usage("--adapter: needed, the posterior is over an adapter's weights".into()));
        };
        let output = match &self.output {
            Some(output) => output.clone(),
            None if hub::repository(folder).is_some() => {
                let message = "needed with a model of the hub, else its cache were changed";
                return Err(Error::Usage(format!("--output: {message}")));
            }
            None => folder.join(store::FILE),
        };
        let (train, held_out) = self.data(&opened)?;
        if held_out.is_none() {
            tracing::warn!(
                "nothing is held out: scores will have no novelty, and no penalty by contraction (hint: give `--held-out`)"
            );
        }
        eprint!("fitting to {}", train.counts());
        held_out.iter().for_each(|held_out| eprint!(", {} held out", held_out.counts()));
        eprintln!();
        let work = Work { opened: &opened, adapter, folder, output, train, held_out };
        let (mut fitted, initial_seed) = self.fit(&work)?;
        for kind in &fitted.evidence.at_bound {
            tracing::warn!("the evidence holds the prior precision of {kind} at its bound");
        }
        let measured = match &work.held_out {
            Some(pairs) => {
                let scoring = Scoring { budget: self.batch_tokens, seed: self.seed };
                Some(self.rule.measure(&opened, &fitted.posterior, pairs, &self.pairs, scoring)?)
            }
            None => None,
        };
        let (considered, measured) = measured
            .map(|Measured { quantiles, held_out, considered }| (considered, (quantiles, held_out)))
            .unzip();
        let config = self.config(&work, &fitted, measured)?;
        let mut report = report(&config, &fitted, &work, initial_seed)?;
        report["considered"] = json!(considered.flatten());
        fitted.posterior.config = Some(config);
        fitted.posterior.save(&work.output)?;
        Store::new(&work.output, String::new()).finish()?;
        write_stdout(&format!("{report:#}\n"))
    }

    fn check(&self) -> Result<()> {
        self.constructed.check()?;
        if self.max_pairs == Some(0) {
            return Err(Error::Usage("--max-pairs: 0 leaves nothing to fit to".into()));
        }
        if !(0.0..0.5).contains(&self.label_noise) {
            return Err(Error::Usage(format!("--label-noise: {} is not below one half", self.label_noise)));
        }
        match (&self.model.adapter, &self.model.base.model, &self.output) {
            (None, None, None) => {
                let hint =
                    "hint: give `--output` to write elsewhere, or the `--adapter` that is to be fitted";
                let reason =
                    "needed without `--adapter`, else the embedded model's posterior were overwritten";
                Err(Error::Usage(format!("--output: {reason} ({hint})")))
            }
            _ => Ok(()),
        }
    }

    /// Pairs to fit to, and held-out ones; what is wrong with either is said before the work begins.
    fn data(&self, opened: &Opened) -> Result<(Encoded, Option<Encoded>)> {
        let mut pairs = self.pairs.read()?;
        if let Some(count) = self.max_pairs {
            pairs.shuffle(&mut rand_chacha::ChaCha8Rng::seed_from_u64(self.seed));
            pairs.truncate(count);
        }
        pairs.extend(self.constructed.pairs(&pairs, self.seed));
        let held_out = match &self.held_out {
            Some(path) => {
                let encoded = self.pairs.encode_some(read_pairs(path)?, &opened.base.reader());
                Some(encoded.map_err(|e| match e {
                    Error::Usage(message) => Error::file(path, message),
                    e => e,
                })?)
            }
            None => None,
        };
        Ok((self.pairs.encode_some(pairs, &opened.base.reader())?, held_out))
    }

    /// The posterior, and the seed of the weights that its prior is centred on, where they are known.
    fn fit(&self, work: &Work) -> Result<(Fitted, Option<u64>)> {
        let options = Options {
            curvature: self.curvature,
            rank: self.rank,
            size: Size { features: self.features.into(), groups: self.groups.into(), seed: self.seed },
            prior: self.prior_precision,
            label_noise: self.label_noise,
            batch_tokens: self.batch_tokens,
        };
        let initial_seed = summary::initial_seed(work.folder)?;
        let store = Store::new(&work.output, self.fingerprint(work, &options)?);
        if store.exists() && !self.resume {
            let hint = "hint: `--resume` goes on with it; remove its `.pass1` file to start afresh";
            return Err(Error::file(&work.output, format!("belongs to an unfinished fit ({hint})")));
        }
        let fit = fit::Fit {
            model: &work.opened.model,
            examples: &work.train.examples,
            mean: &match initial_seed {
                Some(seed) => initial_means(work.opened, work.adapter, work.folder, seed)?,
                None => BTreeMap::new(),
            },
            options,
            checkpoints: Some((store, Duration::from_secs(self.checkpoint_seconds))),
            stop: stop::flag(),
        };
        let mut progress = Progress::new(Unit::Tokens, 0, fit.tokens());
        let fitted = fit.run(&mut |tokens| match tokens {
            Tokens::Saved(tokens) => progress.skip(tokens),
            Tokens::Computed(tokens) => progress.add(tokens),
        });
        progress.finish();
        let stopped = || Error::Usage("stopped before the end (hint: go on with `--resume`)".into());
        Ok((fitted?.ok_or_else(stopped)?, initial_seed))
    }

    /// What must be the same for a checkpoint to be gone on with.
    fn fingerprint(&self, work: &Work, options: &Options) -> Result<String> {
        let (base, start) = (&work.opened.base, identity(work.adapter)?);
        let start = format!("{} {:?} {start} {options:?}", base.name, base.config);
        Ok(super::train::fingerprint(&start, &work.train.examples))
    }

    fn config(
        &self,
        work: &Work,
        fitted: &Fitted,
        measured: Option<(Quantiles, HeldOut)>,
    ) -> Result<FitConfig> {
        let (quantiles, held_out) = measured.unzip();
        let Work { opened, adapter, .. } = work;
        let (evidence, shape) = (&fitted.evidence, &opened.base.config);
        let adapter_sha256 = adapter.sha256()?;
        Ok(FitConfig {
            curvature: Some(self.curvature),
            rank: (self.curvature != CurvatureKind::Sketch).then_some(self.rank),
            label_noise: (self.label_noise > 0.0).then_some(self.label_noise),
            pairs: Some(work.train.examples.len()),
            constructed: self.constructed.record(),
            log_likelihood: Some(fitted.log_likelihood),
            evidence: Some(evidence.log_evidence),
            effective_parameters: Some(evidence.effective_parameters.values().sum()),
            effective_parameters_by_kind: evidence.effective_parameters.clone(),
            prior_precision: evidence.prior_precision.clone(),
            forward_sha256: Some(forward::sha256(&opened.base, adapter, &adapter_sha256)?),
            adapter_sha256: Some(adapter_sha256),
            template_sha256: opened.base.encoder.template_sha256(),
            base: Some(Base {
                name: opened.base.name.clone(),
                layers: shape.layers,
                hidden_size: shape.hidden_size,
                vocabulary: shape.vocab_size,
            }),
            outputs: (opened.base.outputs != Outputs::One).then(|| opened.base.outputs.clone()),
            quantiles,
            held_out,
            left_out: adapter.fixed().collect(),
            version: Some(env!("CARGO_PKG_VERSION").into()),
        })
    }
}

/// The centre of the prior: where A started, if that is known, and zero for the rest.
pub fn prior_means(opened: &Opened) -> Result<BTreeMap<String, Tensor>> {
    let (Some(adapter), Some(folder)) = (&opened.adapter, &opened.folder) else { return Ok(BTreeMap::new()) };
    match summary::initial_seed(folder)? {
        Some(seed) => initial_means(opened, adapter, folder, seed),
        None => Ok(BTreeMap::new()),
    }
}

/// Where A started, drawn from the seed as `train` did.
fn initial_means(
    opened: &Opened,
    adapter: &Adapter,
    folder: &Path,
    seed: u64,
) -> Result<BTreeMap<String, Tensor>> {
    let of_a = |adapter: &Adapter| {
        let blocks = adapter.blocks().into_iter();
        blocks.filter(|(name, _)| name.ends_with(".lora_A")).collect::<BTreeMap<_, _>>()
    };
    let initial = of_a(&Adapter::init(adapter.spec.clone(), &opened.base.config, seed)?);
    let trained = of_a(adapter);
    let other =
        |(name, block): &(&String, &Tensor)| trained.get(*name).map(Tensor::dims) != Some(block.dims());
    let missing = trained.keys().find(|name| !initial.contains_key(*name));
    match initial.iter().find(other).map(|(name, _)| name).or(missing) {
        None => Ok(initial),
        Some(name) => {
            let hint = "hint: remove the file if it is not of this adapter";
            let message =
                format!("{name}: the adapter that began with seed {seed} has another shape ({hint})");
            Err(Error::file(folder.join(summary::SUMMARY), message))
        }
    }
}

fn report(config: &FitConfig, fitted: &Fitted, work: &Work, initial_seed: Option<u64>) -> Result<Value> {
    let mut report = serde_json::to_value(config).map_err(|e| Error::Usage(e.to_string()))?;
    report["trace"] = json!(fitted.traces.values().sum::<f64>());
    report["blocks"] = json!(fitted.traces.len());
    report["initial_seed"] = json!(initial_seed);
    report["skipped"] = json!(work.train.skipped);
    report["truncated"] = json!(work.train.truncated);
    if let Some(held_out) = &work.held_out {
        report["held_out_pairs"] = json!(held_out.examples.len());
        report["held_out_skipped"] = json!(held_out.skipped);
        report["held_out_truncated"] = json!(held_out.truncated);
    }
    Ok(report)
}

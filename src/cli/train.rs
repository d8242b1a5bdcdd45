//! `rewarden train`: a LoRA adapter and a reward head from preference pairs.

use super::{
    model::BaseArgs,
    pairs::{Encoded, PairArgs},
    stop,
};
use crate::{
    Error, Result,
    data::Pair,
    model::{
        RewardModel,
        adapter::{Adapter, LoraSpec},
        checkpoint::{Checkpoint, tensors},
        site::Projection,
    },
    train::{
        Example, Trainer,
        checkpoint::Store,
        constructed,
        loss::Loss,
        optim::{AdamW, Schedule},
        plan::{Limits, Plan},
        run::{Outcome, Run, measure, recent_loss},
    },
};
use candle_core::{DType, Device};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::path::PathBuf;

/// File with the options and measures of a run, in the adapter's folder.
pub const SUMMARY: &str = "training.json";

#[derive(Debug, clap::Args)]
pub struct Train {
    #[command(flatten)]
    base: BaseArgs,
    #[command(flatten)]
    pairs: PairArgs,
    /// Folder for the adapter, in PEFT's layout
    #[arg(long, value_name = "DIR", env = "REWARDEN_OUTPUT")]
    output: PathBuf,
    /// Starts from this PEFT LoRA folder, with its rank and targets, instead of from fresh weights
    #[arg(long, value_name = "DIR", env = "REWARDEN_ADAPTER")]
    adapter: Option<PathBuf>,
    /// Goes on from the checkpoint in `--output`, with the losses it would have had without the interruption
    #[arg(long, env = "REWARDEN_RESUME")]
    resume: bool,
    #[command(flatten)]
    lora: LoraArgs,
    #[command(flatten)]
    options: OptionArgs,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Low-rank update")]
struct LoraArgs {
    /// Rank r
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1024), env = "REWARDEN_RANK")]
    rank: u16,
    /// The update is scaled by alpha / r
    #[arg(long, default_value_t = 16.0, env = "REWARDEN_ALPHA")]
    alpha: f64,
    /// Scales by alpha / sqrt(r) instead
    #[arg(long, env = "REWARDEN_RSLORA")]
    rslora: bool,
    /// Linear layers with an update, or `all-linear`
    #[arg(long, value_delimiter = ',', default_value = "all-linear", env = "REWARDEN_TARGETS")]
    targets: Vec<String>,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Optimisation")]
struct OptionArgs {
    /// Passes over the data; may be a fraction
    #[arg(long, default_value_t = 1.0, env = "REWARDEN_EPOCHS")]
    epochs: f64,
    /// Peak of the cosine schedule
    #[arg(long, default_value_t = 2e-4, env = "REWARDEN_LEARNING_RATE")]
    learning_rate: f64,
    /// Share of the steps over which the learning rate rises
    #[arg(long, default_value_t = 0.05, env = "REWARDEN_WARM_UP")]
    warm_up: f64,
    /// Pairs of one optimiser step
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..), env = "REWARDEN_BATCH_SIZE")]
    batch_size: u16,
    /// Most tokens in one forward and backward; gradients accumulate over them
    #[arg(long, default_value_t = 2048, env = "REWARDEN_MICRO_BATCH_TOKENS")]
    micro_batch_tokens: usize,
    /// Ends the plan after this many tokens
    #[arg(long, value_name = "TOKENS", env = "REWARDEN_MAX_TOKENS")]
    max_tokens: Option<usize>,
    /// AdamW's weight decay
    #[arg(long, default_value_t = 0.0, env = "REWARDEN_WEIGHT_DECAY")]
    weight_decay: f64,
    /// Largest norm of the gradient
    #[arg(long, default_value_t = 1.0, env = "REWARDEN_MAX_GRADIENT_NORM")]
    max_gradient_norm: f64,
    /// Weight of (f(chosen) + f(rejected))^2 in the loss
    #[arg(long, default_value_t = 0.01, env = "REWARDEN_CENTRING")]
    centring: f64,
    /// Adds pairs made from the data's own texts (off-topic, shuffled, repeated, cut off, evasive, gibberish), as a share of the data
    #[arg(long, default_value_t = 0.0, value_name = "SHARE", env = "REWARDEN_CONSTRUCTED")]
    constructed: f64,
    /// Share of the prompts that is kept out of the training and measured at the end
    #[arg(long, default_value_t = 0.05, value_name = "SHARE", env = "REWARDEN_HOLDOUT")]
    holdout: f64,
    /// Seed of the weights, the order and the constructed pairs
    #[arg(long, default_value_t = 0, env = "REWARDEN_SEED")]
    seed: u64,
    /// Steps between checkpoints
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..), env = "REWARDEN_CHECKPOINT_EVERY")]
    checkpoint_every: u16,
}

impl Train {
    pub fn run(self) -> Result<()> {
        self.options.check()?;
        let base = self.base.open()?;
        let (train, held_out) = self.data(&base)?;
        let adapter = self.start(&base)?;
        let model = RewardModel::new(&base, Some(&adapter), DType::F32, &Device::Cpu)?;
        let plan = Plan::new(&train.examples, &self.options.limits());
        let store = Store::new(&self.output, self.fingerprint(&base, &adapter, &train.examples)?)?;
        if store.exists() && !self.resume {
            let hint = "hint: `--resume` goes on with it; remove `checkpoint.safetensors` to start afresh";
            return Err(Error::file(&self.output, format!("holds an unfinished run ({hint})")));
        }
        let mut run = Run {
            schedule: self.options.schedule(plan.0.len()),
            trainer: self.options.trainer(model),
            examples: &train.examples,
            plan,
            store,
            checkpoint_every: self.options.checkpoint_every.into(),
            stop: stop::flag(),
        };
        let records = if self.resume && run.store.exists() { run.resume()? } else { Vec::new() };
        eprintln!(
            "training on {} pairs ({} too long, left out; {} cut), {} held out, {} steps of {} pairs",
            train.examples.len(),
            train.skipped,
            train.truncated,
            held_out.examples.len(),
            run.plan.0.len(),
            self.options.batch_size,
        );
        let outcome = run.execute(records)?;
        if !outcome.finished {
            eprintln!("stopped after step {} (hint: go on with `--resume`)", outcome.records.len());
            return Ok(());
        }
        let adapter = with_blocks(adapter, &outcome.model);
        adapter.save(&self.output, &base.name)?;
        let summary = self.summary(&outcome, &adapter, &train, &held_out)?;
        let text = format!("{summary:#}\n");
        tensors::replace(&self.output.join(SUMMARY), text.as_bytes())?;
        Store::new(&self.output, String::new())?.finish()?;
        print!("{text}");
        Ok(())
    }

    /// The adapter that training begins with: fresh, or the one of `--adapter`, with a head if it has none.
    fn start(&self, base: &Checkpoint) -> Result<Adapter> {
        let fresh = |spec| Adapter::init(spec, &base.config, self.options.seed);
        match &self.adapter {
            None => fresh(self.lora.spec()?),
            Some(folder) => {
                let adapter = Adapter::load(folder, &base.config)?;
                let head = match adapter.head.clone() {
                    Some(head) => Some(head),
                    None => fresh(adapter.spec.clone())?.head,
                };
                Ok(Adapter { head, ..adapter })
            }
        }
    }

    /// Training pairs, with the constructed ones, and held-out pairs; no prompt is in both.
    fn data(&self, base: &Checkpoint) -> Result<(Encoded, Encoded)> {
        let options = &self.options;
        let kept_out = |pair: &Pair| share(&prompt_key(pair), options.seed) < options.holdout;
        let (held_out, mut train): (Vec<Pair>, Vec<Pair>) =
            self.pairs.read()?.into_iter().partition(kept_out);
        let count = (options.constructed * train.len() as f64).round() as usize;
        train.extend(constructed::pairs(&train, count, options.seed));
        let held_out = match held_out.is_empty() {
            true => Encoded { pairs: Vec::new(), examples: Vec::new(), skipped: 0, truncated: 0 },
            false => self.pairs.encode(held_out, base)?,
        };
        Ok((self.pairs.encode(train, base)?, held_out))
    }

    /// What must be the same for a checkpoint to be gone on with.
    fn fingerprint(&self, base: &Checkpoint, adapter: &Adapter, examples: &[Example]) -> Result<String> {
        let start = format!("{:?} {:?} {:?} {}", self.options, base.name, base.config, adapter.sha256()?);
        Ok(fingerprint(&start, examples))
    }

    fn summary(
        &self,
        outcome: &Outcome,
        adapter: &Adapter,
        train: &Encoded,
        held_out: &Encoded,
    ) -> Result<Value> {
        let (o, spec) = (&self.options, &adapter.spec);
        let examples: Vec<&Example> = held_out.examples.iter().collect();
        let measured = measure(&outcome.model, &examples, o.micro_batch_tokens)?;
        Ok(json!({
            "seed": o.seed, "rank": spec.rank, "alpha": spec.alpha, "rslora": spec.rslora,
            "targets": spec.targets.iter().map(|target| target.name()).collect::<Vec<_>>(),
            "started_from": self.adapter, "epochs": o.epochs, "learning_rate": o.learning_rate, "warm_up": o.warm_up,
            "batch_size": o.batch_size, "max_tokens": o.max_tokens, "weight_decay": o.weight_decay,
            "max_gradient_norm": o.max_gradient_norm, "centring": o.centring, "constructed": o.constructed,
            "pairs": train.examples.len(), "skipped": train.skipped, "truncated": train.truncated,
            "steps": outcome.records.len(), "tokens": outcome.records.last().map_or(0, |record| record.tokens),
            "first_loss": outcome.records.first().map(|record| record.loss), "last_loss": recent_loss(&outcome.records),
            "held_out": measured, "program": concat!("rewarden ", env!("CARGO_PKG_VERSION")),
        }))
    }
}

impl LoraArgs {
    fn spec(&self) -> Result<LoraSpec> {
        let one = |name: &str| Projection::ALL.into_iter().find(|projection| projection.name() == name);
        let targets = match &self.targets[..] {
            [all] if all == "all-linear" => Projection::ALL.to_vec(),
            names => {
                let unknown =
                    |name: &String| Error::Usage(format!("--targets: no linear layer is called `{name}`"));
                names.iter().map(|name| one(name).ok_or_else(|| unknown(name))).collect::<Result<_>>()?
            }
        };
        match self.alpha.is_finite() && self.alpha > 0.0 {
            true => Ok(LoraSpec { rank: self.rank.into(), alpha: self.alpha, rslora: self.rslora, targets }),
            false => Err(Error::Usage(format!("--alpha: {} is not a positive number", self.alpha))),
        }
    }
}

impl OptionArgs {
    fn check(&self) -> Result<()> {
        let positive = |x: f64| x.is_finite() && x > 0.0;
        let share = |x: f64| (0.0..1.0).contains(&x);
        let table = [
            ("--epochs", self.epochs, positive(self.epochs)),
            ("--learning-rate", self.learning_rate, positive(self.learning_rate)),
            ("--warm-up", self.warm_up, share(self.warm_up)),
            ("--weight-decay", self.weight_decay, share(self.weight_decay)),
            ("--max-gradient-norm", self.max_gradient_norm, positive(self.max_gradient_norm)),
            ("--centring", self.centring, self.centring.is_finite() && self.centring >= 0.0),
            ("--constructed", self.constructed, (0.0..=10.0).contains(&self.constructed)),
            ("--holdout", self.holdout, share(self.holdout)),
        ];
        match table.iter().find(|(_, _, valid)| !valid) {
            Some((flag, value, _)) => Err(Error::Usage(format!("{flag}: {value} is out of range"))),
            None => Ok(()),
        }
    }

    fn limits(&self) -> Limits {
        Limits {
            epochs: self.epochs,
            batch_size: self.batch_size.into(),
            max_tokens: self.max_tokens.unwrap_or(usize::MAX),
            seed: self.seed,
        }
    }

    fn schedule(&self, steps: usize) -> Schedule {
        Schedule { peak: self.learning_rate, warm_up: (self.warm_up * steps as f64).ceil() as usize, steps }
    }

    fn trainer(&self, model: RewardModel) -> Trainer {
        Trainer {
            model,
            optimizer: AdamW::new(self.weight_decay),
            loss: Loss { centring: self.centring },
            max_gradient_norm: self.max_gradient_norm,
            micro_batch_tokens: self.micro_batch_tokens,
        }
    }
}

/// A hash of the options, as text, and of the examples.
pub(super) fn fingerprint(options: &str, examples: &[Example]) -> String {
    let mut hash = Sha256::new_with_prefix(options);
    for example in examples {
        hash.update(format!("{example:?}"));
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What two pairs on the same prompt have in common.
fn prompt_key(pair: &Pair) -> String {
    match &pair.prompt {
        Some(prompt) => format!("{prompt:?}"),
        None => format!("{:?}", pair.chosen),
    }
}

/// A number in [0, 1) that depends on the key and the seed alone.
fn share(key: &str, seed: u64) -> f64 {
    let hash = Sha256::new().chain_update(seed.to_le_bytes()).chain_update(key).finalize();
    let first = hash.iter().take(4).fold(0u32, |n, byte| n << 8 | u32::from(*byte));
    f64::from(first) / 2f64.powi(32)
}

/// The adapter with the blocks that the model now has.
fn with_blocks(mut adapter: Adapter, model: &RewardModel) -> Adapter {
    use crate::model::site::{Factor, HEAD};
    let blocks = model.blocks();
    for (site, lora) in &mut adapter.lora {
        let part = |factor| blocks.get(&site.block(factor)).cloned();
        lora.a = part(Factor::A).unwrap_or_else(|| lora.a.clone());
        lora.b = part(Factor::B).unwrap_or_else(|| lora.b.clone());
    }
    adapter.head = blocks.get(HEAD).cloned().or(adapter.head);
    adapter
}

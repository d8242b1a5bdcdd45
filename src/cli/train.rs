//! `rewarden train`: a LoRA adapter and a reward head from preference pairs.

use super::{
    constructed::ConstructedArgs,
    model::BaseArgs,
    output::write_stdout,
    pairs::{Encoded, PairArgs},
    place::Place,
    progress::{Progress, Unit},
    stop,
};
use crate::{
    Error, Result,
    data::Pair,
    hub::Kind,
    model::{
        RewardModel,
        adapter::Adapter,
        checkpoint::{Checkpoint, tensors},
    },
    train::{
        Example,
        checkpoint::{Record, Store},
        constructed::Construction,
        plan::Plan,
        run::{Outcome, Run, measure, recent_loss},
    },
};
use candle_core::DType;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::path::PathBuf;

mod options;
pub(super) mod summary;

use options::{LoraArgs, OptionArgs};
use summary::{SUMMARY, initial_seed};

/// The flags of `rewarden train`.
#[derive(Debug, clap::Args)]
pub struct Train {
    #[command(flatten)]
    base: BaseArgs,
    #[command(flatten)]
    pairs: PairArgs,
    /// Folder for the adapter, in PEFT's layout
    #[arg(long, value_name = "DIR", env = "REWARDEN_OUTPUT")]
    output: PathBuf,
    /// Starts from this PEFT LoRA folder, or one's name on the hub, `org/name[@revision]`, with its rank and targets, instead of
    /// from fresh weights
    #[arg(long, value_name = "DIR|NAME", env = "REWARDEN_ADAPTER")]
    adapter: Option<Place>,
    /// Goes on from the checkpoint in `--output`, with the losses it would have had without the interruption
    #[arg(long, env = "REWARDEN_RESUME")]
    resume: bool,
    #[command(flatten)]
    lora: LoraArgs,
    #[command(flatten)]
    options: OptionArgs,
    #[command(flatten)]
    constructed: ConstructedArgs,
}

/// What there is to train on, and to measure on at the end.
struct Data {
    train: Encoded,
    held_out: Encoded,
}

impl Train {
    /// Trains and writes the adapter; what is interrupted is an error, and leaves its checkpoint.
    pub fn run(self) -> Result<()> {
        self.options.check()?;
        self.constructed.check()?;
        let first_seed = self.first_seed()?;
        let base = self.base.open()?;
        let data = self.data(&base)?;
        let adapter = self.start(&base)?;
        let mut run = self.prepare(&base, &adapter, &data.train.examples)?;
        let records = if self.resume && run.store.exists() { run.resume()? } else { Vec::new() };
        let steps = run.plan.0.len();
        eprintln!(
            "training on {}, {} held out; {steps} steps of {} pairs",
            data.train.counts(),
            data.held_out.counts(),
            self.options.batch_size,
        );
        let outcome = execute(run, records)?;
        if !outcome.finished {
            let done = outcome.records.len();
            return Err(Error::Usage(format!("stopped after step {done} (hint: go on with `--resume`)")));
        }
        let adapter = with_blocks(adapter, &outcome.model)?;
        adapter.save(&self.output, &base.name)?;
        let mut summary = self.summary(&outcome, &adapter, &data)?;
        summary["initial_seed"] = json!(first_seed);
        let text = format!("{summary:#}\n");
        tensors::replace(&self.output.join(SUMMARY), text.as_bytes())?;
        Store::new(&self.output, String::new())?.finish()?;
        write_stdout(&text)
    }

    /// The seed of the weights that all training of this adapter began with, where it is known.
    fn first_seed(&self) -> Result<Option<u64>> {
        match &self.adapter {
            None => Ok(Some(self.options.seed)),
            Some(place) => initial_seed(&place.path(Kind::Adapter)?),
        }
    }

    /// The run with its plan and its store, which must not hold another run's checkpoint.
    fn prepare<'a>(&self, base: &Checkpoint, adapter: &Adapter, examples: &'a [Example]) -> Result<Run<'a>> {
        let model = RewardModel::new(base, Some(adapter), DType::F32, &self.base.device()?)?;
        let plan = Plan::new(examples, &self.options.limits());
        if plan.0.is_empty() {
            let flag = if self.options.max_tokens == Some(0) { "--max-tokens" } else { "--epochs" };
            let message = format!("{flag}: leaves no pair of {} to train on", examples.len());
            return Err(Error::Usage(message));
        }
        let store = Store::new(&self.output, self.fingerprint(base, adapter, examples)?)?;
        if store.exists() && !self.resume {
            let hint = "hint: `--resume` goes on with it; remove `checkpoint.safetensors` to start afresh";
            return Err(Error::file(&self.output, format!("holds an unfinished run ({hint})")));
        }
        Ok(Run {
            schedule: self.options.schedule(plan.0.len()),
            trainer: self.options.trainer(model),
            examples,
            plan,
            store,
            checkpoint_every: self.options.checkpoint_every.into(),
            stop: stop::flag(),
        })
    }

    /// The adapter that training begins with: fresh, or the one of `--adapter`, with a head if it has none.
    fn start(&self, base: &Checkpoint) -> Result<Adapter> {
        let fresh = |spec| Adapter::init(spec, &base.config, self.options.seed);
        match &self.adapter {
            None => fresh(self.lora.spec()?),
            Some(place) => {
                let folder = place.path(Kind::Adapter)?;
                let adapter = Adapter::load(&folder, &base.config)?;
                if let Some(name) = adapter.fixed().next() {
                    let message = format!("{name}: only plain updates and the head can be trained on");
                    return Err(Error::file(folder, message));
                }
                let head = match adapter.head.clone() {
                    Some(head) => Some(head),
                    None => fresh(adapter.spec.clone())?.head,
                };
                Ok(Adapter { head, ..adapter })
            }
        }
    }

    /// Training pairs, with the constructed ones, and held-out pairs; no prompt is in both.
    fn data(&self, base: &Checkpoint) -> Result<Data> {
        let options = &self.options;
        let kept_out = |pair: &Pair| share(&prompt_key(pair), options.seed) < options.holdout;
        let (held_out, mut train): (Vec<Pair>, Vec<Pair>) =
            self.pairs.read()?.into_iter().partition(kept_out);
        if train.is_empty() {
            let (count, share) = (held_out.len(), options.holdout);
            let message =
                format!("--holdout: {share} holds out all of {count} pairs, none is left to train on");
            return Err(Error::Usage(message));
        }
        train.extend(self.constructed.pairs(&train, options.seed));
        let held_out = self.pairs.encode(held_out, &base.reader())?;
        Ok(Data { train: self.pairs.encode_some(train, &base.reader())?, held_out })
    }

    /// What must be the same for a checkpoint to be gone on with.
    fn fingerprint(&self, base: &Checkpoint, adapter: &Adapter, examples: &[Example]) -> Result<String> {
        let (name, shape, start) = (&base.name, &base.config, identity(adapter)?);
        Ok(fingerprint(&format!("{:?} {name:?} {shape:?} {start}", self.options), examples))
    }

    fn summary(&self, outcome: &Outcome, adapter: &Adapter, data: &Data) -> Result<Value> {
        let (o, spec, Data { train, held_out }) = (&self.options, &adapter.spec, data);
        let examples: Vec<&Example> = held_out.examples.iter().collect();
        let measured = measure(&outcome.model, &examples, o.micro_batch_tokens)?;
        Ok(json!({
            "seed": o.seed, "rank": spec.rank, "alpha": spec.alpha, "rslora": spec.rslora,
            "targets": spec.targets.iter().map(|target| target.name()).collect::<Vec<_>>(),
            "started_from": self.adapter.as_ref().map(Place::given), "epochs": o.epochs, "learning_rate": o.learning_rate, "warm_up": o.warm_up,
            "batch_size": o.batch_size, "max_tokens": o.max_tokens, "weight_decay": o.weight_decay,
            "max_gradient_norm": o.max_gradient_norm, "centring": o.centring, "constructed": self.constructed.constructed,
            "constructed_kinds": self.constructed.constructed_kinds.iter().map(Construction::name).collect::<Vec<_>>(),
            "constructed_exclude_source": self.constructed.constructed_exclude_source,
            "constructed_refusal_source": self.constructed.constructed_refusal_source,
            "pairs": train.examples.len(), "skipped": train.skipped, "truncated": train.truncated,
            "steps": outcome.records.len(), "tokens": outcome.records.last().map_or(0, |record| record.tokens),
            "first_loss": outcome.records.first().map(|record| record.loss), "last_loss": recent_loss(&outcome.records),
            "held_out": measured, "held_out_skipped": held_out.skipped, "held_out_truncated": held_out.truncated,
            "program": concat!("rewarden ", env!("CARGO_PKG_VERSION")),
        }))
    }
}

/// Does the run's steps and shows its progress.
fn execute(run: Run, records: Vec<Record>) -> Result<Outcome> {
    let (steps, tokens) = (run.plan.0.len(), run.plan.tokens(run.examples, 0));
    let mut progress = Progress::new(Unit::Tokens, records.last().map_or(0, |record| record.tokens), tokens);
    let outcome = run.execute(records, &mut |records| {
        let (step, loss) = (records.len(), recent_loss(records));
        let tokens = records.last().map_or(0, |record| record.tokens);
        progress.set(tokens, format!("step {step}/{steps}, loss {loss:.4}"));
    });
    progress.finish();
    outcome
}

/// What an adapter computes: its weights, and how they act at each site.
pub(super) fn identity(adapter: &Adapter) -> Result<String> {
    let scales: Vec<f64> = adapter.lora.values().map(|lora| lora.scale).collect();
    Ok(format!("{} {:?} {scales:?}", adapter.sha256()?, adapter.spec))
}

/// A hash of the options, as text, and of the examples.
pub(super) fn fingerprint(options: &str, examples: &[Example]) -> String {
    let mut hash = Sha256::new_with_prefix(options);
    for example in examples {
        hash.update(format!("{example:?}"));
    }
    crate::digest::hex(hash.finalize())
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
fn with_blocks(mut adapter: Adapter, model: &RewardModel) -> Result<Adapter> {
    use crate::model::{
        head::Head,
        site::{Factor, HEAD},
    };
    let blocks = model.blocks()?;
    for (site, lora) in &mut adapter.lora {
        let part = |factor| blocks.get(&site.block(factor)).cloned();
        lora.a = part(Factor::A).unwrap_or_else(|| lora.a.clone());
        lora.b = part(Factor::B).unwrap_or_else(|| lora.b.clone());
    }
    if let Some(weight) = blocks.get(HEAD) {
        let bias = adapter.head.and_then(|head| head.bias);
        adapter.head = Some(Head { weight: weight.clone(), bias });
    }
    Ok(adapter)
}

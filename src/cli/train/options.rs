//! The options of `rewarden train`, checked.

use crate::{
    Error, Result,
    model::{RewardModel, adapter::LoraSpec, site::Projection},
    train::{
        Trainer,
        loss::Loss,
        optim::{AdamW, Schedule},
        plan::Limits,
    },
};

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Low-rank update")]
pub(super) struct LoraArgs {
    /// Rank r
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1024), env = "REWARDEN_RANK")]
    pub(super) rank: u16,
    /// The update is scaled by alpha / r
    #[arg(long, default_value_t = 16.0, env = "REWARDEN_ALPHA")]
    pub(super) alpha: f64,
    /// Scales by alpha / sqrt(r) instead
    #[arg(long, env = "REWARDEN_RSLORA")]
    pub(super) rslora: bool,
    /// Linear layers with an update, or `all-linear`
    #[arg(long, value_delimiter = ',', default_value = "all-linear", env = "REWARDEN_TARGETS")]
    pub(super) targets: Vec<String>,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Optimisation")]
pub(super) struct OptionArgs {
    /// Passes over the data; may be a fraction
    #[arg(long, default_value_t = 1.0, env = "REWARDEN_EPOCHS")]
    pub(super) epochs: f64,
    /// Peak of the cosine schedule
    #[arg(long, default_value_t = 2e-4, env = "REWARDEN_LEARNING_RATE")]
    pub(super) learning_rate: f64,
    /// Share of the steps over which the learning rate rises
    #[arg(long, default_value_t = 0.05, env = "REWARDEN_WARM_UP")]
    pub(super) warm_up: f64,
    /// Pairs of one optimiser step
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..), env = "REWARDEN_BATCH_SIZE")]
    pub(super) batch_size: u16,
    /// Most tokens in one forward and backward; gradients accumulate over them
    #[arg(long, default_value_t = 2048, env = "REWARDEN_MICRO_BATCH_TOKENS")]
    pub(super) micro_batch_tokens: usize,
    /// Ends the plan after this many tokens
    #[arg(long, value_name = "TOKENS", env = "REWARDEN_MAX_TOKENS")]
    pub(super) max_tokens: Option<usize>,
    /// AdamW's weight decay
    #[arg(long, default_value_t = 0.0, env = "REWARDEN_WEIGHT_DECAY")]
    pub(super) weight_decay: f64,
    /// Largest norm of the gradient
    #[arg(long, default_value_t = 1.0, env = "REWARDEN_MAX_GRADIENT_NORM")]
    pub(super) max_gradient_norm: f64,
    /// Weight of (f(chosen) + f(rejected))^2 in the loss
    #[arg(long, default_value_t = 0.01, env = "REWARDEN_CENTRING")]
    pub(super) centring: f64,
    /// Share of the prompts that is kept out of the training and measured at the end
    #[arg(long, default_value_t = 0.05, value_name = "SHARE", env = "REWARDEN_HOLDOUT")]
    pub(super) holdout: f64,
    /// Seed of the weights, the order and the constructed pairs
    #[arg(long, default_value_t = 0, env = "REWARDEN_SEED")]
    pub(super) seed: u64,
    /// Steps between checkpoints
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..), env = "REWARDEN_CHECKPOINT_EVERY")]
    pub(super) checkpoint_every: u16,
}

impl LoraArgs {
    pub fn spec(&self) -> Result<LoraSpec> {
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
    pub fn check(&self) -> Result<()> {
        let positive = |x: f64| x.is_finite() && x > 0.0;
        let share = |x: f64| (0.0..1.0).contains(&x);
        let table = [
            ("--epochs", self.epochs, positive(self.epochs)),
            ("--learning-rate", self.learning_rate, positive(self.learning_rate)),
            ("--warm-up", self.warm_up, share(self.warm_up)),
            ("--weight-decay", self.weight_decay, share(self.weight_decay)),
            ("--max-gradient-norm", self.max_gradient_norm, positive(self.max_gradient_norm)),
            ("--centring", self.centring, self.centring.is_finite() && self.centring >= 0.0),
            ("--holdout", self.holdout, share(self.holdout)),
        ];
        match table.iter().find(|(_, _, valid)| !valid) {
            Some((flag, value, _)) => Err(Error::Usage(format!("{flag}: {value} is out of range"))),
            None => Ok(()),
        }
    }

    pub fn limits(&self) -> Limits {
        Limits {
            epochs: self.epochs,
            batch_size: self.batch_size.into(),
            max_tokens: self.max_tokens.unwrap_or(usize::MAX),
            seed: self.seed,
        }
    }

    pub fn schedule(&self, steps: usize) -> Schedule {
        Schedule { peak: self.learning_rate, warm_up: (self.warm_up * steps as f64).ceil() as usize, steps }
    }

    pub fn trainer(&self, model: RewardModel) -> Trainer {
        Trainer {
            model,
            optimizer: AdamW::new(self.weight_decay),
            loss: Loss { centring: self.centring },
            max_gradient_norm: self.max_gradient_norm,
            micro_batch_tokens: self.micro_batch_tokens,
        }
    }
}

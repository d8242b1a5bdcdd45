//! Which model a command works on: `--model`, `--adapter`, or the embedded default.

use super::{
    device::DeviceChoice,
    place::{self, Place},
    scoring::{Backend, Compute, ScoringArgs},
};
use crate::{
    Error, Result,
    hub::{self, Kind},
    model::{
        Keep, RewardModel, adapter::Adapter, checkpoint::Checkpoint, cross_encoder::CrossEncoder, forward,
        head::Outputs,
    },
    posterior::{Novelty, Posterior, Target, store},
    score::{Judge, Scorer, Want, rule::Calibration},
    text::Reader,
};
use candle_core::{DType, Device};
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    str::FromStr,
};

/// Folder of the embedded base, under the models' folder.
const BASE: &str = "smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf";
/// Folder of the embedded adapter and its posterior.
pub const ADAPTER: &str = "default";

/// Where the base model is.
#[derive(Debug, Clone, clap::Args)]
pub struct BaseArgs {
    /// Base model: a Hugging Face checkpoint folder, a .gguf file, or a name on the hub, `org/name[@revision]` [default: the
    /// embedded SmolLM2-135M-Instruct]
    #[arg(long, value_name = "PATH|NAME", env = "REWARDEN_MODEL")]
    pub model: Option<Place>,
    /// Where to compute: `cpu`, `cuda:N` or `metal`, where the program was built for it, or `auto`
    #[arg(long, default_value_t = DeviceChoice::Auto, env = "REWARDEN_DEVICE")]
    pub device: DeviceChoice,
    /// Output that is the reward, counted from 0, of a head that has several
    #[arg(long, value_name = "INDEX", env = "REWARDEN_LABEL", conflicts_with = "label_weights")]
    pub label: Option<usize>,
    /// Weights of all outputs of such a head, whose sum is the reward
    #[arg(
        long,
        value_name = "W,W,..",
        value_delimiter = ',',
        allow_hyphen_values = true,
        env = "REWARDEN_LABEL_WEIGHTS"
    )]
    pub label_weights: Vec<f64>,
}

impl BaseArgs {
    /// Where the embedded base is.
    pub fn embedded_path() -> Result<PathBuf> {
        embedded(BASE)
    }

    /// Where it is.
    pub fn path(&self) -> Result<PathBuf> {
        match &self.model {
            Some(place) => place.path(Kind::Checkpoint),
            None => Self::embedded_path(),
        }
    }

    /// Opens the base, and says on standard error what of it is not used.
    pub fn open(&self) -> Result<Checkpoint> {
        let path = self.path()?;
        let mut base = Checkpoint::open(&path)?;
        base.outputs = self.outputs()?;
        base.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        Ok(base)
    }

    /// Opens the base as a cross-encoder, where it is one.
    pub fn cross_encoder(&self, scoring: &ScoringArgs) -> Result<Option<CrossEncoder>> {
        let Some(place) = &self.model else { return Ok(None) };
        let path = place.path(Kind::Checkpoint)?;
        if !CrossEncoder::is_one(&path) {
            return Ok(None);
        }
        let Backend { device, dtype } = scoring.backend(self)?;
        if scoring.compute != Compute::F32 {
            return Err(Error::Usage(format!("--compute: a cross-encoder computes in f32, not {dtype:?}")));
        }
        CrossEncoder::open(&path, &self.outputs()?, &device).map(Some)
    }

    /// Opens the device.
    pub fn device(&self) -> Result<Device> {
        self.device.open()
    }

    fn outputs(&self) -> Result<Outputs> {
        if let Some(weight) = self.label_weights.iter().find(|weight| !weight.is_finite()) {
            return Err(Error::Usage(format!("--label-weights: {weight} is not finite")));
        }
        Ok(match (self.label, &self.label_weights[..]) {
            (Some(label), _) => Outputs::Label(label),
            (None, []) => Outputs::One,
            (None, weights) => Outputs::Weighed(weights.to_vec()),
        })
    }
}

/// A base, and the adapter on it.
#[derive(Debug, Clone, clap::Args)]
pub struct ModelArgs {
    #[command(flatten)]
    pub base: BaseArgs,
    /// PEFT LoRA folder, or one's name on the hub, `org/name[@revision]` [default: the embedded adapter, where `--model` is
    /// not given either]
    #[arg(long, value_name = "[NAME=]PATH|NAME", env = "REWARDEN_ADAPTER")]
    pub adapter: Option<NamedAdapter>,
}

/// `[NAME=]PATH`: where something is, and what it is called, by default as its folder or repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named<T> {
    pub name: String,
    pub path: T,
}

/// An adapter, and the name it is served under.
pub type NamedAdapter = Named<Place>;

impl<T: From<OsString>> FromStr for Named<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // `runs/rate=1e-4` is a folder, where it is there; `org/judge=DIR` is named like what clients ask for.
        let is_name = |name: &str| {
            !name.contains('/') || name.parse::<hub::Name>().is_ok() && !Path::new(text).exists()
        };
        if let Some((name, path)) = text.split_once('=').filter(|(name, _)| is_name(name)) {
            return match name.is_empty() || path.is_empty() {
                true => Err("expected NAME=PATH or PATH".into()),
                false => Ok(Self { name: name.into(), path: OsString::from(path).into() }),
            };
        }
        let name = place::name(Path::new(text)).unwrap_or_else(|| ADAPTER.into());
        Ok(Self { name, path: OsString::from(text).into() })
    }
}

/// What a reward model is put together from, in shapes that fit each other.
pub struct Parts {
    pub base: Checkpoint,
    pub adapter: Option<Adapter>,
    pub folder: Option<PathBuf>,
}

/// A reward model whose updates may change, with what it was made from.
pub struct Opened {
    pub base: Checkpoint,
    pub adapter: Option<Adapter>,
    pub folder: Option<PathBuf>,
    pub model: RewardModel,
}

/// A model that is ready to score, and what its items need.
pub struct Ready {
    pub reader: Reader,
    pub scorer: Box<dyn Judge>,
    pub novelty: Option<Novelty>,
    /// What penalties read of the posterior.
    pub calibration: Calibration,
}

impl Ready {
    /// What can be had of what is wanted.
    pub fn able(&self, want: Want) -> Want {
        if self.scorer.has_variances() { want } else { Want::Mean }
    }
}

impl ModelArgs {
    /// Opens whatever can score: an adapter on a base, a base with a head, or a cross-encoder.
    pub fn ready(&self, want: Want, scoring: &ScoringArgs) -> Result<Ready> {
        match self.cross_encoder(scoring)? {
            Some(ready) => Ok(ready),
            None => self.parts()?.ready(want, scoring, &scoring.backend(&self.base)?),
        }
    }

    /// The base as a cross-encoder, where it is one: it takes no adapter.
    pub fn cross_encoder(&self, scoring: &ScoringArgs) -> Result<Option<Ready>> {
        let Some(model) = self.base.cross_encoder(scoring)? else { return Ok(None) };
        if self.adapter.is_some() {
            return Err(Error::Usage("--adapter: a cross-encoder takes none".into()));
        }
        let (reader, calibration) = (model.reader.clone(), Calibration::default());
        Ok(Some(Ready { reader, scorer: Box::new(model), novelty: None, calibration }))
    }

    pub fn open(&self) -> Result<Opened> {
        let Parts { base, adapter, folder } = self.parts()?;
        let model = RewardModel::new(&base, adapter.as_ref(), DType::F32, &self.base.device()?)?;
        Ok(Opened { base, adapter, folder, model })
    }

    /// The same, not put together.
    pub fn parts(&self) -> Result<Parts> {
        Parts::new(self.base.open()?, self.folder()?)
    }

    /// Whether neither a model nor an adapter is named.
    pub fn is_embedded(&self) -> bool {
        self.adapter.is_none() && self.base.model.is_none()
    }

    fn folder(&self) -> Result<Option<PathBuf>> {
        Ok(match (&self.adapter, &self.base.model) {
            (Some(adapter), _) => Some(adapter.path.path(Kind::Adapter)?),
            (None, None) => Some(embedded(ADAPTER)?),
            (None, Some(_)) => None,
        })
    }
}

/// The folders of several adapters on one base; without any, the embedded one's where the base is too.
pub fn adapter_folders(base: &BaseArgs, adapters: &[NamedAdapter]) -> Result<Vec<PathBuf>> {
    match (adapters, &base.model) {
        ([], None) => Ok(vec![embedded(ADAPTER)?]),
        ([], Some(_)) => Err(Error::Usage("--adapter: needed with `--model`".into())),
        (adapters, _) => adapters.iter().map(|adapter| adapter.path.path(Kind::Adapter)).collect(),
    }
}

impl Opened {
    /// The posterior in the adapter's folder, which must be of this adapter.
    pub fn posterior(&self, adapter: &Adapter, path: &Path) -> Result<Posterior> {
        posterior(&self.base, adapter, path, &self.model)
    }
}

/// Reads a posterior of an adapter on a base, to the device of the model that they make.
fn posterior(base: &Checkpoint, adapter: &Adapter, path: &Path, model: &RewardModel) -> Result<Posterior> {
    let (trainable, template) = (model.shapes(), base.encoder.template_sha256());
    let adapter_sha256 = adapter.sha256()?;
    let target = Target {
        trainable: &trainable,
        adapter_sha256: &adapter_sha256,
        forward_sha256: Some(&forward::sha256(base, adapter, &adapter_sha256)?),
        template_sha256: template.as_deref(),
        outputs: Some(&base.outputs),
    };
    let (posterior, warnings) = Posterior::load_for(path, target)?;
    warnings.iter().for_each(|warning| tracing::warn!("{}: {warning}", path.display()));
    posterior.to_device(model.device())
}

impl Parts {
    /// An adapter's folder beside a base; without one, the base's own head is what is uncertain.
    pub fn new(base: Checkpoint, folder: Option<PathBuf>) -> Result<Self> {
        let (adapter, folder) = adapter(&base, folder)?;
        Ok(Self { base, adapter, folder })
    }

    /// The model for scoring alone: with the posterior in the adapter's folder, where there is one and a variance may be wanted.
    pub fn into_scorer(self, want: Want, scoring: &ScoringArgs, backend: &Backend) -> Result<Scorer> {
        let path = match scoring.able(want) {
            Want::Mean => None,
            Want::MeanAndVariance => self.posterior_path(),
        };
        let keep = match (scoring.compute, &path) {
            (Compute::Int8, _) => Keep::Int8,
            (_, Some(_)) => Keep::Both,
            (_, None) => Keep::Forward,
        };
        let mut model = self.model(backend, keep)?;
        model.keep_activations(scoring.activation_bytes(model.device()));
        let posterior = path.map(|path| self.posterior(&path, &model)).transpose()?.flatten();
        Ok(Scorer::new(model, posterior, scoring.sharing()))
    }

    /// The model, its updates frozen.
    pub fn model(&self, Backend { device, dtype }: &Backend, keep: Keep) -> Result<RewardModel> {
        RewardModel::frozen(&self.base, self.adapter.as_ref(), (*dtype, device), keep)
    }

    /// The same as whatever can score.
    pub fn ready(self, want: Want, scoring: &ScoringArgs, backend: &Backend) -> Result<Ready> {
        let reader = self.base.reader();
        let scorer = self.into_scorer(want, scoring, backend)?;
        let novelty = scorer.posterior.as_ref().and_then(Posterior::novelty);
        let calibration = scorer.posterior.as_ref().map(Posterior::calibration).unwrap_or_default();
        Ok(Ready { reader, scorer: Box::new(scorer), novelty, calibration })
    }

    /// The file of the posterior in the adapter's folder, where there is one.
    pub fn posterior_path(&self) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| folder.join(store::FILE)).filter(|path| path.exists())
    }

    fn posterior(&self, path: &Path, model: &RewardModel) -> Result<Option<Posterior>> {
        self.adapter.as_ref().map(|adapter| posterior(&self.base, adapter, path, model)).transpose()
    }
}

/// The adapter in a folder; without one the head of the base, whose posterior is in the base's folder.
fn adapter(base: &Checkpoint, folder: Option<PathBuf>) -> Result<(Option<Adapter>, Option<PathBuf>)> {
    match (folder, base.head()?) {
        (Some(folder), _) => Ok((Some(Adapter::load(&folder, &base.config)?), Some(folder))),
        (None, Some(head)) => Ok((Some(Adapter::of_head(head, &base.config)), base.folder.clone())),
        (None, None) => Ok((None, None)),
    }
}

/// Finds a part of the embedded default: in $REWARDEN_MODELS, beside the executable, in the source tree.
pub fn embedded(part: &str) -> Result<PathBuf> {
    let given = std::env::var_os("REWARDEN_MODELS").map(PathBuf::from);
    let beside =
        std::env::current_exe().ok().and_then(|exe| Some(exe.canonicalize().ok()?.parent()?.join("models")));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let places: Vec<PathBuf> = given.into_iter().chain(beside).chain([source]).collect();
    places.iter().map(|place| place.join(part)).find(|path| path.exists()).ok_or_else(|| {
        let places: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
        let hint = "hint: set `REWARDEN_MODELS` to the folder that holds it, or give `--model`";
        Error::Usage(format!("no embedded model: `{part}` is not in {} ({hint})", places.join(", ")))
    })
}

//! A LoRA adapter in PEFT's layout: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! Read: low-rank updates of any of a decoder's linear layers, with magnitudes (DoRA) or biases of their own, and of the embedding;
//! trained biases; saved modules, the reward head among them. Whatever else a configuration turns on is refused by name.
//! Uncertain are the factors of the linear layers and the head; everything else is taken as it is.

use super::{
    checkpoint::{MAX_JSON, tensors},
    config::Config,
    head::Head,
    site::{Factor, HEAD, Projection, Site},
};
use crate::{Error, Result, files, nn::linear::Lora};
use candle_core::{DType, Device, Tensor};
use rand::{Rng, SeedableRng};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

mod peft;
mod render;

/// What PEFT puts before the names of a model's tensors.
const PREFIX: &str = "base_model.model.";
const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// Bytes for a header, and for what is small.
const SLACK: u64 = 16 << 20;

/// How the low-rank updates are formed.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraSpec {
    pub rank: usize,
    pub alpha: f64,
    /// Scale alpha / sqrt(r) (Kalajdzievski, 2023) instead of alpha / r.
    pub rslora: bool,
    pub targets: Vec<Projection>,
}

impl LoraSpec {
    /// s.
    pub fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.rslora { rank.sqrt() } else { rank }
    }
}

/// Trainable weights over a frozen base.
#[derive(Debug, Clone)]
pub struct Adapter {
    /// What holds where a site in `lora` has no other rank or scale.
    pub spec: LoraSpec,
    /// Layers of the base.
    pub layers: usize,
    pub lora: BTreeMap<Site, Lora>,
    /// The reward head, where the adapter has its own.
    pub head: Option<Head>,
    /// The update of the token embedding: A (r, V), B (C, r).
    pub embedding: Option<Lora>,
    /// The name of its module.
    pub embedding_module: &'static str,
    /// The base's tensors that were trained as they are, by their names there, each with its name in the file.
    pub replaced: BTreeMap<String, (String, Tensor)>,
}

/// Bytes that a file may have with updates of these sites and whatever else of the base, in f64.
fn largest(base: &Config, sites: &[(Site, usize, f64)]) -> u64 {
    let elements = |shape: &[usize]| shape.iter().map(|size| *size as u64).fold(1, u64::saturating_mul);
    let update = |(site, rank, _): &(Site, usize, f64)| {
        let (d_out, d_in) = site.projection.shape(base);
        // A higher rank than the matrix has adds nothing.
        elements(&[(*rank).min(d_out.max(d_in)), d_out.saturating_add(d_in)])
    };
    let all = base.tensors().into_iter().map(|(_, shape)| elements(&shape)).chain(sites.iter().map(update));
    all.fold(0, u64::saturating_add).saturating_mul(8).saturating_add(SLACK)
}

impl Adapter {
    /// Reads the adapter in `folder` and checks it against the base's shapes.
    pub fn load(folder: &Path, base: &Config) -> Result<Self> {
        let path = folder.join(CONFIG);
        let json = files::read(&path, MAX_JSON)?;
        let peft::Parsed { spec, sites, head, embedding, with } = peft::parse(&path, &json, base)?;
        let path = folder.join(WEIGHTS);
        let most = largest(base, &sites);
        let mut file = File { tensors: tensors::read(&path, most)?.0, problems: Vec::new() };
        let mut lora = BTreeMap::new();
        for (site, rank, scale) in sites {
            let (d_out, d_in) = site.projection.shape(base);
            let module = format!("{PREFIX}{site}");
            let a = file.take(&format!("{}.weight", site.block(Factor::A)), &[rank, d_in]);
            let b = file.take(&format!("{}.weight", site.block(Factor::B)), &[d_out, rank]);
            let mut of_rows =
                |there: bool, part| there.then(|| file.take(&format!("{module}.{part}"), &[d_out]));
            let magnitude = of_rows(with.magnitudes, "lora_magnitude_vector").flatten();
            let bias = of_rows(with.lora_biases, "lora_B.bias").flatten();
            if let (Some(a), Some(b)) = (a, b) {
                lora.insert(site, Lora::new(a, b, scale).with_rows(magnitude, bias));
            }
        }
        let head = if head { file.head(base.hidden_size) } else { None };
        let embedding = embedding.and_then(|(rank, scale)| {
            let module = base.names.embedding_module();
            let mut part = |name, shape| file.take(&format!("{PREFIX}{module}.lora_embedding_{name}"), shape);
            let (a, b) = (part("A", &[rank, base.vocab_size]), part("B", &[base.hidden_size, rank]));
            Some(Lora::new(a?, b?, scale))
        });
        let replaced = file.replaced(base, &with);
        file.finish(&path)?;
        Ok(Self { embedding, replaced, ..Self::plain(spec, lora, head, base) })
    }

    /// No update, and a head that the base brings: what is uncertain in a reward model without an adapter.
    pub fn of_head(head: Head, base: &Config) -> Self {
        let spec = LoraSpec { rank: 1, alpha: 1.0, rslora: false, targets: Vec::new() };
        Self::plain(spec, BTreeMap::new(), Some(head), base)
    }

    /// Updates and a head, and nothing else.
    fn plain(spec: LoraSpec, lora: BTreeMap<Site, Lora>, head: Option<Head>, base: &Config) -> Self {
        Self {
            spec,
            layers: base.layers,
            lora,
            head,
            embedding: None,
            embedding_module: base.names.embedding_module(),
            replaced: BTreeMap::new(),
        }
    }

    /// New weights as PEFT makes them: A uniform in ±1/sqrt(d_in), B zero; the head normal, of deviation 0.02.
    pub fn init(spec: LoraSpec, base: &Config, seed: u64) -> Result<Self> {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let mut lora = BTreeMap::new();
        let targets = |site: &Site| spec.targets.contains(&site.projection);
        for site in Site::all(base).filter(targets) {
            let (d_out, d_in) = site.projection.shape(base);
            let bound = 1.0 / (d_in as f32).sqrt();
            let a: Vec<f32> = (0..spec.rank * d_in).map(|_| rng.random_range(-bound..bound)).collect();
            let a = Tensor::from_vec(a, (spec.rank, d_in), &Device::Cpu)?;
            let b = Tensor::zeros((d_out, spec.rank), DType::F32, &Device::Cpu)?;
            lora.insert(site, Lora::new(a, b, spec.scale()));
        }
        let head: Vec<f32> = (0..base.hidden_size).map(|_| 0.02 * normal(&mut rng)).collect();
        let weight = Tensor::from_vec(head, (1, base.hidden_size), &Device::Cpu)?;
        let head = Some(Head { weight, bias: None });
        let found: Vec<Projection> = base.names.linears.concat();
        let targets = found.into_iter().filter(|projection| spec.targets.contains(projection)).collect();
        let spec = LoraSpec { targets, ..spec };
        if lora.is_empty() {
            return Err(Error::Usage("--targets: the model has no such linear layer".into()));
        }
        Ok(Self::plain(spec, lora, head, base))
    }

    /// Writes the adapter as PEFT does; `base` is the name that PEFT shows for the base model.
    ///
    /// An old configuration goes first and the new one comes last: what is interrupted leaves a folder that says it is no adapter, never
    /// the weights of one beside the configuration of another.
    pub fn save(&self, folder: &Path, base: &str) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let config = folder.join(CONFIG);
        match std::fs::remove_file(&config) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(&config)(e)),
            _ => {}
        }
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        tensors::write(&folder.join(WEIGHTS), &self.tensors(), metadata)?;
        tensors::replace(&config, render::render(self, base).as_bytes())
    }

    /// Names in the file of what is trained there and taken as it is here.
    pub fn fixed(&self) -> impl Iterator<Item = String> {
        self.tensors().into_keys().filter(|name| {
            let uncertain = [".lora_A.weight", ".lora_B.weight"].iter().any(|end| name.ends_with(end));
            !uncertain && name.strip_suffix(".weight") != Some(HEAD)
        })
    }

    /// Every tensor under its name in the file.
    fn tensors(&self) -> BTreeMap<String, Tensor> {
        let mut all: BTreeMap<String, Tensor> =
            self.blocks().into_iter().map(|(name, tensor)| (format!("{name}.weight"), tensor)).collect();
        for (site, lora) in &self.lora {
            let parts = [("lora_magnitude_vector", &lora.magnitude), ("lora_B.bias", &lora.bias)];
            let there = parts.into_iter().filter_map(|(part, tensor)| Some((part, tensor.clone()?)));
            all.extend(there.map(|(part, tensor)| (format!("{PREFIX}{site}.{part}"), tensor)));
        }
        if let Some(lora) = &self.embedding {
            let module = format!("{PREFIX}{}", self.embedding_module);
            all.insert(format!("{module}.lora_embedding_A"), lora.a.clone());
            all.insert(format!("{module}.lora_embedding_B"), lora.b.clone());
        }
        all.extend(self.replaced.values().cloned());
        let bias = self.head.as_ref().and_then(|head| head.bias.clone());
        all.extend(bias.map(|bias| (format!("{HEAD}.bias"), bias)));
        all
    }

    /// Every trainable matrix under its block name: lora_A (r, d_in), lora_B (d_out, r), the head (1, C).
    pub fn blocks(&self) -> BTreeMap<String, Tensor> {
        let factors = self.lora.iter().flat_map(|(site, lora)| {
            [(site.block(Factor::A), lora.a.clone()), (site.block(Factor::B), lora.b.clone())]
        });
        factors.chain(self.head.iter().map(|head| (HEAD.to_owned(), head.weight.clone()))).collect()
    }

    /// SHA-256 over the tensors in the order of their names: name, each dimension as u64, values as f32; all
    /// little-endian.
    pub fn sha256(&self) -> Result<String> {
        let mut hash = Sha256::new();
        for (name, tensor) in self.tensors() {
            hash.update(name);
            tensor.dims().iter().for_each(|d| hash.update((*d as u64).to_le_bytes()));
            let values: Vec<f32> = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
            values.iter().for_each(|x| hash.update(x.to_le_bytes()));
        }
        Ok(crate::digest::hex(hash.finalize()))
    }
}

/// The adapter's file, from which tensors are taken, and what is wrong with it.
struct File {
    tensors: BTreeMap<String, Tensor>,
    problems: Vec<String>,
}

impl File {
    fn take(&mut self, name: &str, shape: &[usize]) -> Option<Tensor> {
        let problem = match self.tensors.remove(name) {
            None => format!("{name} is missing"),
            Some(tensor) if tensor.dims() != shape => {
                format!("{name} has shape {:?}, expected {shape:?}", tensor.dims())
            }
            Some(tensor) => match tensor.to_dtype(DType::F32) {
                Ok(tensor) if tensors::all_finite(&tensor).unwrap_or(false) => return Some(tensor),
                _ => format!("{name} holds a number that is not finite"),
            },
        };
        self.problems.push(problem);
        None
    }

    /// The head, of any number of outputs.
    fn head(&mut self, hidden: usize) -> Option<Head> {
        let [weight, bias] = ["weight", "bias"].map(|part| format!("{HEAD}.{part}"));
        let outputs = self.tensors.get(&weight).and_then(|t| t.dims().first().copied()).unwrap_or(1);
        let weight = self.take(&weight, &[outputs, hidden])?;
        let bias = if self.tensors.contains_key(&bias) { Some(self.take(&bias, &[outputs])?) } else { None };
        Some(Head { weight, bias })
    }

    /// Saved modules and trained biases: tensors of the base, under its names.
    fn replaced(&mut self, base: &Config, with: &peft::With) -> BTreeMap<String, (String, Tensor)> {
        let mut replaced = BTreeMap::new();
        for (name, shape) in base.tensors() {
            let Some((module, part)) = name.rsplit_once('.') else { continue };
            // A layer that has an update is wrapped.
            let wrapped = format!("{PREFIX}{module}.base_layer.{part}");
            let plain = format!("{PREFIX}{name}");
            let wanted = with.saves(module)
                || (part == "bias" && with.biases)
                || (name == base.names.embedding && with.embedding);
            let there = [&plain, &wrapped].into_iter().find(|key| wanted && self.tensors.contains_key(*key));
            // What was saved whole must be there: the base's own would be another model.
            let key = there.or(with.saves(module).then_some(&plain)).cloned();
            let taken = key.and_then(|key| Some((self.take(&key, &shape)?, key)));
            if let Some((tensor, key)) = taken {
                replaced.insert(name, (key, tensor));
            }
        }
        // The language model's head, which a reward model does not read; copies of a saved module's biases.
        let copies = [".modules_to_save.bias", ".original_module.bias"];
        self.tensors.retain(|name, _| {
            let head = with.saves("lm_head") && name.ends_with(".lm_head.weight");
            let copy = with.biases && copies.iter().any(|end| name.ends_with(end));
            !(head || copy)
        });
        replaced
    }

    fn finish(mut self, path: &Path) -> Result<()> {
        self.problems.extend(self.tensors.keys().map(|name| format!("{name} belongs nowhere")));
        if self.problems.is_empty() { Ok(()) } else { Err(Error::file(path, self.problems.join("; "))) }
    }
}

/// A standard normal number (Box and Muller, 1958).
fn normal(rng: &mut impl Rng) -> f32 {
    let (u, v): (f32, f32) = (1.0 - rng.random::<f32>(), rng.random());
    (-2.0 * u.ln()).sqrt() * (std::f32::consts::TAU * v).cos()
}

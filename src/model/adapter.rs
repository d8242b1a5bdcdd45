//! A LoRA adapter in PEFT's layout: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! Read: rank, alpha, rsLoRA, any subset of a decoder's linear layers, and the reward head as a saved module. Whatever
//! else a configuration turns on is refused by name.

use super::{
    checkpoint::tensors,
    config::Config,
    site::{Factor, HEAD, Projection, Site},
};
use crate::{Error, Result, nn::linear::Lora};
use candle_core::{DType, Device, Tensor};
use rand::{Rng, SeedableRng};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

mod peft;
mod render;

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

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
    /// The reward head (1, C), where the adapter has its own.
    pub head: Option<Tensor>,
}

impl Adapter {
    /// Reads the adapter in `folder` and checks it against the base's shapes.
    pub fn load(folder: &Path, base: &Config) -> Result<Self> {
        let path = folder.join(CONFIG);
        let json = std::fs::read(&path).map_err(Error::io(&path))?;
        let peft::Parsed { spec, sites, head } = peft::parse(&path, &json, base)?;
        let path = folder.join(WEIGHTS);
        let (mut found, _) = tensors::read(&path)?;
        let mut problems = Vec::new();
        let mut take = |name: &str, shape: [usize; 2]| match found.remove(&format!("{name}.weight")) {
            Some(tensor) if tensor.dims() == shape => match tensor.to_dtype(DType::F32) {
                Ok(tensor) if tensors::all_finite(&tensor).unwrap_or(false) => Some(tensor),
                _ => {
                    problems.push(format!("{name}.weight holds a number that is not finite"));
                    None
                }
            },
            Some(tensor) => {
                problems.push(format!("{name}.weight has shape {:?}, expected {shape:?}", tensor.dims()));
                None
            }
            None => {
                problems.push(format!("{name}.weight is missing"));
                None
            }
        };
        let mut lora = BTreeMap::new();
        for (site, rank, scale) in sites {
            let (d_out, d_in) = site.projection.shape(base);
            let a = take(&site.block(Factor::A), [rank, d_in]);
            let b = take(&site.block(Factor::B), [d_out, rank]);
            if let (Some(a), Some(b)) = (a, b) {
                lora.insert(site, Lora { a, b, scale });
            }
        }
        let head = if head { take(HEAD, [1, base.hidden_size]) } else { None };
        problems.extend(found.keys().map(|name| format!("{name} belongs nowhere")));
        if !problems.is_empty() {
            return Err(Error::file(path, problems.join("; ")));
        }
        Ok(Self { spec, layers: base.layers, lora, head })
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
            lora.insert(site, Lora { a, b, scale: spec.scale() });
        }
        let head: Vec<f32> = (0..base.hidden_size).map(|_| 0.02 * normal(&mut rng)).collect();
        let head = Tensor::from_vec(head, (1, base.hidden_size), &Device::Cpu)?;
        let found: Vec<Projection> = base.names.linears.concat();
        let targets = found.into_iter().filter(|projection| spec.targets.contains(projection)).collect();
        let spec = LoraSpec { targets, ..spec };
        if lora.is_empty() {
            return Err(Error::Usage("--targets: the model has no such linear layer".into()));
        }
        Ok(Self { spec, layers: base.layers, lora, head: Some(head) })
    }

    /// Writes the adapter as PEFT does; `base` is the name that PEFT shows for the base model.
    pub fn save(&self, folder: &Path, base: &str) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let tensors =
            self.blocks().into_iter().map(|(name, tensor)| (format!("{name}.weight"), tensor)).collect();
        tensors::write(&folder.join(WEIGHTS), &tensors, metadata)?;
        tensors::replace(&folder.join(CONFIG), render::render(self, base).as_bytes())
    }

    /// Every trainable matrix under its block name: lora_A (r, d_in), lora_B (d_out, r), the head (1, C).
    pub fn blocks(&self) -> BTreeMap<String, Tensor> {
        let factors = self.lora.iter().flat_map(|(site, lora)| {
            [(site.block(Factor::A), lora.a.clone()), (site.block(Factor::B), lora.b.clone())]
        });
        factors.chain(self.head.iter().map(|head| (HEAD.to_owned(), head.clone()))).collect()
    }

    /// SHA-256 over the tensors in the order of their names: name, each dimension as u64, values as f32; all
    /// little-endian.
    pub fn sha256(&self) -> Result<String> {
        let mut hash = Sha256::new();
        for (name, tensor) in self.blocks() {
            hash.update(format!("{name}.weight"));
            tensor.dims().iter().for_each(|d| hash.update((*d as u64).to_le_bytes()));
            let values: Vec<f32> = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
            values.iter().for_each(|x| hash.update(x.to_le_bytes()));
        }
        Ok(crate::digest::hex(hash.finalize()))
    }
}

/// A standard normal number (Box and Muller, 1958).
fn normal(rng: &mut impl Rng) -> f32 {
    let (u, v): (f32, f32) = (1.0 - rng.random::<f32>(), rng.random());
    (-2.0 * u.ln()).sqrt() * (std::f32::consts::TAU * v).cos()
}

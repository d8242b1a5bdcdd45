//! What a fit leaves on disk so that it can go on: the sums of each pass, in a file each beside the posterior.
//!
//! The factors of the first pass weigh more than the model; the second pass, which only reads them, saves its own few.
//! A checkpoint carries the fingerprint of the fit (data, options, adapter): another one's is refused rather than mixed in.

use super::{first::First, second::Second};
use crate::{
    Error, Result,
    model::checkpoint::tensors,
    posterior::fit::{Factors, Gram, HeadFactor},
};
use candle_core::{DType, Device, Tensor};
use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

const FINGERPRINT: &str = "fingerprint";
/// Tensors of the first pass: `head`, and three for each block.
const HEAD: &str = "head";
const INPUT: &str = "input";
const OUTPUT: &str = "output";
const WEIGHT: &str = "weight";
/// log likelihood, then the weights of all pairs, and how many each batch has.
const LOG_LIKELIHOOD: &str = "log_likelihood";
const WEIGHTS: &str = "weights";
const COUNTS: &str = "counts";
/// Tensors of the second pass: the number of batches, and two for each block.
const BATCHES: &str = "batches";
const SUM: &str = "sum";
const TRACE: &str = "trace";

/// The files of an unfinished fit.
#[derive(Debug)]
pub struct Store {
    first: PathBuf,
    second: PathBuf,
    fingerprint: String,
}

type Tensors = BTreeMap<String, Tensor>;

impl Store {
    /// For a fit whose posterior will be at `output`.
    pub fn new(output: &Path, fingerprint: String) -> Self {
        let beside = |end: &str| {
            let mut path = output.as_os_str().to_owned();
            path.push(end);
            PathBuf::from(path)
        };
        Self { first: beside(".pass1"), second: beside(".pass2"), fingerprint }
    }

    pub fn exists(&self) -> bool {
        self.first.exists()
    }

    /// Removes the state of a fit that has ended.
    pub fn finish(&self) -> Result<()> {
        // The second file means nothing without the first, so it goes first.
        for path in [&self.second, &self.first] {
            if path.exists() {
                std::fs::remove_file(path).map_err(Error::io(path))?;
            }
        }
        Ok(())
    }

    pub(super) fn save_first(&self, first: &First) -> Result<()> {
        let mut all = Tensors::new();
        for (name, factors) in &first.factors {
            let Factors { input, output, weight } = factors;
            all.insert(key(INPUT, name), input.to_tensor()?);
            all.insert(key(OUTPUT, name), output.to_tensor()?);
            all.insert(key(WEIGHT, name), vector(&[*weight])?);
        }
        if let Some(head) = &first.head {
            all.insert(HEAD.to_owned(), head.exact.to_tensor()?);
        }
        let counts: Vec<f64> = first.weights.iter().map(|batch| batch.len() as f64).collect();
        all.insert(COUNTS.to_owned(), vector(&counts)?);
        all.insert(WEIGHTS.to_owned(), vector(&first.weights.concat())?);
        all.insert(LOG_LIKELIHOOD.to_owned(), vector(&[first.log_likelihood])?);
        self.write(&self.first, &all)
    }

    pub(super) fn load_first(&self) -> Result<Option<First>> {
        let Some(mut file) = self.read(&self.first)? else { return Ok(None) };
        let weights = file.numbers(WEIGHTS)?;
        let mut rest = weights.iter().copied();
        let batches = file.numbers(COUNTS)?.into_iter();
        let batches = batches.map(|count| rest.by_ref().take(count as usize).collect()).collect();
        let log_likelihood = file.number(LOG_LIKELIHOOD)?;
        let head = file.tensors.contains_key(HEAD).then(|| file.gram(HEAD)).transpose()?;
        let mut factors = BTreeMap::new();
        for name in file.names(INPUT) {
            let (input, output) = (file.gram(&key(INPUT, &name))?, file.gram(&key(OUTPUT, &name))?);
            let weight = file.number(&key(WEIGHT, &name))?;
            factors.insert(name, Factors { input, output, weight });
        }
        let head = head.map(|exact| HeadFactor { exact });
        Ok(Some(First { factors, head, weights: batches, log_likelihood }))
    }

    pub(super) fn save_second(&self, second: &Second) -> Result<()> {
        let mut all = Tensors::from([(BATCHES.to_owned(), vector(&[second.batches as f64])?)]);
        for (name, ekfac) in &second.sums {
            all.insert(key(SUM, name), ekfac.sum.clone());
            all.insert(key(TRACE, name), vector(&[ekfac.trace])?);
        }
        self.write(&self.second, &all)
    }

    /// Puts saved sums in the place of the zeros that `second` starts with.
    pub(super) fn load_second(&self, second: &mut Second) -> Result<()> {
        let Some(mut file) = self.read(&self.second)? else { return Ok(()) };
        second.batches = file.number(BATCHES)? as usize;
        for (name, ekfac) in &mut second.sums {
            ekfac.sum = file.take(&key(SUM, name))?;
            ekfac.trace = file.number(&key(TRACE, name))?;
        }
        Ok(())
    }

    fn write(&self, path: &Path, all: &Tensors) -> Result<()> {
        tensors::write(path, all, HashMap::from([(FINGERPRINT.to_owned(), self.fingerprint.clone())]))
    }

    fn read(&self, path: &Path) -> Result<Option<Saved>> {
        if !path.exists() {
            return Ok(None);
        }
        let (tensors, metadata) = tensors::read(path)?;
        match metadata.get(FINGERPRINT) == Some(&self.fingerprint) {
            true => Ok(Some(Saved { path: path.to_owned(), tensors })),
            false => {
                let hint = "hint: give the same adapter, data and options, or another `--output`";
                Err(Error::file(path, format!("belongs to another fit ({hint})")))
            }
        }
    }
}

/// A file as it was read, taken apart piece by piece.
struct Saved {
    path: PathBuf,
    tensors: Tensors,
}

impl Saved {
    fn take(&mut self, name: &str) -> Result<Tensor> {
        self.tensors.remove(name).ok_or_else(|| Error::file(&self.path, format!("{name} is missing")))
    }

    fn numbers(&mut self, name: &str) -> Result<Vec<f64>> {
        Ok(self.take(name)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
    }

    fn number(&mut self, name: &str) -> Result<f64> {
        let first = self.numbers(name)?.first().copied();
        first.ok_or_else(|| Error::file(&self.path, format!("{name} is empty")))
    }

    fn gram(&mut self, name: &str) -> Result<Gram> {
        Gram::from_tensor(&self.take(name)?)
    }

    /// Blocks that have a tensor of this kind.
    fn names(&self, kind: &str) -> Vec<String> {
        let split = self.tensors.keys().filter_map(|name| name.split_once(':'));
        split.filter(|(k, _)| *k == kind).map(|(_, block)| block.to_owned()).collect()
    }
}

fn key(kind: &str, block: &str) -> String {
    format!("{kind}:{block}")
}

fn vector(values: &[f64]) -> Result<Tensor> {
    Ok(Tensor::new(values, &Device::Cpu)?)
}

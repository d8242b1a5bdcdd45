//! What a fit leaves on disk so that it can go on: the sums of each pass, in a file each beside the posterior.
//!
//! The factors of the first pass weigh more than the model; the second pass, which only reads them, saves its own few.
//! A checkpoint carries the fingerprint of the fit (data, options, adapter): another one's is refused rather than mixed in.

use super::{first::First, second::Second, sketched::Sketched};
use crate::{
    Error, Result,
    model::{checkpoint::tensors, site},
    posterior::fit::{Factors, Gram, HeadFactor},
    train::Example,
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
/// Tensors of a sketch, beside the weights and the number of batches.
const FEATURES: &str = "features";
const DIFFERENCES: &str = "differences";
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

    /// The saved sums, which must be of these parameters and of the first of these batches.
    pub(super) fn load_first(
        &self,
        parameters: &Tensors,
        batches: &[Vec<&Example>],
    ) -> Result<Option<First>> {
        let Some(mut file) = self.read(&self.first)? else { return Ok(None) };
        let weights = file.numbers(WEIGHTS)?;
        let mut rest = weights.iter().copied();
        let counts = file.numbers(COUNTS)?;
        let known = counts.len() <= batches.len()
            && counts.iter().zip(batches).all(|(count, batch)| *count == batch.len() as f64);
        if !known || weights.len() as f64 != counts.iter().sum::<f64>() {
            return Err(file.wrong(format!("{COUNTS} and {WEIGHTS} are not those of the data's batches")));
        }
        let counts = counts.into_iter();
        let batches = counts.map(|count| rest.by_ref().take(count as usize).collect()).collect();
        let log_likelihood = file.number(LOG_LIKELIHOOD)?;
        let mut factors = BTreeMap::new();
        for name in file.names(INPUT) {
            let (d_out, d_in) = file.shape(parameters, &name)?;
            let input = file.gram(&key(INPUT, &name), d_in)?;
            let output = file.gram(&key(OUTPUT, &name), d_out)?;
            let weight = file.number(&key(WEIGHT, &name))?;
            factors.insert(name, Factors { input, output, weight });
        }
        let head = match file.tensors.contains_key(HEAD) {
            true => {
                let (_, size) = file.shape(parameters, site::HEAD)?;
                Some(HeadFactor { exact: file.gram(HEAD, size)? })
            }
            false => None,
        };
        if !weights.is_empty() && factors.len() + usize::from(head.is_some()) != parameters.len() {
            return Err(file.wrong("sums of some blocks are missing".into()));
        }
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

    /// Puts saved sums, of at most `batches` batches, in the place of the zeros that `second` starts with.
    pub(super) fn load_second(&self, second: &mut Second, batches: usize) -> Result<()> {
        let Some(mut file) = self.read(&self.second)? else { return Ok(()) };
        second.batches = file.number(BATCHES)? as usize;
        if second.batches > batches {
            return Err(file.wrong(format!("{BATCHES}: {} of {batches}", second.batches)));
        }
        for (name, ekfac) in &mut second.sums {
            let sum = file.take(&key(SUM, name))?;
            if sum.dims() != ekfac.sum.dims() {
                let (got, want) = (sum.dims(), ekfac.sum.dims());
                return Err(file.wrong(format!("{SUM}:{name} has shape {got:?}, expected {want:?}")));
            }
            ekfac.sum = sum;
            ekfac.trace = file.number(&key(TRACE, name))?;
        }
        Ok(())
    }

    pub(super) fn save_sketched(&self, sketched: &Sketched) -> Result<()> {
        if sketched.features.is_empty() {
            return Ok(());
        }
        let all = Tensors::from([
            (FEATURES.to_owned(), sketched.features()?),
            (DIFFERENCES.to_owned(), vector(&sketched.differences)?),
            (WEIGHTS.to_owned(), vector(&sketched.weights)?),
            (BATCHES.to_owned(), vector(&[sketched.batches as f64])?),
        ]);
        self.write(&self.first, &all)
    }

    /// The saved pairs, of `features` numbers each, which must be as many as the first of these batches have.
    pub(super) fn load_sketched(
        &self,
        features: usize,
        batches: &[Vec<&Example>],
    ) -> Result<Option<Sketched>> {
        let Some(mut file) = self.read(&self.first)? else { return Ok(None) };
        let (count, saved) = (file.number(BATCHES)? as usize, file.take(FEATURES)?);
        let (differences, weights) = (file.numbers(DIFFERENCES)?, file.numbers(WEIGHTS)?);
        let pairs: usize = batches.iter().take(count).map(Vec::len).sum();
        let fits = count <= batches.len() && saved.dims() == [pairs, features];
        if !fits || differences.len() != pairs || weights.len() != pairs {
            return Err(
                file.wrong(format!("{FEATURES}, {DIFFERENCES} and {WEIGHTS} are not those of {pairs} pairs"))
            );
        }
        Ok(Some(Sketched { features: vec![saved], differences, weights, batches: count }))
    }

    fn write(&self, path: &Path, all: &Tensors) -> Result<()> {
        tensors::write(path, all, HashMap::from([(FINGERPRINT.to_owned(), self.fingerprint.clone())]))
    }

    fn read(&self, path: &Path) -> Result<Option<Saved>> {
        if !path.exists() {
            return Ok(None);
        }
        let (tensors, metadata) = tensors::read(path, tensors::OWN)?;
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
    fn wrong(&self, message: String) -> Error {
        Error::file(&self.path, message)
    }

    fn take(&mut self, name: &str) -> Result<Tensor> {
        self.tensors.remove(name).ok_or_else(|| self.wrong(format!("{name} is missing")))
    }

    /// (d_out, d_in) of the parameter of this name.
    fn shape(&self, parameters: &Tensors, name: &str) -> Result<(usize, usize)> {
        let parameter = parameters.get(name).ok_or_else(|| self.wrong(format!("{name} belongs nowhere")))?;
        Ok(parameter.dims2()?)
    }

    fn numbers(&mut self, name: &str) -> Result<Vec<f64>> {
        Ok(self.take(name)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
    }

    fn number(&mut self, name: &str) -> Result<f64> {
        let first = self.numbers(name)?.first().copied();
        first.ok_or_else(|| self.wrong(format!("{name} is empty")))
    }

    /// A symmetric matrix, stored as its dim (dim + 1) / 2 numbers.
    fn gram(&mut self, name: &str, dim: usize) -> Result<Gram> {
        let (packed, want) = (self.take(name)?, dim * (dim + 1) / 2);
        match packed.dims() == [want] && packed.dtype() == DType::F64 {
            true => Gram::from_tensor(&packed),
            false => Err(self.wrong(format!("{name} has shape {:?}, expected [{want}]", packed.dims()))),
        }
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

//! What a training run leaves on disk so that it can go on: blocks, moments, and the losses so far.
//!
//! A checkpoint carries the fingerprint of the run (data, options, base): another run's is refused rather than mixed in.

use super::{Step, optim::State};
use crate::{Error, Result, model::checkpoint::tensors};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

const STATE: &str = "checkpoint.safetensors";
const LOSSES: &str = "losses.jsonl";
/// Metadata keys of the state.
const FINGERPRINT: &str = "fingerprint";
const STEPS: &str = "steps";
/// What a tensor's name begins with.
const KINDS: [&str; 3] = ["block", "first", "second"];

/// The files of a run in its output folder.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    fingerprint: String,
}

/// A line of the record of losses.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Counted from 1.
    pub step: usize,
    pub loss: f64,
    pub accuracy: f64,
    pub gradient_norm: f64,
    pub learning_rate: f64,
    /// Tokens so far.
    pub tokens: usize,
}

impl Record {
    pub fn new(step: usize, done: Step, learning_rate: f64, tokens: usize) -> Self {
        let Step { loss, accuracy, gradient_norm } = done;
        Self { step, loss, accuracy, gradient_norm, learning_rate, tokens }
    }
}

/// A run as it was saved.
pub struct Saved {
    pub blocks: BTreeMap<String, Tensor>,
    pub optimizer: State,
    pub records: Vec<Record>,
}

impl Store {
    pub fn new(folder: &Path, fingerprint: String) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        Ok(Self { folder: folder.to_owned(), fingerprint })
    }

    pub fn exists(&self) -> bool {
        self.folder.join(STATE).exists()
    }

    /// Saves the losses, then the state that they led to.
    pub fn save(
        &self,
        blocks: &BTreeMap<String, Tensor>,
        optimizer: &State,
        records: &[Record],
    ) -> Result<()> {
        let path = self.folder.join(LOSSES);
        let lines: Result<Vec<String>> =
            records.iter().map(|r| serde_json::to_string(r).map_err(|e| Error::file(&path, e))).collect();
        tensors::replace(&path, (lines?.join("\n") + "\n").as_bytes())?;
        let mut all = BTreeMap::new();
        for (kind, part) in KINDS.iter().zip([blocks, &optimizer.first, &optimizer.second]) {
            all.extend(part.iter().map(|(name, tensor)| (format!("{kind}:{name}"), tensor.clone())));
        }
        let metadata = HashMap::from([
            (FINGERPRINT.to_owned(), self.fingerprint.clone()),
            (STEPS.to_owned(), optimizer.steps.to_string()),
        ]);
        tensors::write(&self.folder.join(STATE), &all, metadata)
    }

    /// Reads the state, whose tensors must have the names and shapes of `wanted`, and the losses up to it.
    pub fn load(&self, wanted: &BTreeMap<String, Tensor>) -> Result<Saved> {
        let path = self.folder.join(STATE);
        let (all, metadata) = tensors::read(&path, tensors::OWN)?;
        if metadata.get(FINGERPRINT) != Some(&self.fingerprint) {
            let hint = "hint: give the same data and options, or another `--output`";
            return Err(Error::file(&path, format!("belongs to another run ({hint})")));
        }
        let steps = metadata.get(STEPS).and_then(|steps| steps.parse().ok());
        let steps = steps.ok_or_else(|| Error::file(&path, "no number of steps in it"))?;
        let mut parts = KINDS.map(|_| BTreeMap::new());
        for (name, tensor) in all {
            let (kind, block) = name.split_once(':').unwrap_or_default();
            let kind = KINDS.iter().position(|known| *known == kind);
            let kind = kind.ok_or_else(|| Error::file(&path, format!("{name} belongs nowhere")))?;
            parts[kind].insert(block.to_owned(), tensor);
        }
        for (kind, part) in KINDS.iter().zip(&parts) {
            // Moments begin with the first step.
            let begun = steps > 0 || *kind == KINDS[0];
            let same = |(name, block): (&String, &Tensor)| {
                part.get(name).map_or(!begun, |saved| saved.dims() == block.dims())
            };
            if let Some((name, block)) = wanted.iter().find(|entry| !same(*entry)) {
                let shape = part.get(name).map(|saved| format!("{:?}", saved.dims()));
                let shape = shape.unwrap_or_else(|| "none".into());
                let message = format!("{kind}:{name} has shape {shape}, expected {:?}", block.dims());
                return Err(Error::file(&path, message));
            }
        }
        let [blocks, first, second] = parts;
        let records = self.records(steps)?;
        Ok(Saved { blocks, optimizer: State { steps, first, second }, records })
    }

    fn records(&self, steps: usize) -> Result<Vec<Record>> {
        let path = self.folder.join(LOSSES);
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
        let records = text.lines().take(steps).zip(1..).map(|(line, number)| {
            serde_json::from_str(line).map_err(|e| Error::Line {
                path: path.clone(),
                line: number,
                message: e.to_string(),
            })
        });
        let records: Vec<Record> = records.collect::<Result<_>>()?;
        match records.len() == steps {
            true => Ok(records),
            false => Err(Error::file(&path, format!("{} losses for {steps} steps", records.len()))),
        }
    }

    /// Removes the state of a run that has ended; its losses stay.
    pub fn finish(&self) -> Result<()> {
        let path = self.folder.join(STATE);
        match self.exists() {
            true => std::fs::remove_file(&path).map_err(Error::io(&path)),
            false => Ok(()),
        }
    }
}

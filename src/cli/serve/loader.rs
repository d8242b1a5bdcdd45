//! How an adapter becomes a model: on the one base, with the flags of the start.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    Result,
    cli::{
        model::{BaseArgs, Parts},
        scoring::{Backend, ScoringArgs},
    },
    digest,
    engine::registry::Model,
    model::checkpoint::Checkpoint,
    posterior::store,
    score::{Scorer, Want},
};

/// The base, and how it scores.
pub struct Loader {
    base: Checkpoint,
    backend: Backend,
    scoring: ScoringArgs,
    /// Tokens that a sequence may have.
    max_length: usize,
    /// Of the base and the flags.
    fingerprint: String,
}

impl Loader {
    /// Opens the base.
    pub fn new(base: &BaseArgs, scoring: &ScoringArgs, max_length: Option<usize>) -> Result<Self> {
        let (opened, backend) = (base.open()?, scoring.backend(base)?);
        let max_length = max_length.unwrap_or(usize::MAX).min(opened.config.max_length);
        let flags = format!("{:?} {:?} {max_length}", opened.outputs, scoring.compute);
        let fingerprint = digest::fingerprint([digest::of_path(&base.path()?)?, flags]);
        Ok(Self { base: opened, backend, scoring: scoring.clone(), max_length, fingerprint })
    }

    /// The adapter in a folder, or the base's own head, as a model; and its scorer, for ensembles.
    pub fn open(&self, name: &str, folder: Option<PathBuf>) -> Result<(Model, Arc<Scorer>)> {
        let own = folder.as_deref().map(digest::of_path).transpose()?;
        let fingerprint = digest::fingerprint([&self.fingerprint].into_iter().chain(&own));
        let parent = folder.as_ref().map(|_| self.base.name.clone());
        let parts = Parts::new(self.base.clone(), folder)?;
        let encoder = Arc::clone(&self.base.encoder);
        let scorer = Arc::new(parts.into_scorer(Want::MeanAndVariance, &self.scoring, &self.backend)?);
        let model = Model::new(name.to_owned(), encoder, self.max_length, Arc::clone(&scorer));
        Ok((model.on(parent).known_by(fingerprint), scorer))
    }
}

/// Bytes of memory that the adapter in a folder takes: the merged weights, and its posterior as large as its file.
pub fn bytes(scorer: &Scorer, folder: &Path) -> u64 {
    let posterior = std::fs::metadata(folder.join(store::FILE)).map_or(0, |file| file.len());
    scorer.model.bytes() as u64 + posterior
}

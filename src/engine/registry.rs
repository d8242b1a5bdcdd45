//! The models that are served, by name; the first is the default.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::{
    Error, Result,
    model::cross_encoder::CrossEncoder,
    posterior::{Novelty, Posterior},
    score::{
        Judge, Scorer,
        ensemble::Ensemble,
        rescale::{Rescaled, Scale},
    },
    text::{Encoder, Reader},
};

/// What a request needs to know of a model before it is scored.
#[derive(Debug, Clone)]
pub struct Served {
    /// The name that requests give in `model`.
    pub name: String,
    /// Turns items into the model's tokens.
    pub encoder: Arc<Encoder>,
    /// Tokens that a sequence may have.
    pub max_length: usize,
    /// Whether the model gives variances.
    pub has_posterior: bool,
    /// Tells how unusual a variance is.
    pub novelty: Option<Novelty>,
    /// The base, where the model is an adapter on one.
    pub parent: Option<String>,
}

/// A model as the engine takes it over: its description, and the scorer that moves to the worker's thread.
pub struct Model {
    /// What requests see of it.
    pub served: Served,
    /// What the worker calls.
    pub scorer: Box<dyn Judge>,
}

impl Model {
    /// Describes a scorer by what its posterior has.
    pub fn new(name: String, encoder: Arc<Encoder>, max_length: usize, scorer: Arc<Scorer>) -> Self {
        let posterior = scorer.posterior.as_ref();
        let (has_posterior, novelty) = (posterior.is_some(), posterior.and_then(Posterior::novelty));
        let served = Served { name, encoder, max_length, has_posterior, novelty, parent: None };
        Self { served, scorer: Box::new(scorer) }
    }

    /// Describes a cross-encoder, which gives no variances.
    pub fn of_means(name: String, model: CrossEncoder) -> Self {
        let Reader { encoder, max_length } = model.reader.clone();
        let parent = None;
        let served = Served { name, parent, encoder, max_length, has_posterior: false, novelty: None };
        Self { served, scorer: Box::new(model) }
    }

    /// Says which base it is an adapter on.
    pub fn on(mut self, base: Option<String>) -> Self {
        self.served.parent = base;
        self
    }

    /// Puts its rewards on another scale.
    pub fn rescaled(self, scale: Scale) -> Self {
        let novelty = self.served.novelty.map(|novelty| novelty.scaled(scale.squared()));
        let scorer = Box::new(Rescaled { inner: self.scorer, scale });
        Self { served: Served { novelty, ..self.served }, scorer }
    }

    /// Describes an ensemble, whose members share an encoder: it always gives variances, and no novelty, for its variance is not
    /// any member's.
    pub fn of_ensemble(name: String, like: &Served, ensemble: Ensemble) -> Self {
        let served = Served { name, has_posterior: true, novelty: None, ..like.clone() };
        Self { served, scorer: Box::new(ensemble) }
    }
}

/// The models in the order given; an index into it stands for a model in the queue.
#[derive(Debug)]
pub struct Registry {
    models: Vec<Served>,
    /// Seconds since 1970, when the models came into service.
    created: u64,
}

impl Registry {
    /// Makes a registry of at least one model, each with a name of its own.
    pub fn new(models: Vec<Served>) -> Result<Self> {
        if models.is_empty() {
            return Err(Error::Usage("no model to serve".into()));
        }
        let mut names = HashSet::new();
        if let Some(twice) = models.iter().find(|model| !names.insert(&model.name)) {
            let name = &twice.name;
            return Err(Error::Usage(format!(
                "two models are named `{name}` (hint: name adapters with `--adapter NAME=PATH`)"
            )));
        }
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Ok(Self { models, created })
    }

    /// Finds a model by name, or the default one, with its index.
    pub fn find(&self, name: Option<&str>) -> Result<(usize, &Served)> {
        let mut numbered = self.models.iter().enumerate();
        numbered
            .find(|(_, served)| name.is_none_or(|name| served.name == name))
            .ok_or_else(|| Error::UnknownModel(name.unwrap_or_default().to_owned()))
    }

    /// Returns the models, the default first.
    pub fn models(&self) -> &[Served] {
        &self.models
    }

    /// Returns when the models came into service, in seconds since 1970.
    pub fn created(&self) -> u64 {
        self.created
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tests::encoder;

    fn served(name: &str) -> Served {
        Served {
            name: name.into(),
            encoder: encoder(),
            max_length: 8,
            has_posterior: false,
            novelty: None,
            parent: None,
        }
    }

    #[test]
    fn the_first_model_is_the_default() {
        let registry = Registry::new(vec![served("b"), served("a")]).unwrap();
        for (name, want) in [(None, 0), (Some("b"), 0), (Some("a"), 1)] {
            assert_eq!(registry.find(name).unwrap().0, want, "{name:?}");
        }
        assert_eq!(registry.find(Some("c")).unwrap_err().to_string(), "unknown model: c");
    }

    #[test]
    fn no_model_and_two_of_one_name_are_refused() {
        assert!(Registry::new(Vec::new()).unwrap_err().to_string().starts_with("no model"));
        let twice = Registry::new(vec![served("a"), served("b"), served("a")]).unwrap_err().to_string();
        assert!(twice.starts_with("two models are named `a`"), "{twice}");
    }
}

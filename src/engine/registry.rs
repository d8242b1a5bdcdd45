//! The models that are served, by name; the first is the default.

use std::{
    collections::HashSet,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use super::generation::Generation;
use crate::{
    Error, Result, digest,
    evaluate::verdicts::Verdict,
    model::cross_encoder::CrossEncoder,
    posterior::{Novelty, Posterior},
    score::{
        Judge, Scorer,
        ensemble::Ensemble,
        penalty::{Kind, Penalty},
        rescale::{Rescaled, Scale},
        rule::{Calibration, PenaltyRule},
    },
    text::{Encoder, Reader, TokenSeq},
};

/// Tokens of the warm-up sequence.
const WARM_UP: usize = 8;

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
    /// Tells how unusual an answer is.
    pub novelty: Option<Novelty>,
    /// What penalties read of the posterior, on the scale of the rewards as they are served.
    pub calibration: Calibration,
    /// The verdicts of held-out pairs, by which `error_rate` is promised; empty where the fit stored none.
    pub verdicts: Arc<[Verdict]>,
    /// The base, where the model is an adapter on one.
    pub parent: Option<String>,
    /// Tells it from every model that answers otherwise: a digest of base, adapter, posterior, template and scale.
    pub fingerprint: String,
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
        let served = Served {
            has_posterior: posterior.is_some(),
            novelty: posterior.and_then(Posterior::novelty),
            calibration: posterior.map(Posterior::calibration).unwrap_or_default(),
            verdicts: posterior.map(Posterior::verdicts).unwrap_or_default().into(),
            ..Served::of_means(name, encoder, max_length)
        };
        Self { served, scorer: Box::new(scorer) }
    }

    /// Describes a cross-encoder, which gives no variances.
    pub fn of_means(name: String, model: CrossEncoder) -> Self {
        let Reader { encoder, max_length } = model.reader.clone();
        Self { served: Served::of_means(name, encoder, max_length), scorer: Box::new(model) }
    }

    /// Says by what it is told from others.
    pub fn known_by(mut self, fingerprint: String) -> Self {
        self.served.fingerprint = fingerprint;
        self
    }

    /// Says which base it is an adapter on.
    pub fn on(mut self, base: Option<String>) -> Self {
        self.served.parent = base;
        self
    }

    /// Puts its rewards on another scale.
    pub fn rescaled(self, scale: Scale) -> Self {
        let Self { served, scorer } = self;
        let served = Served {
            novelty: served.novelty.map(|novelty| novelty.scaled(scale.squared())),
            calibration: scale.calibration(served.calibration),
            // Probabilities of preferences are those of another scale.
            verdicts: [].into(),
            fingerprint: digest::fingerprint([served.fingerprint, format!("{scale:?}")]),
            ..served
        };
        Self { served, scorer: Box::new(Rescaled { inner: scorer, scale }) }
    }

    /// Scores once, forward and backward: what is broken shows, and what is set up at the first use is set up.
    pub fn warm_up(&mut self) -> Result<()> {
        let sequence = self.served.warming();
        self.scorer.warm_up(&sequence)
    }

    /// Describes an ensemble, whose members share an encoder: it always gives variances, and no novelty, for its variance is not
    /// any member's.
    pub fn of_ensemble(name: String, members: &[&Served], ensemble: Ensemble) -> Result<Self> {
        let like = *members.first().ok_or_else(|| Error::Usage("an ensemble of nothing".into()))?;
        let fingerprint = digest::fingerprint(members.iter().map(|member| &member.fingerprint));
        let Served { encoder, max_length, parent, .. } = like.clone();
        let alone = Served::of_means(name, encoder, max_length);
        let served = Served { has_posterior: true, parent, fingerprint, ..alone };
        Ok(Self { served, scorer: Box::new(ensemble) })
    }
}

impl Served {
    /// A model without a posterior.
    pub fn of_means(name: String, encoder: Arc<Encoder>, max_length: usize) -> Self {
        Self {
            name,
            encoder,
            max_length,
            has_posterior: false,
            novelty: None,
            calibration: Calibration::default(),
            verdicts: [].into(),
            parent: None,
            fingerprint: String::new(),
        }
    }

    /// The penalty where a request names none: the stored rule, else one standard deviation; none without a posterior.
    pub fn default_penalty(&self) -> (Penalty, PenaltyRule) {
        if !self.has_posterior {
            return (Penalty::None, PenaltyRule::of(Kind::None));
        }
        let stored = self.calibration.rule.and_then(|rule| rule.resolve(&self.calibration).ok());
        stored.unwrap_or_else(|| {
            (Penalty::default(), PenaltyRule { k: Some(1.0), ..PenaltyRule::of(Kind::Std) })
        })
    }

    /// A sequence that is scored once before all others; its values do not matter.
    pub(super) fn warming(&self) -> TokenSeq {
        let tokens = WARM_UP.min(self.max_length).max(1);
        TokenSeq { ids: vec![0; tokens], pooled: tokens - 1, truncated: false }
    }
}

/// The models, the default first.
#[derive(Debug)]
pub struct Registry {
    models: RwLock<Vec<Arc<Generation>>>,
    /// How many generations there have been.
    generations: AtomicU64,
    /// How often a model has been asked for.
    uses: AtomicU64,
}

impl Registry {
    /// Makes a registry of at least one model, each with a name of its own.
    pub fn new(models: Vec<Model>) -> Result<Self> {
        if models.is_empty() {
            return Err(Error::Usage("no model to serve".into()));
        }
        let mut names = HashSet::new();
        if let Some(twice) = models.iter().find(|model| !names.insert(&model.served.name)) {
            let name = &twice.served.name;
            return Err(Error::Usage(format!(
                "two models are named `{name}` (hint: name adapters with `--adapter NAME=PATH`)"
            )));
        }
        let generations = models.len() as u64;
        let models = (0..).zip(models).map(|(number, model)| Generation::new(model, number)).collect();
        Ok(Self {
            models: RwLock::new(models),
            generations: AtomicU64::new(generations),
            uses: AtomicU64::new(0),
        })
    }

    /// Finds a model by name, or the default one.
    pub fn find(&self, name: Option<&str>) -> Result<Arc<Generation>> {
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        let found = models.iter().find(|model| name.is_none_or(|name| model.name == name)).cloned();
        let found = found.ok_or_else(|| Error::UnknownModel(name.unwrap_or_default().to_owned()))?;
        found.use_at(self.uses.fetch_add(1, Ordering::Relaxed) + 1);
        Ok(found)
    }

    /// Returns the models, the default first.
    pub fn models(&self) -> Vec<Arc<Generation>> {
        self.models.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts a model into service, in the place of the one with its name where there is one.
    pub fn put(&self, model: Model) -> Arc<Generation> {
        let new = Generation::new(model, self.generations.fetch_add(1, Ordering::Relaxed));
        new.use_at(self.uses.load(Ordering::Relaxed));
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        match models.iter_mut().find(|model| model.name == new.name) {
            Some(place) => *place = Arc::clone(&new),
            None => models.push(Arc::clone(&new)),
        }
        new
    }

    /// Takes a model out of service; those that hold it go on with it.
    pub fn remove(&self, name: &str) -> Option<Arc<Generation>> {
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        let at = models.iter().position(|model| model.name == name)?;
        Some(models.remove(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        engine::tests::encoder,
        score::{Embed, Embedding, Estimate, Score, Want},
    };

    /// Scores nothing.
    struct Nothing;

    impl Score for Nothing {
        fn score(&mut self, _: &[&TokenSeq], _: Want) -> Result<Vec<Estimate>> {
            Ok(Vec::new())
        }

        fn warm_up(&mut self, _: &TokenSeq) -> Result<()> {
            Ok(())
        }
    }

    impl Embed for Nothing {
        fn embed(&self, _: &[&TokenSeq]) -> Result<Vec<Embedding>> {
            Ok(Vec::new())
        }

        fn has_variances(&self) -> bool {
            false
        }
    }

    fn model(name: &str) -> Model {
        let served = Served { fingerprint: name.into(), ..Served::of_means(name.into(), encoder(), 8) };
        Model { served, scorer: Box::new(Nothing) }
    }

    #[test]
    fn the_first_model_is_the_default() {
        let registry = Registry::new(vec![model("b"), model("a")]).unwrap();
        for (name, want) in [(None, "b"), (Some("b"), "b"), (Some("a"), "a")] {
            assert_eq!(registry.find(name).unwrap().name, want, "{name:?}");
        }
        assert_eq!(registry.find(Some("c")).unwrap_err().to_string(), "unknown model: c");
    }

    #[test]
    fn a_generation_stays_with_those_who_hold_it() {
        let registry = Registry::new(vec![model("b"), model("a")]).unwrap();
        let held = registry.find(Some("a")).unwrap();
        let new = registry.put(model("a"));
        assert_eq!(registry.find(Some("a")).unwrap().number(), new.number());
        let names = || registry.models().iter().map(|model| model.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(), ["b", "a"], "it keeps its place");
        registry.put(model("c"));
        assert_eq!(registry.remove("a").map(|gone| gone.number()), Some(new.number()));
        assert_eq!(names(), ["b", "c"]);
        assert!(registry.remove("a").is_none());
        // Of the first generation this is the last holder.
        assert_eq!(Arc::strong_count(&held), 1);
        let mut numbers: Vec<u64> = registry.models().iter().map(|model| model.number()).collect();
        numbers.extend([held.number(), new.number()]);
        assert_eq!(numbers.iter().collect::<HashSet<_>>().len(), 4, "no number is used twice: {numbers:?}");
    }

    #[test]
    fn what_was_asked_for_last_is_known() {
        let registry = Registry::new(vec![model("b"), model("a")]).unwrap();
        let used = |name: &str| registry.models().iter().find(|model| model.name == name).unwrap().used();
        registry.find(Some("a")).unwrap();
        assert!(used("a") > used("b"));
        registry.find(None).unwrap();
        assert!(used("b") > used("a"));
        registry.put(model("c"));
        assert!(used("c") >= used("b"), "what has just come is not the first to go");
    }

    #[test]
    fn no_model_and_two_of_one_name_are_refused() {
        assert!(Registry::new(Vec::new()).unwrap_err().to_string().starts_with("no model"));
        let twice = Registry::new(vec![model("a"), model("b"), model("a")]).unwrap_err().to_string();
        assert!(twice.starts_with("two models are named `a`"), "{twice}");
    }
}

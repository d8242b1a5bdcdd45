//! What flags say of models by name: which are an ensemble, and on which scale their rewards are.

use std::{
    collections::{BTreeMap, BTreeSet},
    str::FromStr,
    sync::Arc,
};

use crate::{
    Error, Result,
    engine::registry::{Model, Served},
    score::{Scorer, ensemble::Ensemble, rescale::Scale},
};

/// `NAME=A,B,..`: the name an ensemble is served under, and the names of its members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedEnsemble {
    pub name: String,
    pub members: Vec<String>,
}

impl FromStr for NamedEnsemble {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let hint = "expected NAME=A,B,.. with at least two members, each once";
        let (name, members) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or(hint)?;
        let members: Vec<String> = members.split(',').map(str::to_owned).collect();
        let distinct: BTreeSet<&String> = members.iter().collect();
        match distinct.len() == members.len() && members.len() > 1 && members.iter().all(|m| !m.is_empty()) {
            true => Ok(Self { name: name.into(), members }),
            false => Err(hint.into()),
        }
    }
}

impl NamedEnsemble {
    /// The ensemble of its members, which must be there.
    pub fn of(&self, scorers: &BTreeMap<String, Arc<Scorer>>, models: &[Model]) -> Result<Model> {
        let Self { name, members } = self;
        let wrong = |message: String| Error::Usage(format!("--ensemble {name}: {message}"));
        let unknown = |member: &String| wrong(format!("no `--adapter` is named `{member}`"));
        let member = |member: &String| scorers.get(member).cloned().ok_or_else(|| unknown(member));
        let ensemble = Ensemble::new(members.iter().map(member).collect::<Result<_>>()?);
        let ensemble = ensemble.map_err(|e| wrong(e.to_string()))?;
        let members: Vec<&Served> =
            models.iter().map(|model| &model.served).filter(|model| members.contains(&model.name)).collect();
        Model::of_ensemble(name.clone(), &members, ensemble)
    }
}

/// `[NAME=]SCALE[,SHIFT]`: what is done to the rewards of a model, by default the first.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedScale {
    pub name: Option<String>,
    pub scale: Scale,
}

impl FromStr for NamedScale {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let hint = "expected [NAME=]SCALE[,SHIFT], two finite numbers, the first above 0";
        let (name, numbers) = match text.rsplit_once('=') {
            Some((name, numbers)) => (Some(name.to_owned()), numbers),
            None => (None, text),
        };
        let (scale, shift) = numbers.split_once(',').unwrap_or((numbers, "0"));
        let number = |text: &str| text.trim().parse::<f64>().map_err(|_| hint);
        let scale = Scale::new(number(scale)?, number(shift)?).map_err(|_| hint)?;
        Ok(Self { name, scale })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ensemble_names_its_members() {
        let parse = |text: &str| text.parse::<NamedEnsemble>();
        let members = ["a", "b"].map(String::from).to_vec();
        assert_eq!(parse("both=a,b"), Ok(NamedEnsemble { name: "both".into(), members }));
        for wrong in ["both", "=a,b", "both=a", "both=a,a", "both=a,", "both="] {
            assert!(parse(wrong).unwrap_err().starts_with("expected NAME=A,B"), "{wrong}");
        }
    }

    #[test]
    fn a_scale_is_of_a_model() {
        let parse = |text: &str| text.parse::<NamedScale>();
        let named = |name: Option<&str>, scale, shift| {
            Ok(NamedScale { name: name.map(String::from), scale: Scale::new(scale, shift).unwrap() })
        };
        assert_eq!(parse("mine=0.5,-2"), named(Some("mine"), 0.5, -2.0));
        assert_eq!(parse("2"), named(None, 2.0, 0.0));
        for wrong in ["", "mine=", "0", "-1", "1,x", "inf", "1,2,3"] {
            assert!(parse(wrong).unwrap_err().starts_with("expected [NAME=]SCALE"), "{wrong}");
        }
    }
}

//! Further adapters, which make an ensemble with `--adapter`.

use std::sync::Arc;

use crate::{
    Error, Result,
    cli::{
        model::{ModelArgs, Parts},
        place::Place,
        scoring::ScoringArgs,
    },
    hub::Kind,
    score::{Embed, Want, ensemble::Ensemble},
};

/// Flags of every evaluation of a model or of an ensemble.
#[derive(Debug, Clone, clap::Args)]
pub struct MemberArgs {
    /// Further members of an ensemble with `--adapter`: PEFT LoRA folders on the same base, or names on the hub; repeatable
    #[arg(long, value_name = "PATH|NAME", env = "REWARDEN_MEMBER", value_delimiter = ',')]
    member: Vec<Place>,
    /// Takes of the ensemble's variance only what its members do not agree on, not their posteriors
    #[arg(long, requires = "member", env = "REWARDEN_DISAGREEMENT_ALONE")]
    disagreement_alone: bool,
}

impl MemberArgs {
    /// What is wanted of each member, where `wanted` is of the model as a whole.
    fn of_member(&self, wanted: Want) -> Want {
        if self.disagreement_alone { Want::Mean } else { wanted }
    }

    /// Whether there is no further member.
    pub fn is_alone(&self) -> bool {
        self.member.is_empty()
    }

    /// Refuses a model that has no posterior.
    pub fn check(&self, parts: &Parts) -> Result<()> {
        match (&parts.folder, parts.posterior_path()) {
            _ if self.disagreement_alone => Ok(()),
            (_, Some(_)) => Ok(()),
            (Some(folder), None) => {
                let message = format!("{} has no posterior (hint: run `fit`)", folder.display());
                Err(Error::Usage(format!("--adapter: {message}")))
            }
            (None, None) => {
                Err(Error::Usage("--adapter: needed, a posterior is over an adapter's weights".into()))
            }
        }
    }

    /// The model of these parts, or the ensemble with it as the first member.
    pub fn open(
        &self,
        parts: Parts,
        model: &ModelArgs,
        want: Want,
        scoring: &ScoringArgs,
    ) -> Result<Box<dyn Embed>> {
        let want = self.of_member(want);
        let backend = scoring.backend(&model.base)?;
        let first = parts.into_scorer(want, scoring, &backend)?;
        if self.member.is_empty() {
            return Ok(Box::new(first));
        }
        let mut members = vec![Arc::new(first)];
        for place in &self.member {
            let parts = Parts::new(model.base.open()?, Some(place.path(Kind::Adapter)?))?;
            members.push(Arc::new(parts.into_scorer(want, scoring, &backend)?));
        }
        Ok(Box::new(Ensemble::new(members)?))
    }
}

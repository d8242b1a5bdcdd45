//! Flags for pairs that are made from the data's own texts.

use super::pairs::of_sources;
use crate::{
    Error, Result,
    data::Pair,
    posterior::config::Constructed,
    train::constructed::{self, Construction},
};

#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Constructed pairs")]
pub struct ConstructedArgs {
    /// Adds pairs whose rejected answer is evidently worse, made from the data's own texts: their number, as a share of the data
    #[arg(long, default_value_t = 0.0, value_name = "SHARE", env = "REWARDEN_CONSTRUCTED")]
    pub constructed: f64,
    /// Kinds of rejected answers in constructed pairs; `evaluate selection` judges by kinds that are not among the default ones
    #[arg(long, value_name = "KINDS", value_delimiter = ',', value_enum)]
    #[arg(default_values_t = Construction::DEFAULT.to_vec(), env = "REWARDEN_CONSTRUCTED_KINDS")]
    pub constructed_kinds: Vec<Construction>,
    /// Makes no such pairs from this `source`, where a refusal may be the better answer; repeatable
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    #[arg(env = "REWARDEN_CONSTRUCTED_EXCLUDE_SOURCE")]
    pub constructed_exclude_source: Vec<String>,
    /// Makes no refusals, evasions or empty answers for this `source`, where they may be better than the chosen answer; repeatable
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    #[arg(env = "REWARDEN_CONSTRUCTED_REFUSAL_SOURCE")]
    pub constructed_refusal_source: Vec<String>,
}

impl ConstructedArgs {
    /// Refuses a share out of range.
    pub fn check(&self) -> Result<()> {
        match (0.0..=10.0).contains(&self.constructed) {
            true => Ok(()),
            false => Err(Error::Usage(format!("--constructed: {} is out of range", self.constructed))),
        }
    }

    /// What a posterior records of them; `None` where there are none.
    pub fn record(&self) -> Option<Constructed> {
        (self.constructed > 0.0).then(|| Constructed {
            share: self.constructed,
            kinds: self.constructed_kinds.iter().map(Construction::name).collect(),
            exclude_source: self.constructed_exclude_source.clone(),
            refusal_source: self.constructed_refusal_source.clone(),
        })
    }

    /// Makes the pairs; a seed gives the same ones for ever.
    pub fn pairs(&self, data: &[Pair], seed: u64) -> Vec<Pair> {
        let count = (self.constructed * data.len() as f64).round() as usize;
        let usable: Vec<&Pair> =
            data.iter().filter(|pair| !of_sources(pair, &self.constructed_exclude_source)).collect();
        let may_refuse = |pair: &Pair| of_sources(pair, &self.constructed_refusal_source);
        constructed::pairs(&usable, &self.constructed_kinds, may_refuse, count, seed)
    }
}

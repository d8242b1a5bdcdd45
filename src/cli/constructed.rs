//! Flags for pairs that are made from the data's own texts.

use clap::ValueEnum;

use super::pairs::of_sources;
use crate::{
    Error, Result,
    data::Pair,
    train::constructed::{self, Construction},
};

#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Constructed pairs")]
pub struct ConstructedArgs {
    /// Adds pairs whose rejected answer is evidently worse, made from the data's own texts: their number, as a share of the data
    #[arg(long = "constructed", default_value_t = 0.0, value_name = "SHARE", env = "REWARDEN_CONSTRUCTED")]
    pub share: f64,
    /// Kinds of rejected answers in constructed pairs
    #[arg(long = "constructed-kinds", value_name = "KINDS", value_delimiter = ',', value_enum)]
    #[arg(default_values_t = Construction::value_variants().to_vec(), env = "REWARDEN_CONSTRUCTED_KINDS")]
    pub kinds: Vec<Construction>,
    /// Makes no such pairs from this `source`, where a refusal may be the better answer; repeatable
    #[arg(long = "constructed-exclude-source", value_name = "NAME", value_delimiter = ',')]
    #[arg(env = "REWARDEN_CONSTRUCTED_EXCLUDE_SOURCE")]
    pub exclude_source: Vec<String>,
}

impl ConstructedArgs {
    /// Refuses a share out of range.
    pub fn check(&self) -> Result<()> {
        match (0.0..=10.0).contains(&self.share) {
            true => Ok(()),
            false => Err(Error::Usage(format!("--constructed: {} is out of range", self.share))),
        }
    }

    /// Makes the pairs; a seed gives the same ones for ever.
    pub fn pairs(&self, data: &[Pair], seed: u64) -> Vec<Pair> {
        let count = (self.share * data.len() as f64).round() as usize;
        let usable: Vec<&Pair> = data.iter().filter(|pair| !of_sources(pair, &self.exclude_source)).collect();
        constructed::pairs(&usable, &self.kinds, count, seed)
    }
}

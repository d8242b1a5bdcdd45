//! `rewarden evaluate pairs`: how good a reward model is on preference pairs, as a whole and by source.

use crate::{
    Result,
    cli::{model::ModelArgs, pairs::PairArgs, progress::Progress},
    evaluate::PairMeasures,
    train::{Example, run::differences},
};
use serde_json::json;
use std::collections::BTreeMap;

/// Most tokens in one forward.
const BATCH_TOKENS: usize = 2048;

#[derive(Debug, clap::Args)]
pub struct Pairs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    pairs: PairArgs,
}

impl Pairs {
    pub fn run(self) -> Result<()> {
        let Self { model, pairs } = self;
        let opened = model.open_frozen()?;
        let encoded = pairs.encode_some(pairs.read()?, &opened.base)?;
        let examples: Vec<&Example> = encoded.examples.iter().collect();
        let mut bar = Progress::new(0, examples.iter().map(|example| example.tokens()).sum());
        let differences = differences(&opened.model, &examples, BATCH_TOKENS, &mut |tokens| bar.add(tokens))?;
        bar.finish();
        let mut sources: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for (pair, difference) in encoded.pairs.iter().zip(&differences) {
            sources.entry(pair.source.as_deref().unwrap_or("unnamed")).or_default().push(*difference);
        }
        let by_source: BTreeMap<_, _> = sources.iter().map(|(name, d)| (name, PairMeasures::of(d))).collect();
        let report = json!({
            "all": PairMeasures::of(&differences), "by_source": by_source,
            "skipped": encoded.skipped, "truncated": encoded.truncated,
        });
        super::print(&report)
    }
}

//! `rewarden evaluate ood`: how well the variance separates answers out of the distribution from those in it.

use super::{family::embed, members::MemberArgs, plots::PlotArgs};
use crate::{
    Error, Result,
    cli::{
        model::{ModelArgs, Named, Parts},
        pairs::{Encoded, PairArgs},
        scoring::ScoringArgs,
    },
    data::{Pair, read_pairs},
    evaluate::{
        auroc::Auroc,
        ood::{MEASURES, Measure, Separated, Uncertainties, overall, separation, values},
    },
    plot::{self, Histogram, Scale},
    score::Want,
    shift::Shift,
    text::Reader,
};
use clap::builder::RangedU64ValueParser;
use groups::{Groups, Items};
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use std::{collections::BTreeMap, path::PathBuf};

mod groups;

/// Groups of a plot beside the items in the distribution.
const GROUPS: usize = 4;

const BINS: usize = 20;

/// Flags of `rewarden evaluate ood`.
#[derive(Debug, clap::Args)]
pub struct Ood {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    members: MemberArgs,
    #[command(flatten)]
    pairs: PairArgs,
    /// Pairs out of the distribution, such as adversarial answers beside good ones: the rejected answers are a group, compared
    /// with the chosen ones, and the chosen answers another; repeatable
    #[arg(long, value_name = "[NAME=]FILE", env = "REWARDEN_SHIFTED", value_delimiter = ',')]
    shifted: Vec<Named<PathBuf>>,
    /// Items of each group at most: so many pairs are drawn of `--data`, and of each `--shifted` file
    #[arg(long, value_name = "ITEMS", value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    #[arg(default_value_t = 200, env = "REWARDEN_MAX_ITEMS")]
    max_items: usize,
    /// Seed of `--max-items`, and of the shifts
    #[arg(long, default_value_t = 0, env = "REWARDEN_SEED")]
    seed: u64,
    #[command(flatten)]
    plots: PlotArgs,
    #[command(flatten)]
    scoring: ScoringArgs,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    in_distribution: Group<'a>,
    /// The chosen answers, the shifts, and the files, in the order in which they were given.
    groups: Vec<Group<'a>>,
    /// The mean of the areas of all groups but the chosen answers, which are in the distribution too.
    overall: BTreeMap<&'static str, Option<Auroc>>,
}

#[derive(Debug, Serialize)]
struct Group<'a> {
    name: &'a str,
    items: usize,
    /// Left out, and cut.
    too_long: usize,
    truncated: usize,
    #[serde(flatten)]
    separation: BTreeMap<&'static str, Option<Separated>>,
}

impl Ood {
    pub fn run(self) -> Result<()> {
        self.plots.prepare()?;
        let parts = self.model.parts()?;
        self.check(&parts)?;
        let groups = self.groups(&parts.base.reader())?;
        let model = self.members.open(parts, &self.model, Want::MeanAndVariance, &self.scoring)?;
        let items = groups.items(&embed(model.as_ref(), &groups.families)?);
        for (name, measure) in MEASURES {
            self.plot(&items, name, said(name), measure)?;
        }
        super::print(&report(&items))
    }

    fn check(&self, parts: &Parts) -> Result<()> {
        let want = Want::MeanAndVariance;
        if self.scoring.able(want) != want {
            return Err(Error::Usage("--compute: `int8` gives no variances".into()));
        }
        self.members.check(parts)
    }

    fn groups(&self, reader: &Reader) -> Result<Groups> {
        let drawn = self.drawn(self.pairs.read()?);
        let Encoded { pairs, examples, skipped, .. } = self.pairs.encode_some(drawn, reader)?;
        let mut groups = Groups::default();
        groups.add_pairs("in distribution", "chosen answers", examples, skipped)?;
        for shift in Shift::ALL {
            let encode =
                |input: &_, place: Option<&_>| self.pairs.sequence(shift.name(), input, place, reader);
            groups.add_shifted(shift, &pairs, self.seed, encode)?;
        }
        for Named { name, path } in &self.shifted {
            let Encoded { examples, skipped, .. } =
                self.pairs.encode(self.drawn(read_pairs(path)?), reader)?;
            groups.add_pairs(name, &format!("{name}, chosen"), examples, skipped)?;
        }
        Ok(groups)
    }

    fn drawn(&self, mut pairs: Vec<Pair>) -> Vec<Pair> {
        pairs.shuffle(&mut ChaCha8Rng::seed_from_u64(self.seed));
        pairs.truncate(self.max_items);
        pairs
    }

    /// Histograms of a standard deviation, of a few groups each, so that they can be told apart.
    fn plot(&self, items: &[Items], name: &str, x: &str, measure: Measure) -> Result<()> {
        let positive = |items: &Items| {
            let mut values = values(&items.uncertainties, measure);
            // Two answers that are the same differ by nothing, which a logarithmic axis has no place for.
            values.retain(|value| *value > 0.0);
            (!values.is_empty()).then(|| plot::Group { name: items.name.into(), values })
        };
        let inside = positive(&items[0]);
        let outside: Vec<plot::Group> = items[1..].iter().filter_map(positive).collect();
        for (at, some) in outside.chunks(GROUPS).enumerate() {
            let chart = Histogram {
                title: format!("In and out of the distribution: {x}"),
                x: x.into(),
                scale: Scale::Log,
                bins: BINS,
                groups: inside.iter().chain(some).cloned().collect(),
            };
            self.plots.save(&format!("{name}-{}", at + 1), &chart)?;
        }
        Ok(())
    }
}

/// A measure as it stands on an axis.
fn said(measure: &str) -> &str {
    match measure {
        "single" => "std of the reward",
        "difference" => "std of the difference to the good answer",
        "relative" => "std of the difference to the mean of the answers",
        "head" => "std of the reward by the head alone",
        "prior" => "std of the reward before any pair was seen",
        "one_minus_contraction" => "1 - contraction of the reward",
        "one_minus_contraction_difference" => "1 - contraction of the difference to the good answer",
        "one_minus_contraction_relative" => "1 - contraction of the difference to the mean of the answers",
        other => other,
    }
}

fn report<'a>(items: &[Items<'a>]) -> Report<'a> {
    let group = |items: &Items<'a>, against: &[Uncertainties]| Group {
        name: items.name,
        items: items.uncertainties.len(),
        too_long: items.too_long,
        truncated: items.truncated,
        separation: separation(&items.uncertainties, against),
    };
    let outside: Vec<&[Uncertainties]> =
        items[2..].iter().map(|items| items.uncertainties.as_slice()).collect();
    Report {
        in_distribution: group(&items[0], &[]),
        groups: items[1..].iter().map(|outside| group(outside, &items[0].uncertainties)).collect(),
        overall: overall(&outside, &items[0].uncertainties),
    }
}

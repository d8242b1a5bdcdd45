//! `rewarden evaluate best-of-n`: gold and proxy reward of the best of n answers, by the rule that chooses.

use super::{
    cache::{self, Cache},
    curves,
    plots::PlotArgs,
};
use crate::{
    Error, Result,
    cli::{
        model::{BaseArgs, ModelArgs, NamedAdapter, Parts, Ready, adapter_folders},
        place::Place,
        progress::{Progress, Unit},
        scoring::ScoringArgs,
    },
    data::pools::{Pool, read_pools},
    digest::hex,
    evaluate::over_optimisation::{Joint, compare},
    hub::Kind,
    model::cross_encoder::CrossEncoder,
    score::{Embed, Score, Want, batched, in_batches},
    text::{Limit, Reader, TokenSeq},
};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// Most tokens of a batch.
const BATCH_TOKENS: usize = 4096;

/// Flags of `rewarden evaluate best-of-n`.
#[derive(Debug, clap::Args)]
pub struct BestOfN {
    #[command(flatten)]
    base: BaseArgs,
    /// Proxies: PEFT LoRA folders with their posteriors, or names on the hub, all on the same base; several make an ensemble as
    /// well; repeatable [default: the embedded adapter]
    #[arg(long, value_name = "[NAME=]PATH|NAME", env = "REWARDEN_ADAPTER", value_delimiter = ',')]
    adapter: Vec<NamedAdapter>,
    /// Adapter or cross-encoder whose rewards are the gold, where the file has none
    #[arg(long, value_name = "PATH|NAME", env = "REWARDEN_GOLD")]
    gold: Option<Place>,
    /// Pools: JSONL, gzipped or not, with `prompt`, `responses` and, where it is known, `gold`
    #[arg(long, value_name = "FILE", env = "REWARDEN_DATA")]
    data: PathBuf,
    /// Answers of each pool at most
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u16).range(2..=4096), env = "REWARDEN_ANSWERS")]
    answers: u16,
    /// Strengths k that are tried
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "0,0.03,0.1,0.2,0.3,0.5,0.7,1,1.5,2,3,5,10",
        env = "REWARDEN_GRID"
    )]
    grid: Vec<f64>,
    /// Folder that keeps what was computed of each pool, so that another run on the same base goes on with it
    #[arg(long, value_name = "DIR", env = "REWARDEN_CACHE")]
    cache: Option<PathBuf>,
    #[command(flatten)]
    plots: PlotArgs,
    /// Seed of the intervals
    #[arg(long, default_value_t = 0, env = "REWARDEN_SEED")]
    seed: u64,
    #[command(flatten)]
    scoring: ScoringArgs,
}

impl BestOfN {
    pub fn run(self) -> Result<()> {
        if let Some(k) = self.grid.iter().find(|k| !(k.is_finite() && **k >= 0.0)) {
            return Err(Error::Usage(format!("--grid: {k} is not a finite number of at least 0")));
        }
        self.plots.prepare()?;
        let pools = self.pools()?;
        let folders = adapter_folders(&self.base, &self.adapter)?;
        let mut joints = Vec::new();
        for folder in folders {
            joints.push(self.joints(folder, &pools)?);
        }
        let gold = self.gold(&pools)?;
        let report = compare(joints, &gold, &self.grid, self.seed);
        curves::draw(&report, &self.plots)?;
        super::print(&report)
    }

    fn pools(&self) -> Result<Vec<Pool>> {
        let mut pools = read_pools(&self.data)?;
        let answers = usize::from(self.answers);
        let size = |pool: &Pool| pool.responses.len().min(answers);
        let first = pools.first().map_or(0, |(_, pool)| size(pool));
        if first < 2 {
            return Err(Error::file(&self.data, "no pool of at least two answers"));
        }
        if let Some((line, pool)) = pools.iter().find(|(_, pool)| size(pool) != first) {
            let message = format!("{} responses, the first pool has {first}", pool.responses.len());
            let hint = "hint: `--answers` takes as many of each";
            return Err(crate::data::lines::at_line(&self.data, *line, format!("{message} ({hint})")));
        }
        for (line, pool) in &mut pools {
            pool.responses.truncate(answers);
            if let Some(gold) = &mut pool.gold {
                gold.truncate(answers);
            } else if self.gold.is_none() {
                let message = "gold: missing (hint: `--gold` names an adapter that gives it)";
                return Err(crate::data::lines::at_line(&self.data, *line, message));
            }
        }
        Ok(pools.into_iter().map(|(_, pool)| pool).collect())
    }

    /// What an adapter's posterior says of every pool.
    fn joints(&self, folder: PathBuf, pools: &[Pool]) -> Result<Vec<Joint>> {
        let name = folder.display().to_string();
        let parts = Parts::new(self.base.open()?, Some(folder))?;
        let digest = self.digest(&parts)?;
        let sequences = encode(&parts.base.reader(), pools)?;
        let backend = self.scoring.backend(&self.base)?;
        let scorer = parts.into_scorer(Want::MeanAndVariance, &self.scoring, &backend)?;
        if scorer.posterior.is_none() {
            return Err(Error::Usage(format!("{name}: has no posterior (hint: run `fit`)")));
        }
        let mut bar = progress(&sequences);
        let cache = Cache::new(self.cache.clone());
        let joints = sequences.iter().map(|pool| {
            let joint = cache.joint(&digest, pool, || {
                cache::joint(&batched(pool, BATCH_TOKENS, |_| {}, |batch| scorer.embed(batch))?)
            });
            bar.add(tokens(pool));
            joint
        });
        let joints = joints.collect();
        bar.finish();
        joints
    }

    /// What the numbers of a pool depend on beside its tokens.
    fn digest(&self, parts: &Parts) -> Result<String> {
        let mut digest = Sha256::new().chain_update(&parts.base.name);
        digest.update(format!("{:?}", self.scoring.compute));
        if let Some(adapter) = &parts.adapter {
            digest.update(adapter.sha256()?);
        }
        if let Some(path) = parts.posterior_path() {
            digest.update(std::fs::read(&path).map_err(Error::io(&path))?);
        }
        Ok(hex(digest.finalize()))
    }

    /// The adapter on the base, or a cross-encoder.
    fn gold_model(&self, folder: &Path) -> Result<Ready> {
        if CrossEncoder::is_one(folder) {
            let base = BaseArgs { model: Some(folder.to_owned().into()), ..self.base.clone() };
            return ModelArgs { base, adapter: None }.ready(Want::Mean, &self.scoring);
        }
        let backend = self.scoring.backend(&self.base)?;
        Parts::new(self.base.open()?, Some(folder.to_owned()))?.ready(Want::Mean, &self.scoring, &backend)
    }

    /// Gold rewards of every pool: the file's, or the gold adapter's.
    fn gold(&self, pools: &[Pool]) -> Result<Vec<Vec<f64>>> {
        let Some(place) = &self.gold else {
            return Ok(pools.iter().map(|pool| pool.gold.clone().unwrap_or_default()).collect());
        };
        let ready = self.gold_model(&place.path(Kind::Either)?)?;
        let (sequences, mut scorer) = (encode(&ready.reader, pools)?, ready.scorer);
        let mut bar = progress(&sequences);
        let gold = sequences.iter().map(|pool| means(scorer.as_mut(), pool, &mut bar)).collect();
        bar.finish();
        gold
    }
}

fn means(scorer: &mut dyn Score, pool: &[TokenSeq], bar: &mut Progress) -> Result<Vec<f64>> {
    let estimates = in_batches(scorer, pool, Want::Mean, BATCH_TOKENS, |tokens| bar.add(tokens))?;
    estimates.into_iter().map(|estimate| Ok(estimate.finite(Want::Mean)?.mean)).collect()
}

fn encode(reader: &Reader, pools: &[Pool]) -> Result<Vec<Vec<TokenSeq>>> {
    let limit = Limit { max_length: reader.max_length, truncation: None };
    pools.iter().map(|pool| pool.encode(usize::MAX, &reader.encoder, &limit)).collect()
}

fn tokens(pool: &[TokenSeq]) -> usize {
    pool.iter().map(|sequence| sequence.ids.len()).sum()
}

fn progress(pools: &[Vec<TokenSeq>]) -> Progress {
    Progress::new(Unit::Tokens, 0, pools.iter().map(|pool| tokens(pool)).sum())
}

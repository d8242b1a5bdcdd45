//! A batch of token sequences becomes means and variances.
//!
//! [`Scorer`] is a reward model with its posterior: one forward for the means and, where a variance is wanted, one
//! backward whose Jacobians are contracted with the posterior block by block, and never kept. What leaves this module
//! for a client passes [`Estimate::finite`] and [`Estimate::rated`]: a number that is not finite is an error.

use candle_core::Tensor;

use crate::{
    Error, Result,
    model::{RewardModel, sink::Jacobians},
    nn::pack::Packed,
    posterior::Posterior,
    text::TokenSeq,
};

pub mod penalty;
pub mod select;

use penalty::Penalty;

/// What is computed: a variance takes a backward, and so about twice the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Want {
    /// Means only.
    Mean,
    /// Means, and variances where the model has a posterior.
    MeanAndVariance,
}

/// The posterior of one reward.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Posterior mean of the reward.
    pub mean: f64,
    /// `None` where it was not asked for or the model has no posterior.
    pub variance: Option<f64>,
}

/// An estimate with its conservative score; every number is finite.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rated {
    /// Posterior mean of the reward.
    pub mean: f64,
    /// Posterior variance, where it was computed.
    pub variance: Option<f64>,
    /// Square root of the variance.
    pub std: Option<f64>,
    /// The mean less the penalty.
    pub score: f64,
}

impl Estimate {
    /// A mean without a variance.
    pub fn certain(mean: f64) -> Self {
        Self { mean, variance: None }
    }

    /// Refuses an estimate that is not a number, or whose variance is negative, or missing where it is wanted.
    pub fn finite(self, want: Want) -> Result<Self> {
        if !self.mean.is_finite() {
            return Err(Error::NotFinite(format!("mean: {}", self.mean)));
        }
        match (self.variance, want) {
            (None, Want::MeanAndVariance) => Err(Error::NotFinite("variance: missing".into())),
            (Some(variance), _) if !variance.is_finite() || variance < 0.0 => {
                Err(Error::NotFinite(format!("variance: {variance}")))
            }
            _ => Ok(self),
        }
    }

    /// Takes the penalty off a finite estimate; a factor that leaves no finite score is refused.
    pub fn rated(self, penalty: Penalty) -> Result<Rated> {
        let Self { mean, variance } = self;
        let score = penalty.score(mean, variance);
        if !score.is_finite() {
            return Err(Error::field("penalty.k", "too large: a score is not a finite number"));
        }
        Ok(Rated { mean, variance, std: variance.map(f64::sqrt), score })
    }
}

/// Whatever can score a batch: the real model, or a stand-in in the tests of the queue.
pub trait Score: Send {
    /// Scores `batch`, one estimate per sequence in its order.
    fn score(&mut self, batch: &[&TokenSeq], want: Want) -> Result<Vec<Estimate>>;

    /// Runs once forward and once backward, so that what is broken shows before the first request.
    fn warm_up(&mut self, sequence: &TokenSeq) -> Result<()>;
}

/// A reward model and, where it was fitted, its posterior.
#[derive(Debug)]
pub struct Scorer {
    /// Gives the means.
    pub model: RewardModel,
    /// Gives the variances; without it there are none.
    pub posterior: Option<Posterior>,
}

impl Scorer {
    /// Puts a model and its posterior together, and drops what scoring does not need.
    pub fn new(mut model: RewardModel, posterior: Option<Posterior>) -> Self {
        model.freeze();
        if posterior.is_none() {
            model.forward_only();
        }
        Self { model, posterior }
    }

    /// Returns what can be computed of `wanted`: no variance without a posterior.
    pub fn able(&self, wanted: Want) -> Want {
        if self.posterior.is_some() { wanted } else { Want::Mean }
    }
}

impl Score for Scorer {
    fn score(&mut self, batch: &[&TokenSeq], want: Want) -> Result<Vec<Estimate>> {
        let posterior = self.posterior.as_ref().filter(|_| want == Want::MeanAndVariance);
        let mut estimates = Vec::with_capacity(batch.len());
        let limit = std::env::var("PASS").map(|x| x.parse().unwrap()).unwrap_or(512usize);
        for pass in passes(batch, limit) {
            let packed = Packed::sequences(pass.iter().copied());
            match posterior {
                None => estimates.extend(self.model.rewards(&packed)?.into_iter().map(Estimate::certain)),
                Some(posterior) => {
                    let (means, variances) = with_variances(&self.model, posterior, &packed, 1)?;
                    let both = means.into_iter().zip(variances);
                    estimates
                        .extend(both.map(|(mean, variance)| Estimate { mean, variance: Some(variance) }));
                }
            }
        }
        Ok(estimates)
    }

    fn warm_up(&mut self, sequence: &TokenSeq) -> Result<()> {
        let want = self.able(Want::MeanAndVariance);
        let estimates = self.score(&[sequence], want)?;
        estimates.into_iter().try_for_each(|estimate| estimate.finite(want).map(drop))
    }
}

/// Runs of sequences of at most `limit` tokens; one that is longer is a run of its own.
fn passes<'a, 'b>(batch: &'b [&'a TokenSeq], limit: usize) -> Vec<&'b [&'a TokenSeq]> {
    let mut passes = Vec::new();
    let mut rest = batch;
    while !rest.is_empty() {
        let mut tokens = 0;
        let fits = |sequence: &&&TokenSeq| {
            tokens += sequence.ids.len();
            tokens <= limit
        };
        let (now, later) = rest.split_at(rest.iter().take_while(fits).count().max(1));
        passes.push(now);
        rest = later;
    }
    passes
}

/// Rewards, and the variance of each group's combination of them: of the reward itself where a group has one, of the
/// difference chosen - rejected where it has two.
pub fn with_variances(
    model: &RewardModel,
    posterior: &Posterior,
    packed: &Packed,
    rewards_per_group: usize,
) -> Result<(Vec<f64>, Vec<f64>)> {
    let mut variances = vec![0.0; packed.groups.len()];
    let rewards = jacobians(model, packed, rewards_per_group, |name, jacobians| {
        // A block that the posterior leaves out is known exactly.
        if let Some(block) = posterior.blocks.get(name) {
            let of_block = block.variances(jacobians)?;
            variances.iter_mut().zip(of_block).for_each(|(sum, v)| *sum += v);
        }
        Ok(())
    })?;
    Ok((rewards, variances))
}

/// Rewards; the Jacobians of each group's combination of them are shown to `consume`, block by block.
fn jacobians(
    model: &RewardModel,
    packed: &Packed,
    rewards_per_group: usize,
    consume: impl FnMut(&str, &Tensor) -> Result<()>,
) -> Result<Vec<f64>> {
    let trace = model.forward(packed)?;
    let cotangents: Vec<f64> =
        (0..packed.pooled.len()).map(|i| if i % rewards_per_group == 0 { 1.0 } else { -1.0 }).collect();
    let mut sink = Jacobians::new(packed, consume);
    model.backward(&trace, &cotangents, &mut sink)?;
    Ok(trace.rewards().to_vec())
}

/// Scores any number of sequences in batches of at most `budget` tokens, of similar lengths; `done` hears of the tokens
/// of each batch. Estimates come in the order of the sequences.
pub fn in_batches(
    scorer: &mut dyn Score,
    sequences: &[TokenSeq],
    want: Want,
    budget: usize,
    mut done: impl FnMut(usize),
) -> Result<Vec<Estimate>> {
    let mut order: Vec<usize> = (0..sequences.len()).collect();
    order.sort_by_key(|i| sequences[*i].ids.len());
    let mut estimates = vec![Estimate { mean: 0.0, variance: None }; sequences.len()];
    let mut rest = &order[..];
    while !rest.is_empty() {
        let mut tokens = 0;
        let fits = |i: &&usize| {
            tokens += sequences[**i].ids.len();
            tokens <= budget
        };
        let count = rest.iter().take_while(fits).count().max(1);
        let (now, later) = rest.split_at(count);
        let batch: Vec<&TokenSeq> = now.iter().map(|i| &sequences[*i]).collect();
        for (i, estimate) in now.iter().zip(scorer.score(&batch, want)?) {
            estimates[*i] = estimate;
        }
        done(batch.iter().map(|sequence| sequence.ids.len()).sum());
        rest = later;
    }
    Ok(estimates)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use candle_core::{DType, Device};

    use super::*;
    use crate::{
        model::{adapter::Adapter, checkpoint::Checkpoint},
        score::penalty::Kind,
    };

    /// A model of the fixtures, without its posterior.
    fn scorer() -> Scorer {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/cases/llama-0");
        let base = Checkpoint::open(&folder.join("base")).unwrap();
        let adapter = Adapter::load(&folder.join("adapter"), &base.config).unwrap();
        let model = RewardModel::new(&base, Some(&adapter), DType::F32, &Device::Cpu).unwrap();
        Scorer::new(model, None)
    }

    #[test]
    fn passes_keep_the_order_and_the_limit() {
        let sequences =
            [3, 4, 9, 2, 1, 1].map(|n| TokenSeq { ids: vec![0; n], pooled: n - 1, truncated: false });
        let batch: Vec<&TokenSeq> = sequences.iter().collect();
        let lengths: Vec<Vec<usize>> =
            passes(&batch, 7).iter().map(|pass| pass.iter().map(|s| s.ids.len()).collect()).collect();
        assert_eq!(lengths, [vec![3, 4], vec![9], vec![2, 1, 1]]);
    }

    #[test]
    fn without_a_posterior_it_warms_up_and_scores() {
        let sequence = TokenSeq { ids: vec![0; 8], pooled: 7, truncated: false };
        let mut scorer = scorer();
        scorer.warm_up(&sequence).unwrap();
        let estimates = scorer.score(&[&sequence, &sequence], Want::MeanAndVariance).unwrap();
        assert!(estimates.iter().all(|e| e.mean.is_finite() && e.variance.is_none()));
    }

    #[test]
    fn only_finite_estimates_pass() {
        use Want::{Mean, MeanAndVariance};
        let table = [
            (1.0, Some(0.5), MeanAndVariance, true),
            (1.0, Some(0.0), MeanAndVariance, true),
            (1.0, None, Mean, true),
            (1.0, None, MeanAndVariance, false),
            (f64::NAN, Some(0.5), MeanAndVariance, false),
            (f64::INFINITY, None, Mean, false),
            (1.0, Some(f64::NAN), MeanAndVariance, false),
            (1.0, Some(-1e-9), MeanAndVariance, false),
            (1.0, Some(f64::INFINITY), Mean, false),
        ];
        for (mean, variance, want, passes) in table {
            let estimate = Estimate { mean, variance };
            assert_eq!(estimate.finite(want).is_ok(), passes, "{estimate:?} {want:?}");
        }
    }

    #[test]
    fn a_score_is_finite_or_names_the_factor() {
        let estimate = Estimate { mean: 1.0, variance: Some(4.0) };
        let rated = estimate.rated(Penalty::default()).unwrap();
        assert_eq!(rated, Rated { mean: 1.0, variance: Some(4.0), std: Some(2.0), score: -1.0 });
        let message = estimate.rated(Penalty::new(Kind::Variance, 1e308).unwrap()).unwrap_err().to_string();
        assert!(message.starts_with("penalty.k: too large"), "{message}");
    }
}

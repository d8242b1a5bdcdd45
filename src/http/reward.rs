//! One reward, as it is sent everywhere.

use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use crate::{
    Result,
    engine::{Seen, registry::Served},
    item::Id,
    score::{Estimate, Rated, penalty::Penalty},
    telemetry::metrics::Metrics,
};

/// One item's reward.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Reward {
    /// The item's place, counted from 0.
    pub index: usize,
    /// The item's own `id`.
    #[schema(required)]
    pub id: Option<Id>,
    /// Posterior mean of the reward.
    pub mean: f64,
    /// Posterior variance, where it was computed.
    #[schema(required, minimum = 0.0)]
    pub variance: Option<f64>,
    /// Square root of the variance.
    #[schema(required, minimum = 0.0)]
    pub std: Option<f64>,
    /// Share of the prior variance that the preference pairs removed, 1 - v / v0: near 0, the pairs say little about an answer like
    /// this. Null without a variance, or where the prior variance is 0.
    #[schema(required, minimum = 0.0, maximum = 1.0)]
    pub contraction: Option<f64>,
    /// The conservative score: the mean less the penalty; the mean where there is no variance.
    pub score: f64,
    /// Percentile of 1 - contraction among the answers of the pairs that were held out of the fit: near 1, the pairs say less about
    /// this answer than about nearly all of those, and it may be unlike what the model was trained on. Never above the last quantile
    /// that the posterior keeps, 0.99 as `fit` writes it. Null without a contraction, or where the fit held nothing out.
    #[schema(required, minimum = 0.0, maximum = 1.0)]
    pub novelty: Option<f64>,
    /// Percentile of the variance among the same answers.
    #[schema(required, minimum = 0.0, maximum = 1.0)]
    pub variance_percentile: Option<f64>,
    /// Whether the novelty is at or past the service's threshold, `--novelty-threshold`.
    #[schema(required)]
    pub novel: Option<bool>,
    /// Tokens that were scored.
    pub tokens: usize,
    /// Whether tokens were cut to fit.
    pub truncated: bool,
}

/// What the request cost.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct TokenUsage {
    /// Tokens of all items.
    pub tokens: usize,
}

/// How unusual an answer is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unusual {
    pub novelty: Option<f64>,
    pub variance_percentile: Option<f64>,
    pub novel: Option<bool>,
}

impl App {
    /// Rates what was seen of an item.
    pub fn rate(
        &self,
        served: &Served,
        index: usize,
        seen: Seen<Estimate>,
        penalty: Penalty,
    ) -> Result<Reward> {
        let Seen { what, tokens, truncated } = seen;
        let Rated { mean, variance, std, contraction, score } = what.rated(penalty)?;
        let Unusual { novelty, variance_percentile, novel } = self.unusual(served, what);
        Ok(Reward {
            index,
            id: None,
            mean,
            variance,
            std,
            contraction,
            score,
            novelty,
            variance_percentile,
            novel,
            tokens,
            truncated,
        })
    }

    /// Rates what was seen of several items, in their order.
    pub fn rate_all(
        &self,
        served: &Served,
        seen: Vec<Seen<Estimate>>,
        penalty: Penalty,
    ) -> Result<Vec<Reward>> {
        seen.into_iter().enumerate().map(|(index, seen)| self.rate(served, index, seen, penalty)).collect()
    }

    /// Holds an answer's uncertainty against those of the held-out answers.
    pub fn unusual(&self, served: &Served, estimate: Estimate) -> Unusual {
        let Some(usual) = &served.novelty else { return Unusual::default() };
        let novelty = usual.of(&estimate);
        Unusual {
            novelty,
            variance_percentile: usual.of_variance(&estimate),
            novel: novelty.map(|novelty| novelty >= self.config().novelty_threshold),
        }
    }

    /// Counts rewards that are returned.
    pub fn observe(&self, served: &Served, rewards: &[Reward]) {
        type Value = fn(&Reward) -> Option<f64>;
        let Metrics { reward_mean, reward_std, contraction, reward_score, novelty, .. } = self.metrics();
        let observed: [(_, Value); 5] = [
            (reward_mean, |reward| Some(reward.mean)),
            (reward_std, |reward| reward.std),
            (contraction, |reward| reward.contraction),
            (reward_score, |reward| Some(reward.score)),
            (novelty, |reward| reward.novelty),
        ];
        for (histogram, value) in observed {
            let histogram = histogram.with_label_values(&[served.name.as_str()]);
            rewards.iter().filter_map(value).for_each(|value| histogram.observe(value));
        }
    }
}

impl TokenUsage {
    /// Sums up rewards.
    pub fn of(rewards: &[Reward]) -> Self {
        Self { tokens: rewards.iter().map(|reward| reward.tokens).sum() }
    }
}

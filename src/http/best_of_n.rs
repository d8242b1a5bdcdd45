//! `POST /v1/best-of-n`: the answer to choose, of several to one prompt, or to each of several prompts.
//!
//! By default the variances of those that cannot win are not computed. A report of all, a relative penalty and a draw
//! need to know how the candidates vary together, and so every variance.

use std::sync::Arc;

use axum::{Extension, Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    App,
    error::{ApiError, Refusals},
    json::StrictJson,
    layers::Cost,
    object::Object,
    off_runtime,
    penalty::Plan,
    pool::{Given, PoolRequest, Pools, Shape},
    reward::{TokenUsage, Unusual},
};
use crate::{
    Error, Result,
    engine::{Job, Seen, by_size, registry::Served, terms::Terms},
    item::{Answer, Id, Message, Prompt},
    score::{
        Embedding, Estimate,
        joint::{Joint, Prospects},
        rule::PenaltyRule,
        select::Selected,
    },
    text::Truncation,
};

/// Candidates, and how one is chosen.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BestOfNRequest {
    /// A name that `/v1/models` lists; the first of them by default.
    pub model: Option<String>,
    /// A user's message, or the conversation so far.
    pub prompt: Option<Prompt>,
    /// The conversation so far; may stand for `prompt`.
    pub messages: Option<Vec<Message>>,
    /// The answers: texts, or the messages that follow.
    #[serde(default)]
    pub responses: Vec<Answer>,
    /// Several prompts with the answers to each, in the place of one.
    #[schema(value_type = Option<Vec<PoolRequest>>)]
    pub pools: Option<Vec<Object<PoolRequest>>>,
    /// What uncertainty costs; by default the adapter's stored rule, else one standard deviation.
    #[schema(value_type = Option<PenaltyRule>)]
    pub penalty: Option<Object<PenaltyRule>>,
    /// How many places of the ranking are wanted, and exact; by default all are listed, and the first is exact.
    #[schema(minimum = 1)]
    pub top: Option<usize>,
    /// What is told of the others; `best` by default.
    #[serde(default)]
    pub report: Report,
    /// Whether one is drawn, with the probability that it is the best.
    #[schema(value_type = Option<ThompsonRequest>)]
    pub thompson: Option<Object<ThompsonRequest>>,
    /// What is cut from candidates that are too long; by default they are an error.
    pub truncation: Option<Truncation>,
}

/// What is told of the candidates that are not chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Report {
    /// Their means, and what else came to light on the way to the best.
    #[default]
    Best,
    /// Everything: variances, covariance, probability of being the best, expected regret.
    All,
}

/// A draw from the posterior.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ThompsonRequest {
    /// Equal seeds draw equally; by default a new one, which is returned.
    #[schema(maximum = 9007199254740991_u64)]
    pub seed: Option<u64>,
}

/// The choice for one prompt, or a list of one for each.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum BestOfNResponse {
    /// Where the request had one prompt.
    One(OneChoice),
    /// Where it had `pools`.
    List(ChoiceList),
}

/// The choice for one prompt.
#[derive(Debug, Serialize, ToSchema)]
pub struct OneChoice {
    /// The model that scored.
    pub model: String,
    #[serde(flatten)]
    pub choice: Choice,
    /// The penalty as it was applied.
    pub penalty: PenaltyRule,
    /// What it cost.
    pub usage: TokenUsage,
}

/// The choices for several prompts, in their order.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChoiceList {
    /// Always `list`.
    #[schema(pattern = "^list$")]
    pub object: &'static str,
    /// The model that scored.
    pub model: String,
    /// A choice for each prompt.
    pub data: Vec<Choice>,
    /// The penalty as it was applied.
    pub penalty: PenaltyRule,
    /// What it cost.
    pub usage: TokenUsage,
}

/// What is chosen of one pool.
#[derive(Debug, Serialize, ToSchema)]
pub struct Choice {
    /// The pool's place, counted from 0.
    pub index: usize,
    /// The pool's own `id`.
    #[schema(required)]
    pub id: Option<Id>,
    /// Index of the candidate with the highest score, the lowest of equals.
    pub best: usize,
    /// The candidates by falling score; after them, by falling mean, those that have none.
    pub ranking: Vec<Ranked>,
    /// How many variances were computed in full.
    pub variances_computed: usize,
    /// What was drawn, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thompson: Option<Thompson>,
    /// Covariances of the rewards in the order of the candidates, in a report of all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub covariance: Option<Vec<Vec<f64>>>,
}

/// A candidate in its place.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Ranked {
    /// The candidate's place in the request, counted from 0.
    pub index: usize,
    /// Posterior mean of the reward.
    pub mean: f64,
    /// Posterior variance; null where it was not computed in full.
    #[schema(required, minimum = 0.0)]
    pub variance: Option<f64>,
    /// Square root of the variance.
    #[schema(required, minimum = 0.0)]
    pub std: Option<f64>,
    /// Share of the prior variance that the preference pairs removed; null where the variance is.
    #[schema(required, minimum = 0.0, maximum = 1.0)]
    pub contraction: Option<f64>,
    /// The same of the reward's difference to the mean of all candidates, in a report of all.
    #[schema(required, minimum = 0.0, maximum = 1.0)]
    pub contraction_relative: Option<f64>,
    /// The mean less the penalty; null where it needs a variance that was not computed in full.
    #[schema(required)]
    pub score: Option<f64>,
    /// Percentile of 1 - contraction, as in `/v1/rewards`.
    #[schema(required, minimum = 0.0, maximum = 1.0)]
    pub novelty: Option<f64>,
    /// Percentile of the variance, as in `/v1/rewards`.
    #[schema(required, minimum = 0.0, maximum = 1.0)]
    pub variance_percentile: Option<f64>,
    /// Whether the novelty is at or past the service's threshold.
    #[schema(required)]
    pub novel: Option<bool>,
    /// Probability that its reward is the highest, in a report of all: information, not advice. As a rule for choosing it was worse
    /// than the mean.
    #[schema(required, minimum = 0.0, maximum = 1.0)]
    pub probability_best: Option<f64>,
    /// How far its reward is expected to lie below the highest, in a report of all.
    #[schema(required, minimum = 0.0)]
    pub expected_regret: Option<f64>,
    /// Tokens that were scored.
    pub tokens: usize,
    /// Whether tokens were cut to fit.
    pub truncated: bool,
}

/// The best of one draw from the posterior.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct Thompson {
    /// The candidate's index.
    pub index: usize,
    /// The seed that draws it again.
    pub seed: u64,
}

/// How the candidates are judged, settled against the model.
#[derive(Debug, Clone, Copy)]
struct Settled {
    plan: Plan,
    report: Report,
    top: Option<usize>,
    seed: Option<u64>,
    has_posterior: bool,
}

/// Choose the best of several
///
/// Candidates are answers to one prompt, or to each of several prompts. The choice is that of all conservative scores, to
/// the last bit, though the variances of those that cannot win are not computed.
#[utoipa::path(
    post,
    path = "/v1/best-of-n",
    tag = "scoring",
    request_body = BestOfNRequest,
    responses(
        (status = OK, body = BestOfNResponse),
        Refusals,
    )
)]
pub async fn best_of_n(
    State(app): State<App>,
    Extension(terms): Extension<Terms>,
    StrictJson(request): StrictJson<BestOfNRequest>,
) -> Result<(Extension<Cost>, Json<BestOfNResponse>), ApiError> {
    let model = app.model(request.model.as_deref())?;
    let settled = Settled::new(&request, &model)?;
    let truncation = request.truncation;
    let given = request.given()?;
    let shape = given.shape();
    let Pools { ids, sizes, inputs } = given.parse(&app, 1)?;
    let job = Job { model: Arc::clone(&model), inputs, max_length: None, truncation, terms };
    let (choices, tokens) = match settled.is_joint() {
        true => {
            let embedded = app.engine().embed(job).await?;
            let tokens = embedded.iter().map(|seen| seen.tokens).sum();
            (settled.jointly(by_size(embedded, &sizes)).await?, tokens)
        }
        false => {
            let top = settled.top.unwrap_or(1);
            let selected = app.engine().select(job, &sizes, settled.plan.penalty, top).await?;
            let tokens = selected.iter().flat_map(|(_, seen)| seen).map(|seen| seen.tokens).sum();
            (settled.one_by_one(selected)?, tokens)
        }
    };
    let mut data: Vec<Choice> =
        choices.into_iter().zip(ids).map(|(choice, id)| Choice { id, ..choice }).collect();
    data.iter_mut().enumerate().for_each(|(index, choice)| choice.finish(index, settled.top, &app, &model));
    let cost = Cost { items: sizes.iter().sum(), tokens };
    let (model, penalty, usage) = (model.name.clone(), settled.plan.rule, TokenUsage { tokens });
    let reply = match data.pop_if(|_| shape != Shape::List) {
        Some(choice) => BestOfNResponse::One(OneChoice { model, choice, penalty, usage }),
        None => BestOfNResponse::List(ChoiceList { object: "list", model, data, penalty, usage }),
    };
    Ok((Extension(cost), Json(reply)))
}

impl BestOfNRequest {
    fn given(self) -> Result<Given> {
        let Self { prompt, messages, responses, pools, .. } = self;
        Given::new(PoolRequest { id: None, prompt, messages, responses }, pools)
    }
}

impl Settled {
    fn new(request: &BestOfNRequest, served: &Served) -> Result<Self> {
        let plan = Plan::new(request.penalty, None, served)?;
        if request.top == Some(0) {
            return Err(Error::field("top", "at least 1"));
        }
        if request.thompson.is_some() && !served.has_posterior {
            return Err(Error::field("thompson", "the model has no posterior to draw from"));
        }
        let seed =
            request.thompson.map(|Object(drawn)| drawn.seed.unwrap_or_else(|| rand::random::<u64>() >> 11));
        let (report, top, has_posterior) = (request.report, request.top, served.has_posterior);
        Ok(Self { plan, report, top, seed, has_posterior })
    }

    /// Whether it takes to know how the candidates vary together.
    fn is_joint(&self) -> bool {
        self.report == Report::All || self.plan.is_relative() || self.seed.is_some()
    }

    /// What a selection tells of each pool.
    fn one_by_one(&self, selected: Vec<(Selected, Vec<Seen<()>>)>) -> Result<Vec<Choice>> {
        let penalty = self.plan.penalty;
        let choice = |(selected, seen): (Selected, Vec<Seen<()>>)| {
            let score = |estimate: &Estimate| -> Result<Option<f64>> {
                let known = estimate.variance.is_some() || !penalty.needs_variance();
                known.then(|| estimate.rated(penalty).map(|rated| rated.score)).transpose()
            };
            let scores = selected.known.iter().map(score).collect::<Result<Vec<_>>>()?;
            let ranking = ranking(&selected.known, &scores, &seen);
            Ok(Choice::new(selected.index, ranking, selected.work.complete))
        };
        selected.into_iter().map(choice).collect()
    }

    /// The same of candidates that are seen beside each other, off the runtime: their products take a while.
    async fn jointly(self, pools: Vec<Vec<Seen<Embedding>>>) -> Result<Vec<Choice>> {
        off_runtime(move || {
            let pool = |(at, pool): (usize, Vec<Seen<Embedding>>)| self.joint(at as u64, pool);
            pools.into_iter().enumerate().map(pool).collect()
        })
        .await
    }

    fn joint(&self, pool: u64, seen: Vec<Seen<Embedding>>) -> Result<Choice> {
        let (embeddings, seen): (Vec<Embedding>, Vec<Seen<()>>) = seen.into_iter().map(Seen::apart).unzip();
        let joint = Joint::new(embeddings)?;
        let (estimates, relative) = (joint.estimates(), joint.relative_estimates());
        let judged = if self.plan.is_relative() { &relative } else { &estimates };
        let score = |estimate: &Estimate| self.plan.rate(*estimate).map(|rated| rated.score);
        let scores: Vec<f64> = judged.iter().map(score).collect::<Result<_>>()?;
        let best = first_of_highest(&scores);
        let scores: Vec<Option<f64>> = scores.into_iter().map(Some).collect();
        let mut ranking = ranking(&estimates, &scores, &seen);
        let computed = if self.has_posterior { estimates.len() } else { 0 };
        let thompson = self.seed.map(|seed| Thompson { index: joint.thompson(seed, pool), seed });
        let all = self.report == Report::All && self.has_posterior;
        if all {
            let Prospects { probability, regret } = joint.prospects();
            for ranked in &mut ranking {
                ranked.contraction_relative = relative[ranked.index].contraction;
                ranked.probability_best = Some(probability[ranked.index]);
                ranked.expected_regret = Some(regret[ranked.index]);
            }
        }
        let covariance = all.then(|| joint.covariance().to_vec());
        Ok(Choice { thompson, covariance, ..Choice::new(best, ranking, computed) })
    }
}

impl Choice {
    fn new(best: usize, ranking: Vec<Ranked>, variances_computed: usize) -> Self {
        Self { index: 0, id: None, best, ranking, variances_computed, thompson: None, covariance: None }
    }

    /// Puts it in its place, and cuts the ranking where it was to end.
    fn finish(&mut self, index: usize, top: Option<usize>, app: &App, served: &Served) {
        self.index = index;
        self.ranking.truncate(top.unwrap_or(usize::MAX));
        for ranked in &mut self.ranking {
            let Unusual { novelty, variance_percentile, novel } = app.unusual(served, ranked.estimate());
            (ranked.novelty, ranked.variance_percentile, ranked.novel) =
                (novelty, variance_percentile, novel);
        }
    }
}

impl Ranked {
    fn estimate(&self) -> Estimate {
        Estimate { mean: self.mean, variance: self.variance, contraction: self.contraction }
    }
}

/// Candidates by falling score, of equals the lowest index first; after them, by falling mean, those without one.
fn ranking(estimates: &[Estimate], scores: &[Option<f64>], seen: &[Seen<()>]) -> Vec<Ranked> {
    let ranked = |index: usize| Ranked {
        index,
        mean: estimates[index].mean,
        variance: estimates[index].variance,
        std: estimates[index].variance.map(f64::sqrt),
        contraction: estimates[index].contraction,
        contraction_relative: None,
        score: scores[index],
        novelty: None,
        variance_percentile: None,
        novel: None,
        probability_best: None,
        expected_regret: None,
        tokens: seen[index].tokens,
        truncated: seen[index].truncated,
    };
    let mut ranking: Vec<Ranked> = (0..estimates.len()).map(ranked).collect();
    let key = |ranked: &Ranked| (ranked.score.unwrap_or(f64::NEG_INFINITY), ranked.mean);
    ranking.sort_by(|a, b| match (a.score, b.score) {
        (Some(a), Some(b)) => b.total_cmp(&a),
        _ => key(b).0.total_cmp(&key(a).0).then(key(b).1.total_cmp(&key(a).1)),
    });
    ranking
}

/// Of the highest scores the first.
fn first_of_highest(scores: &[f64]) -> usize {
    let first = (0, f64::NEG_INFINITY);
    scores.iter().copied().enumerate().fold(first, |best, next| if next.1 > best.1 { next } else { best }).0
}

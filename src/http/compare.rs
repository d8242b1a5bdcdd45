//! `POST /v1/compare`: answers to one prompt beside each other, and which is preferred to which.

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
    reward::{Reward, TokenUsage},
};
use crate::{
    Error, Result,
    engine::{Job, Seen, by_size, registry::Served, terms::Terms},
    evaluate::verdicts::{self, AbstentionRule},
    item::{Answer, Id, Message, Prompt},
    score::{Embedding, joint::Joint, rule::PenaltyRule},
    text::Truncation,
};

/// Answers to compare: `a` and `b`, or two or more `responses`, or several prompts with theirs.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CompareRequest {
    /// A name that `/v1/models` lists; the first of them by default.
    pub model: Option<String>,
    /// A user's message, or the conversation so far.
    pub prompt: Option<Prompt>,
    /// The conversation so far; may stand for `prompt`.
    pub messages: Option<Vec<Message>>,
    /// One answer: text, or the messages that follow.
    pub a: Option<Answer>,
    /// The other.
    pub b: Option<Answer>,
    /// Two or more answers, in the place of `a` and `b`.
    #[serde(default)]
    pub responses: Vec<Answer>,
    /// Several prompts with the answers to each, in the place of one.
    #[schema(value_type = Option<Vec<PoolRequest>>)]
    pub pools: Option<Vec<Object<PoolRequest>>>,
    /// What uncertainty costs, in each answer's `score`; by default the adapter's stored rule, else one standard deviation.
    #[schema(value_type = Option<PenaltyRule>)]
    pub penalty: Option<Object<PenaltyRule>>,
    /// Largest share of wrong verdicts, above 0 and below 0.5. A pair is decided only where the held-out pairs of the fit promise, with
    /// probability 0.9, that at most this share of the verdicts on such pairs is wrong (Learn then Test).
    #[schema(exclusive_minimum = 0.0, exclusive_maximum = 0.5)]
    pub error_rate: Option<f64>,
    /// What is cut from answers that are too long; by default they are an error.
    pub truncation: Option<Truncation>,
}

/// What was compared.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum CompareResponse {
    /// Where the request had `a` and `b`.
    Pair(PairComparison),
    /// Where it had `responses`.
    One(OneComparison),
    /// Where it had `pools`.
    List(ComparisonList),
}

/// Two answers beside each other.
#[derive(Debug, Serialize, ToSchema)]
pub struct PairComparison {
    /// The model that scored.
    pub model: String,
    /// Mean of the reward of `a` less that of `b`.
    pub mean_difference: f64,
    /// Variance of the difference; null without a posterior.
    #[schema(required, minimum = 0.0)]
    pub variance_difference: Option<f64>,
    /// Share of the prior variance of the difference that the preference pairs removed; null without a posterior, and for equal
    /// answers.
    #[schema(required, minimum = 0.0, maximum = 1.0)]
    pub contraction_difference: Option<f64>,
    /// Covariance of the two rewards; null without a posterior.
    #[schema(required)]
    pub covariance: Option<f64>,
    /// Probability that `a` is preferred, by the posterior predictive.
    #[schema(minimum = 0.0, maximum = 1.0)]
    pub preference_probability: f64,
    /// Whether the promise of `error_rate` covers this verdict, where one was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decided: Option<bool>,
    /// The reward of `a`.
    pub a: Reward,
    /// The reward of `b`.
    pub b: Reward,
    /// The penalty as it was applied.
    pub penalty: PenaltyRule,
    /// What it cost.
    pub usage: TokenUsage,
}

/// Answers to one prompt beside each other.
#[derive(Debug, Serialize, ToSchema)]
pub struct OneComparison {
    /// The model that scored.
    pub model: String,
    #[serde(flatten)]
    pub comparison: Comparison,
    /// The penalty as it was applied.
    pub penalty: PenaltyRule,
    /// What it cost.
    pub usage: TokenUsage,
}

/// Answers to several prompts.
#[derive(Debug, Serialize, ToSchema)]
pub struct ComparisonList {
    /// Always `list`.
    #[schema(pattern = "^list$")]
    pub object: &'static str,
    /// The model that scored.
    pub model: String,
    /// A comparison for each prompt.
    pub data: Vec<Comparison>,
    /// The penalty as it was applied.
    pub penalty: PenaltyRule,
    /// What it cost.
    pub usage: TokenUsage,
}

/// Every answer to a prompt beside every other; matrices have a row and a column for each.
#[derive(Debug, Serialize, ToSchema)]
pub struct Comparison {
    /// The prompt's place, counted from 0.
    pub index: usize,
    /// Its own `id`.
    #[schema(required)]
    pub id: Option<Id>,
    /// The reward of each.
    pub responses: Vec<Reward>,
    /// Covariances of the rewards; null without a posterior.
    #[schema(required)]
    pub covariance: Option<Vec<Vec<f64>>>,
    /// Mean of the row's reward less the column's.
    pub mean_difference: Vec<Vec<f64>>,
    /// Variance of that difference; null without a posterior.
    #[schema(required)]
    pub variance_difference: Option<Vec<Vec<f64>>>,
    /// Share of the prior variance of that difference that the preference pairs removed, null between equal answers; null without a
    /// posterior.
    #[schema(required)]
    pub contraction_difference: Option<Vec<Vec<Option<f64>>>>,
    /// Probability that the row is preferred to the column, by the posterior predictive.
    pub preference_probability: Vec<Vec<f64>>,
    /// Whether the promise of `error_rate` covers the verdict between row and column, where one was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decided: Option<Vec<Vec<bool>>>,
}

/// Compare answers
///
/// Means and variances of each, and of every two the covariance, the variance of the difference and the probability that
/// one is preferred: sigma(mu / sqrt(1 + pi v / 8)).
#[utoipa::path(
    post,
    path = "/v1/compare",
    tag = "scoring",
    request_body = CompareRequest,
    responses(
        (status = OK, body = CompareResponse),
        Refusals,
    )
)]
pub async fn compare(
    State(app): State<App>,
    Extension(terms): Extension<Terms>,
    StrictJson(request): StrictJson<CompareRequest>,
) -> Result<(Extension<Cost>, Json<CompareResponse>), ApiError> {
    let model = app.model(request.model.as_deref())?;
    let plan = Plan::new(request.penalty, None, &model)?.alone()?;
    let error_rate = request.error_rate;
    error_rate.map(|rate| Abstention::check(rate, &model)).transpose()?;
    let truncation = request.truncation;
    let given = request.given()?;
    let shape = given.shape();
    let Pools { ids, sizes, inputs } = given.parse(&app, 2)?;
    let job = Job { model: Arc::clone(&model), inputs, max_length: None, truncation, terms };
    let seen = app.engine().embed(job).await?;
    let rewards = app.rate_all(&model, seen.iter().map(Seen::estimate).collect(), plan.penalty)?;
    app.observe(&model, &rewards);
    let usage = TokenUsage::of(&rewards);
    let cost = Cost { items: rewards.len(), tokens: usage.tokens };
    let embeddings = by_size(seen.into_iter().map(|seen| seen.what).collect(), &sizes);
    let rewards = by_size(rewards, &sizes);
    // Products of many long vectors take a while.
    let verdicts = Arc::clone(&model.verdicts);
    let data = off_runtime(move || {
        let abstention = error_rate.map(|rate| Abstention(verdicts::calibrate(&verdicts, rate)));
        let both = embeddings.into_iter().zip(rewards).zip(ids).enumerate();
        let comparison =
            |(index, ((pool, rewards), id))| Comparison::new(index, id, rewards, pool, abstention);
        both.map(comparison).collect()
    });
    let reply = CompareResponse::new(
        shape,
        About { model: model.name.clone(), penalty: plan.rule, usage },
        data.await?,
    );
    Ok((Extension(cost), Json(reply)))
}

/// The rule of an error rate, calibrated on the model's held-out verdicts, which may support none.
#[derive(Debug, Clone, Copy)]
struct Abstention(Option<AbstentionRule>);

impl Abstention {
    /// Refuses an error rate out of range, and a model without held-out verdicts.
    fn check(error_rate: f64, served: &Served) -> Result<()> {
        verdicts::check(error_rate)?;
        if served.verdicts.is_empty() {
            let message = "the model has no held-out verdicts: its adapter needs `fit --held-out` or `calibrate`, and neither an ensemble nor a model with `--rescale` has any";
            return Err(Error::field("error_rate", message));
        }
        Ok(())
    }

    /// Of every two answers; nothing is to decide between an answer and itself.
    fn decided(&self, joint: &Joint) -> Vec<Vec<bool>> {
        let (probability, contraction) = (joint.preference_probability(), joint.difference_contraction());
        let decided = |i: usize, j: usize| {
            let p = probability[i][j];
            // Of two equal rewards neither is preferred.
            p != 0.5 && self.0.is_some_and(|rule| rule.decides(p.max(1.0 - p), contraction[i][j]))
        };
        (0..probability.len()).map(|i| (0..probability.len()).map(|j| decided(i, j)).collect()).collect()
    }
}

/// What a reply says of all its answers.
struct About {
    model: String,
    penalty: PenaltyRule,
    usage: TokenUsage,
}

impl CompareResponse {
    fn new(shape: Shape, about: About, mut data: Vec<Comparison>) -> Self {
        match (shape, data.pop_if(|_| shape != Shape::List)) {
            (Shape::Pair, Some(pair)) => Self::pair(about, pair),
            (_, Some(comparison)) => Self::one(about, comparison),
            (_, None) => {
                let About { model, penalty, usage } = about;
                Self::List(ComparisonList { object: "list", model, data, penalty, usage })
            }
        }
    }

    fn one(About { model, penalty, usage }: About, comparison: Comparison) -> Self {
        Self::One(OneComparison { model, comparison, penalty, usage })
    }

    /// The first of two answers beside the second; of any other number, as they are.
    fn pair(about: About, comparison: Comparison) -> Self {
        let [a, b] = &comparison.responses[..] else {
            return Self::one(about, comparison);
        };
        let About { model, penalty, usage } = about;
        let (a, b) = (Reward { index: 0, ..a.clone() }, Reward { index: 1, ..b.clone() });
        let of = |matrix: &Vec<Vec<f64>>| matrix[0][1];
        Self::Pair(PairComparison {
            model,
            mean_difference: of(&comparison.mean_difference),
            variance_difference: comparison.variance_difference.as_ref().map(of),
            contraction_difference: comparison.contraction_difference.as_ref().and_then(|c| c[0][1]),
            covariance: comparison.covariance.as_ref().map(of),
            preference_probability: of(&comparison.preference_probability),
            decided: comparison.decided.as_ref().map(|decided| decided[0][1]),
            a,
            b,
            penalty,
            usage,
        })
    }
}

impl Comparison {
    fn new(
        index: usize,
        id: Option<Id>,
        mut responses: Vec<Reward>,
        pool: Vec<Embedding>,
        abstention: Option<Abstention>,
    ) -> Result<Self> {
        responses.iter_mut().enumerate().for_each(|(at, reward)| reward.index = at);
        let joint = Joint::new(pool)?;
        let known = responses.iter().all(|reward| reward.variance.is_some());
        Ok(Self {
            index,
            id,
            responses,
            covariance: known.then(|| joint.covariance().to_vec()),
            mean_difference: joint.mean_difference(),
            variance_difference: known.then(|| joint.difference_variance()),
            contraction_difference: known.then(|| joint.difference_contraction()),
            decided: abstention.map(|abstention| abstention.decided(&joint)),
            preference_probability: joint.preference_probability(),
        })
    }
}

impl CompareRequest {
    fn given(self) -> Result<Given> {
        let Self { prompt, messages, a, b, responses, pools, .. } = self;
        let pool = |responses| PoolRequest { id: None, prompt, messages, responses };
        match (a, b) {
            (Some(_), Some(_)) if !responses.is_empty() => {
                Err(Error::field("responses", "cannot stand beside `a` and `b`"))
            }
            (Some(a), Some(b)) => Given::pair(pool(vec![a, b]), pools),
            (Some(_), None) => Err(Error::field("b", "missing beside `a`")),
            (None, Some(_)) => Err(Error::field("a", "missing beside `b`")),
            (None, None) => Given::new(pool(responses), pools),
        }
    }
}

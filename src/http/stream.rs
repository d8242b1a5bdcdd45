//! `POST /v1/rewards/stream`: many items, each reward on a line of its own as soon as it is there.
//!
//! Items go to the queue in windows, one after the other, so that a long list takes no more room there than a short one, and
//! only as fast as the client reads. What is wrong with an item is the answer on its line; the others are scored. The last line
//! says that there are no more.

use std::{
    convert::Infallible,
    iter::Enumerate,
    sync::Arc,
    time::{Duration, Instant},
    vec::IntoIter,
};

use axum::{
    Extension,
    body::{Body, Bytes},
    extract::State,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use futures_util::stream;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    App,
    bodies::Weight,
    error::{ApiError, ErrorDetail, Refusals},
    json::{RawJson, strict},
    listener::Turn,
    object::Object,
    penalty::Plan,
    reward::{Reward, TokenUsage},
    rewards::placed,
};
use crate::{
    Error, Result,
    engine::{Job, Seen, generation::Generation, terms::Terms},
    item::{Id, Item, Place, Placed},
    score::{Estimate, rule::PenaltyRule},
    text::Truncation,
};

/// Items that are in the queue at once.
const WINDOW: usize = 64;

/// How long a window waits before it asks a full queue again.
const PAUSE: Duration = Duration::from_millis(100);

/// Items to score, as in `/v1/rewards`, but more of them.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StreamRequest {
    /// A name that `/v1/models` lists; the first of them by default.
    pub model: Option<String>,
    /// What is to be scored.
    #[serde(default)]
    #[schema(required, min_items = 1, value_type = Vec<Item>)]
    pub items: Vec<Text>,
    /// What uncertainty costs; by default the adapter's stored rule, else one standard deviation.
    #[schema(value_type = Option<PenaltyRule>)]
    pub penalty: Option<Object<PenaltyRule>>,
    /// Whether to compute variances; by default where the model has a posterior and the penalty is not `none`.
    pub variance: Option<bool>,
    /// What is cut from items that are too long; by default they are an error.
    pub truncation: Option<Truncation>,
}

/// An item that is not understood yet, in as many bytes as it was sent in or less: most of them wait long for their turn.
#[derive(Debug)]
pub struct Text(Box<str>);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Value::deserialize(deserializer)?.to_string().into()))
    }
}

/// One line of the answer.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Line {
    /// An item's reward.
    Reward(Reward),
    /// What is wrong with it.
    Refused(Refused),
    /// The last line.
    End(End),
}

/// An item that was not scored.
#[derive(Debug, Serialize, ToSchema)]
pub struct Refused {
    /// The item's place, counted from 0.
    pub index: usize,
    /// The item's own `id`, as far as it could be read.
    #[schema(required)]
    pub id: Option<Id>,
    /// Why not.
    pub error: ErrorDetail,
}

/// That all items have been answered.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct End {
    /// Always `end`.
    #[schema(pattern = "^end$")]
    pub object: &'static str,
    /// The model that scored.
    pub model: String,
    /// The penalty as it was applied.
    pub penalty: PenaltyRule,
    /// Items that were scored.
    pub scored: usize,
    /// Items that were not.
    pub refused: usize,
    /// What it cost.
    pub usage: TokenUsage,
}

/// Score many items, a line each
///
/// The answer has a line of JSON for each item in their order, a reward or an error, and a last one with `"object": "end"`.
#[utoipa::path(
    post,
    path = "/v1/rewards/stream",
    tag = "scoring",
    request_body = StreamRequest,
    responses(
        (status = OK, body = Line, content_type = "application/x-ndjson"),
        Refusals,
    )
)]
pub async fn stream(
    State(app): State<App>,
    Extension(terms): Extension<Terms>,
    turn: Option<Extension<Arc<Turn>>>,
    weight: Option<Extension<Arc<Weight>>>,
    body: RawJson,
) -> Result<Response, ApiError> {
    app.bounded_stream("items", body.listed())?;
    let under_way = (turn.map(|Extension(turn)| turn), weight.map(|Extension(weight)| weight));
    let mut windows = Windows::new(app, terms, under_way, body.strict()?)?;
    // What turns the first items away turns the request away: later there is no status to say it with.
    let first = windows.lines(Patience::None).await?;
    let rest = stream::unfold((Some(first), windows), async |(first, mut windows)| {
        let lines = match first {
            Some(lines) => lines,
            None => windows.next().await?,
        };
        Some((Ok::<_, Infallible>(lines), (None, windows)))
    });
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(rest)).into_response())
}

/// The items that are left, and what has come of the others.
struct Windows {
    app: App,
    /// Of the window that is next.
    terms: Terms,
    model: Arc<Generation>,
    plan: Plan,
    truncation: Option<Truncation>,
    items: Enumerate<IntoIter<Text>>,
    end: End,
    ended: bool,
    /// The request is under way until its last line: the connection does not rest meanwhile, and its items take memory.
    _under_way: UnderWay,
}

type UnderWay = (Option<Arc<Turn>>, Option<Arc<Weight>>);

/// Whether a full queue is asked again.
#[derive(PartialEq, Eq)]
enum Patience {
    None,
    UntilTheDeadline,
}

impl Windows {
    fn new(app: App, terms: Terms, under_way: UnderWay, request: StreamRequest) -> Result<Self, ApiError> {
        let model = app.model(request.model.as_deref())?;
        if request.items.is_empty() {
            return Err(Error::field("items", "missing or empty").into());
        }
        let plan = Plan::new(request.penalty, request.variance, &model)?.alone()?;
        let usage = TokenUsage { tokens: 0 };
        let (name, penalty) = (model.name.clone(), plan.rule);
        let end = End { object: "end", model: name, penalty, scored: 0, refused: 0, usage };
        let items = request.items.into_iter().enumerate();
        Ok(Self {
            model,
            plan,
            truncation: request.truncation,
            items,
            end,
            ended: false,
            terms,
            app,
            _under_way: under_way,
        })
    }

    /// The lines of the next window, the last line, or nothing any more.
    async fn next(&mut self) -> Option<Bytes> {
        if self.items.len() == 0 {
            let ended = std::mem::replace(&mut self.ended, true);
            return (!ended).then(|| written([Line::End(self.end.clone())]));
        }
        self.terms = self.terms.again();
        let lines = self.lines(Patience::UntilTheDeadline).await;
        // Only the first window is turned away as a whole.
        Some(lines.unwrap_or_default())
    }
}

impl Windows {
    /// Scores the next window, and writes a line for each of its items.
    async fn lines(&mut self, patience: Patience) -> Result<Bytes, ApiError> {
        let window: Vec<Parsed> = self.items.by_ref().take(WINDOW).map(Parsed::new).collect();
        let good: Vec<Placed> = window.iter().flat_map(|parsed| parsed.input.clone()).collect();
        let scored = match (self.scored(good, &patience).await, patience) {
            (Err(error), Patience::None) => return Err(error.into()),
            (scored, _) => scored.map_err(ApiError::from),
        };
        let mut scored = scored.map(Vec::into_iter);
        let mut next = || match &mut scored {
            Ok(scored) => {
                scored.next().map_or_else(|| Err(ApiError::internal()), |one| one.map_err(ApiError::from))
            }
            Err(error) => Err(error.clone()),
        };
        let mut lines = Vec::with_capacity(window.len());
        for Parsed { index, id, input } in window {
            let seen = input.and_then(|_| next());
            lines.push(self.line(index, id, seen));
        }
        Ok(written(lines))
    }

    async fn scored(&self, inputs: Vec<Placed>, patience: &Patience) -> Result<Vec<Result<Seen<Estimate>>>> {
        let truncation = self.truncation;
        loop {
            let (model, inputs, terms) = (Arc::clone(&self.model), inputs.clone(), self.terms.clone());
            let job = Job { model, inputs, max_length: None, truncation, terms };
            match self.app.engine().score_each(job, self.plan.want).await {
                Err(Error::Overloaded { .. } | Error::Limited { .. })
                    if *patience == Patience::UntilTheDeadline && Instant::now() < self.terms.deadline =>
                {
                    tokio::time::sleep(PAUSE).await;
                }
                scored => return scored,
            }
        }
    }

    /// Rates an item, or says why not, and counts it.
    fn line(&mut self, index: usize, id: Option<Id>, seen: Result<Seen<Estimate>, ApiError>) -> Line {
        let Self { app, model, plan, end, .. } = self;
        match seen.and_then(|seen| Ok(app.rate(model, index, seen, plan.penalty)?)) {
            Ok(reward) => {
                app.observe(model, std::slice::from_ref(&reward));
                end.scored += 1;
                end.usage.tokens += reward.tokens;
                Line::Reward(Reward { id, ..reward })
            }
            Err(error) => {
                end.refused += 1;
                Line::Refused(Refused { index, id, error: error.detail() })
            }
        }
    }
}

/// An item as far as it was understood.
struct Parsed {
    index: usize,
    id: Option<Id>,
    input: Result<Placed, ApiError>,
}

impl Parsed {
    fn new((index, Text(text)): (usize, Text)) -> Self {
        // It was JSON, and is.
        let value: Value = serde_json::from_str(&text).unwrap_or_default();
        let id = value.get("id").and_then(|id| Id::deserialize(id).ok());
        let item = strict::<Item<Id>, _>(value, &Place::Item(index).to_string());
        let input = item.and_then(|item| Ok(placed(index, item)?.1));
        Self { index, id, input }
    }
}

/// Lines of JSON.
fn written(lines: impl IntoIterator<Item = Line>) -> Bytes {
    let mut text = Vec::new();
    for line in lines {
        // Numbers are finite and keys are strings, so that it can always be written.
        if serde_json::to_writer(&mut text, &line).is_ok() {
            text.push(b'\n');
        }
    }
    text.into()
}

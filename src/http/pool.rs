//! Candidates: answers to one prompt, or to each of several.

use serde::Deserialize;
use utoipa::ToSchema;

use super::{App, error::ApiError, object::Object};
use crate::{
    Error, Result,
    item::{Answer, Id, Message, Place, Placed, Prompt},
};

/// A prompt and answers to it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Pool)]
pub struct PoolRequest {
    /// Returned unchanged.
    pub id: Option<Id>,
    /// A user's message, or the conversation so far.
    pub prompt: Option<Prompt>,
    /// The conversation so far; may stand for `prompt`.
    pub messages: Option<Vec<Message>>,
    /// The answers: texts, or the messages that follow.
    #[serde(default)]
    #[schema(required, min_items = 1)]
    pub responses: Vec<Answer>,
}

/// The candidates of one or several prompts, one after the other.
#[derive(Debug, Default)]
pub struct Pools {
    pub ids: Vec<Option<Id>>,
    pub sizes: Vec<usize>,
    pub inputs: Vec<Placed>,
}

/// What a request may give.
#[derive(Debug)]
pub enum Given {
    /// Two answers to one prompt, with names of their own.
    Pair(PoolRequest),
    /// One prompt.
    One(PoolRequest),
    /// Several.
    Several(Vec<Object<PoolRequest>>),
}

/// The shape of the answer, which is that of the question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Pair,
    One,
    List,
}

impl Given {
    /// One prompt of the request's own, or several, but not both.
    pub fn new(own: PoolRequest, pools: Option<Vec<Object<PoolRequest>>>) -> Result<Self> {
        let has_own = own.prompt.is_some() || own.messages.is_some() || !own.responses.is_empty();
        match pools {
            None => Ok(Self::One(own)),
            Some(_) if has_own => {
                Err(Error::field("pools", "cannot stand beside a prompt or responses of the request's own"))
            }
            Some(pools) if pools.is_empty() => Err(Error::field("pools", "empty")),
            Some(pools) => Ok(Self::Several(pools)),
        }
    }

    /// `a` and `b`, and no others.
    pub fn pair(own: PoolRequest, pools: Option<Vec<Object<PoolRequest>>>) -> Result<Self> {
        match Self::new(own, pools)? {
            Self::One(own) => Ok(Self::Pair(own)),
            other => Ok(other),
        }
    }

    /// What the answer looks like.
    pub fn shape(&self) -> Shape {
        match self {
            Self::Pair(_) => Shape::Pair,
            Self::One(_) => Shape::One,
            Self::Several(_) => Shape::List,
        }
    }

    /// Takes the candidates apart, of which every prompt needs at least `least`.
    pub fn parse(self, app: &App, least: usize) -> Result<Pools, ApiError> {
        let mut pools = Pools::default();
        let numbered = |path: String| move |at: usize| format!("{path}responses[{at}]");
        // Before anything is made of the answers.
        app.bounded("responses", self.responses())?;
        match self {
            Self::Pair(pool) => pools.add("", pool, least, |at| ["a", "b"][at.min(1)].to_owned())?,
            Self::One(pool) => pools.add("", pool, least, numbered(String::new()))?,
            Self::Several(several) => {
                app.bounded("pools", several.len())?;
                for (at, Object(pool)) in several.into_iter().enumerate() {
                    let path = format!("pools[{at}].");
                    pools.add(&path, pool, least, numbered(path.clone()))?;
                }
            }
        }
        Ok(pools)
    }

    /// Counts the answers of all prompts.
    fn responses(&self) -> usize {
        match self {
            Self::Pair(pool) | Self::One(pool) => pool.responses.len(),
            Self::Several(several) => several.iter().map(|Object(pool)| pool.responses.len()).sum(),
        }
    }
}

impl Pools {
    /// Adds a pool; `path` stands before the names of its fields, and `name` is the place of each answer.
    fn add(
        &mut self,
        path: &str,
        pool: PoolRequest,
        least: usize,
        name: impl Fn(usize) -> String,
    ) -> Result<()> {
        let PoolRequest { id, prompt, messages, responses } = pool;
        let field = |name: &str| format!("{path}{name}");
        let prompt = match (prompt, messages) {
            (Some(prompt), None) => prompt,
            (None, Some(messages)) => Prompt::Messages(messages),
            (None, None) => return Err(Error::field(field("prompt"), "missing")),
            (Some(_), Some(_)) => {
                return Err(Error::field(field("messages"), "cannot stand beside `prompt`"));
            }
        };
        if responses.len() < least {
            return Err(Error::field(field("responses"), format!("fewer than {least}")));
        }
        let prompt = prompt.shared().map_err(|error| match error {
            Error::Field { field: prompt, message } => Error::field(field(&prompt), message),
            error => error,
        })?;
        self.ids.push(id);
        self.sizes.push(responses.len());
        for (at, response) in responses.into_iter().enumerate() {
            let place = Place::Field(name(at));
            let input = prompt.answered(response).map_err(|error| place.blame(error))?;
            self.inputs.push(place.of(input));
        }
        Ok(())
    }
}

//! Candidate pools: many answers to one prompt, with their gold rewards where these are known.

use std::path::Path;

use serde::Deserialize;

use super::lines::{Lines, at_line};
use crate::{
    Result,
    item::{Item, Prompt},
    text::{Encoder, Limit, TokenSeq},
};

/// One line of a file; what else it says is not read.
#[derive(Debug, Clone, Deserialize)]
pub struct Pool {
    pub prompt: Prompt,
    pub responses: Vec<String>,
    /// Gold reward of each response.
    pub gold: Option<Vec<f64>>,
}

/// Whether a file holds pools, by its first line: what is no JSON lines holds none.
pub fn holds_pools(path: &Path) -> Result<bool> {
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("parquet")) {
        return Ok(false);
    }
    let first = Lines::<serde_json::Value>::open(path)?.next().transpose()?;
    Ok(first.is_some_and(|(_, line)| line.get("responses").is_some()))
}

/// Reads every pool of a file with the number of its line.
pub fn read_pools(path: &Path) -> Result<Vec<(usize, Pool)>> {
    let mut pools = Vec::new();
    for line in Lines::<Pool>::open(path)? {
        let (number, pool) = line?;
        let wrong = |message: String| at_line(path, number, message);
        if pool.responses.is_empty() {
            return Err(wrong("responses: none".into()));
        }
        if let Some(gold) = pool.gold.as_ref().filter(|gold| gold.len() != pool.responses.len()) {
            return Err(wrong(format!(
                "gold: {} numbers for {} responses",
                gold.len(),
                pool.responses.len()
            )));
        }
        if pool.gold.iter().flatten().any(|gold| !gold.is_finite()) {
            return Err(wrong("gold: not a finite number".into()));
        }
        pools.push((number, pool));
    }
    Ok(pools)
}

impl Pool {
    /// Token sequences of the first `most` answers, each with the prompt.
    pub fn encode(&self, most: usize, encoder: &Encoder, limit: &Limit) -> Result<Vec<TokenSeq>> {
        let encode = |response: &String| {
            let (prompt, response) = (Some(self.prompt.clone()), Some(response.clone()));
            encoder.encode(&Item::<String> { prompt, response, ..Item::default() }.parse()?, limit)
        };
        self.responses.iter().take(most).map(encode).collect()
    }
}

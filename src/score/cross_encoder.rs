//! Cross-encoders score with means alone.

use super::{Embed, Embedding, Estimate, Score, Want};
use crate::{Result, model::cross_encoder::CrossEncoder, text::TokenSeq};

impl Score for CrossEncoder {
    fn score(&mut self, batch: &[&TokenSeq], _: Want) -> Result<Vec<Estimate>> {
        let alone = |mean| Estimate { mean, variance: None };
        Ok(self.rewards(batch)?.into_iter().map(alone).collect())
    }

    fn warm_up(&mut self, sequence: &TokenSeq) -> Result<()> {
        self.score(&[sequence], Want::Mean)?.into_iter().try_for_each(|e| e.finite(Want::Mean).map(drop))
    }
}

impl Embed for CrossEncoder {
    fn embed(&self, batch: &[&TokenSeq]) -> Result<Vec<Embedding>> {
        let alone = |mean| Embedding { mean, head_variance: 0.0, vector: Vec::new() };
        Ok(self.rewards(batch)?.into_iter().map(alone).collect())
    }

    fn has_variances(&self) -> bool {
        false
    }
}

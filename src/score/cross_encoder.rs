//! Cross-encoders score with means alone.

use super::{Embed, Embedding, Estimate, Score, Want};
use crate::{Result, model::cross_encoder::CrossEncoder, text::TokenSeq};

impl Score for CrossEncoder {
    fn score(&mut self, batch: &[&TokenSeq], _: Want) -> Result<Vec<Estimate>> {
        Ok(self.rewards(batch)?.into_iter().map(Estimate::of_mean).collect())
    }

    fn warm_up(&mut self, sequence: &TokenSeq) -> Result<()> {
        self.score(&[sequence], Want::Mean)?.into_iter().try_for_each(|e| e.finite(Want::Mean).map(drop))
    }
}

impl Embed for CrossEncoder {
    fn embed(&self, batch: &[&TokenSeq]) -> Result<Vec<Embedding>> {
        Ok(self.rewards(batch)?.into_iter().map(Embedding::of_mean).collect())
    }

    fn has_variances(&self) -> bool {
        false
    }
}

//! Prompt and response as a pair of texts, which is how a cross-encoder reads them where there is no template.

use std::borrow::Cow;

use super::{Encoder, Limit, TokenSeq, Truncation, cut, first_field};
use crate::{Error, Result, item::Input};

impl Encoder {
    /// The type of each token of a pair: 0 up to the first separator, 1 after it; 0 for all of a templated text.
    pub fn types(&self, ids: &[u32]) -> Vec<u32> {
        let separator = self.tokenizer.separator().filter(|_| self.template.is_none());
        let first = ids.iter().position(|id| Some(*id) == separator).unwrap_or(ids.len());
        (0..ids.len()).map(|i| u32::from(i > first)).collect()
    }

    /// Encodes prompt and response as a pair; of one that is too long the response is cut, or either end.
    pub(super) fn encode_pair(
        &self,
        input: &Input,
        limit: &Limit,
        live: &dyn Fn() -> bool,
    ) -> Result<TokenSeq> {
        let (prompt, response) = turns(input)?;
        let left = limit.truncation == Some(Truncation::Left);
        let part = if left { cut::last } else { cut::first };
        let longer = prompt.len().max(response.len());
        let ((mut ids, second), whole) = cut::enough(longer, limit.max_length, live, |bytes| {
            let pair = self.tokenizer.pair_ids(part(&prompt, bytes), part(&response, bytes));
            let (ids, second) = pair.map_err(|e| e.renamed(first_field(input)))?;
            // A text that is cut short fills the limit itself, or is beside one that does and is kept before it.
            let kept = match (left, prompt.len() > bytes, response.len() > bytes) {
                (true, _, true) => second.len(),
                (false, true, _) => ids.len() - second.len(),
                _ => ids.len(),
            };
            Ok((kept, (ids, second)))
        })?;
        let tokens = ids.len();
        if let Some(excess) = tokens.checked_sub(limit.max_length).filter(|excess| *excess > 0) {
            match limit.truncation {
                None => return Err(Error::TooLong { tokens, more: !whole, limit: limit.max_length }),
                Some(Truncation::Left) => limit.cut_left(&mut ids),
                Some(Truncation::Right) => limit.cut_right(&mut ids),
                Some(Truncation::KeepSuffix) if excess < second.len() => {
                    drop(ids.drain(second.end - excess..second.end));
                }
                Some(Truncation::KeepSuffix) => {
                    return Err(Error::field("truncation", "the prompt alone is too long"));
                }
            }
        }
        self.check_ids(&ids, input)?;
        Ok(TokenSeq { truncated: ids.len() < tokens, pooled: ids.len() - 1, ids })
    }
}

/// Whether an input has a prompt and a response.
pub fn is_of_two(input: &Input) -> bool {
    matches!(input, Input::Pair { .. } | Input::Answer { .. } | Input::Messages(_))
}

/// The texts of a conversation of one prompt and one response.
fn turns(input: &Input) -> Result<(Cow<'_, str>, Cow<'_, str>)> {
    match input {
        Input::Pair { prompt, response } => Ok((Cow::Borrowed(prompt), response.into())),
        Input::Answer { prompt, response } if prompt.len() == 1 && response.len() == 1 => {
            Ok((prompt[0].content.text(), response[0].content.text()))
        }
        Input::Messages(messages) if messages.len() == 2 => {
            Ok((messages[0].content.text(), messages[1].content.text()))
        }
        _ => Err(Error::field(
            first_field(input),
            "the model has no chat template, and takes one prompt and one response (hint: give `text`)",
        )),
    }
}

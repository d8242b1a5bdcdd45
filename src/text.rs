//! Items become token sequences.

/// Token ids ready for the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenSeq {
    pub ids: Vec<u32>,
    /// Index of the token whose hidden state the reward head reads.
    pub pooled: usize,
    /// Whether tokens were cut to fit the limit.
    pub truncated: bool,
}

//! Stub, replaced by the real module.
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    pub probability: f64,
    pub contraction: Option<f64>,
    pub right: bool,
}

impl Verdict {
    pub fn new(logit: f64, contraction: Option<f64>) -> Self {
        Self { probability: crate::train::loss::sigmoid(logit.abs()), contraction, right: logit > 0.0 }
    }
}

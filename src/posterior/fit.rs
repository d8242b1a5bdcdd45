//! The curvature of the preference likelihood, H = sum_n w_n D_n D_n^T, accumulated block by block.
//!
//! Two passes over the pairs. The first sums the Kronecker factors of a LoRA block over tokens ([`Factors`]) and the
//! exact matrix of the head ([`HeadFactor`]); their eigenvectors are the bases. The second sums the diagonal of H in
//! those bases ([`Ekfac`]); [`kfac`] does without it and multiplies the factors' eigenvalues instead. D_n is the gradient
//! of the chosen reward less that of the rejected one, w_n = p_n (1 - p_n).

mod curvature;
mod ekfac;
mod factors;
mod gram;
mod live;
mod rank;

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

pub use curvature::Curvature;
pub use ekfac::Ekfac;
pub use factors::{Bases, Factors, HeadFactor, kfac};
pub(crate) use gram::Gram;
pub use live::Live;
pub use rank::Rank;

/// How S is found once the bases are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CurvatureKind {
    /// All blocks together, in a random projection ([`crate::posterior::sketch`]): one pass.
    #[default]
    Sketch,
    /// The diagonal of H in the Kronecker eigenbasis (George et al., 2018): a second pass, exact trace.
    Ekfac,
    /// Products of the factors' eigenvalues (Yang et al., 2024): one pass.
    Kfac,
}

impl FromStr for CurvatureKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "sketch" => Ok(Self::Sketch),
            "ekfac" => Ok(Self::Ekfac),
            "kfac" => Ok(Self::Kfac),
            _ => Err(format!("unknown curvature: `{text}` (hint: sketch, ekfac or kfac)")),
        }
    }
}

impl fmt::Display for CurvatureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sketch => "sketch",
            Self::Ekfac => "ekfac",
            Self::Kfac => "kfac",
        })
    }
}

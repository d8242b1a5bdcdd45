//! What is kept of separate Kronecker blocks.

use std::{collections::BTreeMap, fmt};

use crate::{
    Result,
    posterior::fit::{Curvature, CurvatureKind, Rank},
};

/// Curvatures in full, by block name.
pub type Curvatures = BTreeMap<String, Curvature>;

/// What is kept of separate blocks.
pub struct Truncation {
    pub curvature: CurvatureKind,
    rank: Rank,
    /// Whether the rest is spread evenly, or has the prior's variance.
    tails: bool,
}

impl Truncation {
    pub const ALL: [Self; 4] = [
        Self { curvature: CurvatureKind::Ekfac, rank: Rank::Full, tails: true },
        Self { curvature: CurvatureKind::Ekfac, rank: Rank::Top(16), tails: true },
        Self { curvature: CurvatureKind::Ekfac, rank: Rank::Top(16), tails: false },
        Self { curvature: CurvatureKind::Kfac, rank: Rank::Top(10), tails: true },
    ];

    pub fn of(&self, full: &Curvature) -> Result<Curvature> {
        let truncated = full.clone().truncated(self.rank)?;
        Ok(Curvature { tail: truncated.tail.filter(|_| self.tails), ..truncated })
    }
}

impl fmt::Display for Truncation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.rank, self.tails) {
            (Rank::Full, _) => write!(f, "{}", self.curvature),
            (rank, tails) => {
                write!(f, "{}, top {rank} {} tails", self.curvature, if tails { "with" } else { "without" })
            }
        }
    }
}

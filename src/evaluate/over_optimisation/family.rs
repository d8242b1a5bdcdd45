//! Families of rules, each with a strength k.

use super::{
    super::select::{Pool, Rule},
    prompt::Seen,
};
use serde::Serialize;

/// What is done with a proxy's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    Mean,
    Std,
    Variance,
    RelativeStd,
    RelativeVariance,
    HeadStd,
    EnsembleMean,
    WorstCase,
    Uwo,
    Entropic,
    TotalStd,
    RelativeTotalStd,
}

impl Family {
    pub const ALL: [Self; 12] = [
        Self::Mean,
        Self::Std,
        Self::Variance,
        Self::RelativeStd,
        Self::RelativeVariance,
        Self::HeadStd,
        Self::EnsembleMean,
        Self::WorstCase,
        Self::Uwo,
        Self::Entropic,
        Self::TotalStd,
        Self::RelativeTotalStd,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Std => "std",
            Self::Variance => "variance",
            Self::RelativeStd => "relative std",
            Self::RelativeVariance => "relative variance",
            Self::HeadStd => "std of the head alone",
            Self::EnsembleMean => "ensemble mean",
            Self::WorstCase => "ensemble worst case",
            Self::Uwo => "ensemble UWO",
            Self::Entropic => "ensemble entropic",
            Self::TotalStd => "ensemble total std",
            Self::RelativeTotalStd => "ensemble relative total std",
        }
    }

    /// Whether there is a k to choose.
    pub fn has_strength(self) -> bool {
        !matches!(self, Self::Mean | Self::EnsembleMean | Self::WorstCase)
    }

    /// Whether it reads the means of several proxies, and so is the same for each.
    pub fn of_ensemble(self) -> bool {
        use Family::{EnsembleMean, Entropic, RelativeTotalStd, TotalStd, Uwo, WorstCase};
        matches!(self, EnsembleMean | WorstCase | Uwo | Entropic | TotalStd | RelativeTotalStd)
    }

    /// Whether an answer's score depends on the others that there are.
    pub(super) fn compares(self) -> bool {
        !matches!(self, Self::Mean | Self::Std | Self::Variance | Self::HeadStd | Self::EnsembleMean)
    }

    fn rule(self, k: f64) -> Rule {
        match self {
            Self::Mean => Rule::Mean,
            Self::Std | Self::HeadStd | Self::TotalStd => Rule::Std(k),
            Self::Variance => Rule::Variance(k),
            Self::RelativeStd | Self::RelativeTotalStd => Rule::RelativeStd(k),
            Self::RelativeVariance => Rule::RelativeVariance(k),
            Self::EnsembleMean => Rule::EnsembleMean,
            Self::WorstCase => Rule::WorstCase,
            Self::Uwo => Rule::Uwo(k),
            Self::Entropic => Rule::Entropic(k),
        }
    }

    /// The numbers that it reads.
    fn pool(self, seen: &Seen) -> Option<&Pool> {
        match self {
            Self::HeadStd => Some(&seen.head),
            Self::TotalStd | Self::RelativeTotalStd => seen.total.as_ref(),
            _ => Some(&seen.pool),
        }
    }

    /// The scores of the answers; `None` where the pool lacks what is read.
    pub(super) fn scores(self, k: f64, seen: &Seen) -> Option<Vec<f64>> {
        self.rule(k).scores(self.pool(seen)?)
    }
}

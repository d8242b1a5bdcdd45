//! How good a reward model and its uncertainty are: pure functions on numbers that a model has returned.
//!
//! | module | what it measures |
//! |---|---|
//! | [`pairs`] | accuracy, likelihood, Brier score and calibration on preference pairs |
//! | [`preferences`] | all of that by the point estimate and by the posterior predictive, and by source |
//! | [`ood`] | how well a variance separates items in and out of the distribution |
//! | [`calibration`] | the calibration error and the diagram it sums up |
//! | [`coverage`] | what is gained by leaving out the pairs that are least sure |
//! | [`auroc`] | how well an uncertainty separates two kinds of items |
//! | [`rank`] | ranks and their correlation |
//! | [`select`] | the scores by which an answer is chosen out of a pool |
//! | [`selection`] | how often each rule picks the good answer among bad ones, and which rule to recommend |
//! | [`best_of_n`] | what the chosen answer is worth, by the size of the pool |
//! | [`over_optimisation`] | whether a proxy is followed too far, and which penalty prevents it |
//! | [`verdicts`] | the pairs that can be decided at a promised error rate, and what became of the promise |
//! | [`stability`] | where a variance lies among those seen at fitting, and how far many have moved |
//! | [`spread`] | mean and quantiles |
//! | [`bootstrap`] | intervals of any of these |
//!
//! No input may be NaN: an order of numbers that cannot be compared means nothing.

pub mod auroc;
pub mod best_of_n;
pub mod bootstrap;
pub mod calibration;
pub mod coverage;
#[cfg(test)]
mod fixture;
pub mod ood;
pub mod over_optimisation;
pub mod pairs;
pub mod preferences;
pub mod rank;
pub mod select;
pub mod selection;
pub mod spread;
pub mod stability;
pub mod verdicts;

pub use pairs::PairMeasures;

/// Standard errors from the middle of a normal distribution to either end of its 95 % interval.
const Z: f64 = 1.959_963_984_540_054;

pub(crate) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

//! The Laplace evidence and the prior precisions that maximise it, one lambda for each kind of block.
//!
//! ```text
//! log Z  = sum_n log sigma(delta_n) - 1/2 sum_b [ lambda_b |theta_b - mu_b|^2 + log det(I + H_b / lambda_b) ]
//! gamma  = tr H_b (H_b + lambda_b)^-1                 effective parameters
//! lambda <- gamma / |theta - mu|^2                    stationary point of log Z, summed over the blocks of a kind
//! ```
//!
//! gamma(lambda) falls and lambda |theta - mu|^2 rises, so the fixed point is the only root of their difference and the
//! maximum of log Z; bisection on log lambda finds it whatever the start. No pass over the data is needed.

use std::collections::BTreeMap;

use super::{BlockKind, Prior};

/// Smallest and largest prior precision that the evidence may choose.
pub const BOUNDS: (f64, f64) = (1e-6, 1e9);

/// Halvings of the interval of log lambda: past f64's precision.
const BISECTIONS: usize = 64;

/// The eigenvalues of a block's curvature.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Spectrum {
    /// S, every entry.
    pub kept: Vec<f64>,
    /// T, each value standing for `dropped` directions.
    pub tail: Vec<f64>,
    /// Directions of the truncated side outside its basis.
    pub dropped: usize,
}

impl Spectrum {
    /// gamma, the effective parameters at a prior precision.
    pub fn effective(&self, lambda: f64) -> f64 {
        self.sum(|s| s / (s + lambda))
    }

    /// log det(I + H / lambda).
    pub fn log_det(&self, lambda: f64) -> f64 {
        self.sum(|s| (s / lambda).ln_1p())
    }

    fn sum(&self, of: impl Fn(f64) -> f64) -> f64 {
        let kept: f64 = self.kept.iter().copied().map(&of).sum();
        let tail: f64 = self.tail.iter().copied().map(&of).sum();
        kept + self.dropped as f64 * tail
    }
}

/// What one block brings to the evidence.
#[derive(Debug, Clone)]
pub struct Term {
    /// Terms of one kind share their prior precision.
    pub kind: BlockKind,
    pub spectrum: Spectrum,
    /// |theta - mu|^2, from the prior mean.
    pub squared_distance: f64,
}

/// Prior precisions with the evidence that they reach.
#[derive(Debug, Clone, PartialEq)]
pub struct Evidence {
    /// lambda of each kind that occurs.
    pub prior_precision: BTreeMap<BlockKind, f64>,
    /// gamma of each kind that occurs.
    pub effective_parameters: BTreeMap<BlockKind, f64>,
    /// log Z, in nats.
    pub log_evidence: f64,
    /// Kinds whose lambda was held at one of [`BOUNDS`].
    pub at_bound: Vec<BlockKind>,
}

/// Chooses the prior precision of every kind among `terms` and evaluates log Z there.
///
/// `log_likelihood` is sum_n log sigma(delta_n) at the adapter's parameters.
pub fn evidence(terms: &[Term], log_likelihood: f64, prior: Prior) -> Evidence {
    let mut result = Evidence {
        prior_precision: BTreeMap::new(),
        effective_parameters: BTreeMap::new(),
        log_evidence: log_likelihood,
        at_bound: Vec::new(),
    };
    for kind in BlockKind::ALL {
        let pool = Pool(terms.iter().filter(|term| term.kind == kind).collect());
        if pool.0.is_empty() {
            continue;
        }
        let lambda = prior.given(kind).unwrap_or_else(|| {
            let lambda = pool.stationary();
            if [BOUNDS.0, BOUNDS.1].contains(&lambda) {
                result.at_bound.push(kind);
            }
            lambda
        });
        result.prior_precision.insert(kind, lambda);
        result.effective_parameters.insert(kind, pool.effective(lambda));
        result.log_evidence += pool.log_evidence(lambda);
    }
    result
}

/// The blocks that share a prior precision.
struct Pool<'a>(Vec<&'a Term>);

impl Pool<'_> {
    fn effective(&self, lambda: f64) -> f64 {
        self.0.iter().map(|term| term.spectrum.effective(lambda)).sum()
    }

    fn squared_distance(&self) -> f64 {
        self.0.iter().map(|term| term.squared_distance).sum()
    }

    /// What these blocks add to log Z.
    fn log_evidence(&self, lambda: f64) -> f64 {
        let log_det: f64 = self.0.iter().map(|term| term.spectrum.log_det(lambda)).sum();
        -0.5 * (lambda * self.squared_distance() + log_det)
    }

    /// The root of gamma(lambda) = lambda |theta - mu|^2, or the bound on its side.
    fn stationary(&self) -> f64 {
        let distance = self.squared_distance();
        let too_small = |lambda: f64| self.effective(lambda) > lambda * distance;
        if !too_small(BOUNDS.0) {
            return BOUNDS.0;
        }
        if too_small(BOUNDS.1) {
            return BOUNDS.1;
        }
        let (mut low, mut high) = (BOUNDS.0.ln(), BOUNDS.1.ln());
        for _ in 0..BISECTIONS {
            let middle = 0.5 * (low + high);
            if too_small(middle.exp()) { low = middle } else { high = middle }
        }
        (0.5 * (low + high)).exp()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn terms() -> impl Strategy<Value = Vec<Term>> {
        let term = (
            0..3usize,
            prop::collection::vec(1e-3..1e3, 1..6),
            prop::collection::vec(0.0..10.0, 0..3),
            0..9usize,
        );
        let term = (term, 1e-2..10.0).prop_map(|((kind, kept, tail, dropped), squared_distance)| Term {
            kind: BlockKind::ALL[kind],
            spectrum: Spectrum { kept, tail, dropped },
            squared_distance,
        });
        prop::collection::vec(term, 1..6)
    }

    fn log_evidence(terms: &[Term], precision: &BTreeMap<BlockKind, f64>) -> f64 {
        let of = |kind| precision.get(&kind).copied().unwrap_or(1.0);
        let prior = Prior::PerKind { a: of(BlockKind::A), b: of(BlockKind::B), head: of(BlockKind::Head) };
        evidence(terms, -3.0, prior).log_evidence
    }

    proptest! {
        #[test]
        fn chosen_precisions_are_the_maximum_of_the_evidence(terms in terms()) {
            let chosen = evidence(&terms, -3.0, Prior::Evidence);
            prop_assume!(chosen.at_bound.is_empty());
            for (kind, lambda) in &chosen.prior_precision {
                let at = |log_step: f64| {
                    let mut moved = chosen.prior_precision.clone();
                    moved.insert(*kind, lambda * log_step.exp());
                    log_evidence(&terms, &moved)
                };
                let slope = (at(1e-4) - at(-1e-4)) / 2e-4;
                let scale = 1.0 + chosen.effective_parameters[kind];
                prop_assert!(slope.abs() < 1e-5 * scale, "{kind}: slope {slope}");
                prop_assert!(at(0.0) >= at(0.1) && at(0.0) >= at(-0.1));
            }
        }

        #[test]
        fn chosen_precisions_are_fixed_points(terms in terms()) {
            let chosen = evidence(&terms, 0.0, Prior::Evidence);
            for (kind, lambda) in &chosen.prior_precision {
                let distance: f64 = terms.iter().filter(|t| t.kind == *kind).map(|t| t.squared_distance).sum();
                let next = chosen.effective_parameters[kind] / distance;
                prop_assert!((next / lambda - 1.0).abs() < 1e-9 || chosen.at_bound.contains(kind));
            }
        }
    }

    #[test]
    fn reports_the_bound_that_is_hit() {
        let term = |kind, kept, squared_distance| Term {
            kind,
            spectrum: Spectrum { kept: vec![kept], ..Spectrum::default() },
            squared_distance,
        };
        let terms =
            [term(BlockKind::A, 1.0, 0.5), term(BlockKind::B, 1.0, 0.0), term(BlockKind::Head, 0.0, 1.0)];
        let chosen = evidence(&terms, 0.0, Prior::Evidence);
        assert_eq!(chosen.at_bound, [BlockKind::B, BlockKind::Head]);
        assert_eq!(chosen.prior_precision[&BlockKind::B], BOUNDS.1);
        assert_eq!(chosen.prior_precision[&BlockKind::Head], BOUNDS.0);
        assert!((chosen.prior_precision[&BlockKind::A] - 1.0).abs() < 1e-9);
    }

    #[test]
    fn one_parameter_by_hand() {
        let spectrum = Spectrum { kept: vec![3.0], tail: vec![1.0], dropped: 2 };
        let terms = [Term { kind: BlockKind::Head, spectrum, squared_distance: 5.0 }];
        let got = evidence(&terms, -7.0, Prior::Number(2.0));
        let want = -7.0 - 0.5 * (2.0 * 5.0 + 2.5f64.ln() + 2.0 * 1.5f64.ln());
        assert!((got.log_evidence - want).abs() < 1e-12);
        assert!((got.effective_parameters[&BlockKind::Head] - (0.6 + 2.0 / 3.0)).abs() < 1e-12);
    }
}

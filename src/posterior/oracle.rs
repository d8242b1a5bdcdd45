//! The exact posterior of a few pairs in data space: what every approximation is held against.
//!
//! ```text
//! K      = D Lambda^-1 D^T          of the pairs                     (N, N)
//! c      = J Lambda^-1 D^T          of rewards with the pairs        (R, N)
//! kappa  = diag J Lambda^-1 J^T     the prior variances              (R)
//! v      = kappa - diag c (W^-1 + K)^-1 c^T                          maths.md, section 3
//! ```
//!
//! Evaluated in the eigenbasis of M = W^1/2 K W^1/2 = V diag(s) V^T, where each eigenvector takes
//! (V_i^T W^1/2 c)^2 / (1 + s_i) off the prior variance, so that the posterior of rank k takes the first k alone. Kernels of
//! blocks add up: one block is the exact posterior of that block, all of them the exact joint one.

use faer::{Mat, Side, linalg::solvers::DenseSolveCore};

use crate::{Error, Result};

/// Inner products of gradients over some parameters, under a prior of precision 1.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// Of the pairs with each other, (N, N).
    pub pairs: Mat<f64>,
    /// Of the rewards with the pairs, (R, N).
    pub cross: Mat<f64>,
    /// Of each reward with itself, (R).
    pub own: Vec<f64>,
}

/// A kernel's spectrum under the weights of the pairs.
#[derive(Debug, Clone)]
pub struct Spectrum {
    /// s, falling.
    values: Vec<f64>,
    /// (V^T W^1/2 c)^2 of each reward, (R, N).
    squares: Mat<f64>,
    own: Vec<f64>,
}

impl Kernel {
    /// Nothing yet.
    pub fn zero(pairs: usize, rewards: usize) -> Self {
        Self { pairs: Mat::zeros(pairs, pairs), cross: Mat::zeros(rewards, pairs), own: vec![0.0; rewards] }
    }

    /// Adds the kernel of other parameters, whose prior precision is `lambda`.
    pub fn add(&mut self, other: &Self, lambda: f64) {
        self.pairs += &other.pairs * faer::Scale(lambda.recip());
        self.cross += &other.cross * faer::Scale(lambda.recip());
        self.own.iter_mut().zip(&other.own).for_each(|(sum, own)| *sum += own / lambda);
    }

    /// Decomposes it under the weights w_n.
    pub fn spectrum(&self, weights: &[f64]) -> Result<Spectrum> {
        let root: Vec<f64> = weights.iter().map(|w| w.sqrt()).collect();
        let count = weights.len();
        let weighted = Mat::from_fn(count, count, |i, j| root[i] * self.pairs[(i, j)] * root[j]);
        let eigen = weighted.self_adjoint_eigen(Side::Lower).map_err(|e| {
            Error::Compute(candle_core::Error::Msg(format!("no eigendecomposition of the kernel: {e:?}")))
        })?;
        let cross = Mat::from_fn(self.own.len(), count, |r, n| self.cross[(r, n)] * root[n]);
        let turned = &cross * eigen.U();
        // Ascending eigenvalues become falling ones.
        let from = |k: usize| count - 1 - k;
        Ok(Spectrum {
            values: (0..count).map(|k| eigen.S()[from(k)].max(0.0)).collect(),
            squares: Mat::from_fn(self.own.len(), count, |r, k| turned[(r, from(k))].powi(2)),
            own: self.own.clone(),
        })
    }

    /// tr [K_g W^1/2 (I + M)^-1 W^1/2] for the kernel of each group of parameters: its effective parameters, where `self` is the
    /// sum of all groups under their priors.
    pub fn effective(&self, groups: &[(&Self, f64)], weights: &[f64]) -> Result<Vec<f64>> {
        let count = weights.len();
        let root: Vec<f64> = weights.iter().map(|w| w.sqrt()).collect();
        let m = Mat::from_fn(count, count, |i, j| {
            root[i] * self.pairs[(i, j)] * root[j] + f64::from(u8::from(i == j))
        });
        let inverse = m.llt(Side::Lower).map_err(|e| {
            Error::Compute(candle_core::Error::Msg(format!("the kernel is not positive semidefinite: {e:?}")))
        })?;
        let inverse = inverse.inverse();
        let of_group = |(kernel, lambda): &(&Self, f64)| {
            let entry = |i: usize, j: usize| root[i] * kernel.pairs[(i, j)] * root[j] * inverse[(j, i)];
            (0..count).map(|i| (0..count).map(|j| entry(i, j)).sum::<f64>()).sum::<f64>() / lambda
        };
        Ok(groups.iter().map(of_group).collect())
    }
}

impl Spectrum {
    /// The variance of each reward under the curvature's `rank` largest directions; `usize::MAX` for all.
    pub fn variances(&self, rank: usize) -> Vec<f64> {
        let kept = rank.min(self.values.len());
        let taken = |r: usize| (0..kept).map(|k| self.squares[(r, k)] / (1.0 + self.values[k])).sum::<f64>();
        self.own.iter().enumerate().map(|(r, own)| (own - taken(r)).max(0.0)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use faer::linalg::solvers::Solve;

    fn random(rows: usize, columns: usize, seed: u64) -> Mat<f64> {
        use rand::{Rng, SeedableRng};
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        Mat::from_fn(rows, columns, |_, _| rng.random_range(-1.0..1.0))
    }

    fn kernel(d: &Mat<f64>, j: &Mat<f64>) -> Kernel {
        let own = j * j.transpose();
        Kernel {
            pairs: d * d.transpose(),
            cross: j * d.transpose(),
            own: (0..j.nrows()).map(|r| own[(r, r)]).collect(),
        }
    }

    #[test]
    fn data_space_equals_parameter_space() {
        let weights = [0.25, 0.1, 0.2, 0.05];
        let (a, b) = ((random(4, 5, 1), random(3, 5, 2)), (random(4, 7, 3), random(3, 7, 4)));
        let lambda = (0.5, 20.0);
        let mut joint = Kernel::zero(4, 3);
        joint.add(&kernel(&a.0, &a.1), lambda.0);
        joint.add(&kernel(&b.0, &b.1), lambda.1);
        // H + Lambda over all twelve parameters.
        let all = |first: &Mat<f64>, second: &Mat<f64>| {
            Mat::from_fn(first.nrows(), 12, |i, p| if p < 5 { first[(i, p)] } else { second[(i, p - 5)] })
        };
        let (d, j) = (all(&a.0, &b.0), all(&a.1, &b.1));
        let precision = Mat::from_fn(12, 12, |p, q| {
            let h: f64 = (0..4).map(|n| weights[n] * d[(n, p)] * d[(n, q)]).sum();
            h + if p == q { if p < 5 { lambda.0 } else { lambda.1 } } else { 0.0 }
        });
        let factor = precision.llt(Side::Lower).unwrap();
        let want = &j * factor.solve(j.transpose());
        let got = joint.spectrum(&weights).unwrap().variances(usize::MAX);
        (0..3).for_each(|r| assert!((got[r] - want[(r, r)]).abs() < 1e-12));

        // gamma of a group: the trace of (H + Lambda)^-1 H over its parameters.
        let inverse = factor.inverse();
        let gamma = |range: std::ops::Range<usize>, lambda: f64| {
            range.map(|p| 1.0 - lambda * inverse[(p, p)]).sum::<f64>()
        };
        let (ka, kb) = (kernel(&a.0, &a.1), kernel(&b.0, &b.1));
        let got = joint.effective(&[(&ka, lambda.0), (&kb, lambda.1)], &weights).unwrap();
        for (got, want) in got.iter().zip([gamma(0..5, lambda.0), gamma(5..12, lambda.1)]) {
            assert!((got - want).abs() < 1e-12, "{got}, {want}");
        }
    }

    #[test]
    fn more_directions_leave_less_variance() {
        let kernel = kernel(&random(4, 9, 1), &random(3, 9, 2));
        let spectrum = kernel.spectrum(&[0.25; 4]).unwrap();
        let by_rank: Vec<Vec<f64>> = (0..=4).map(|rank| spectrum.variances(rank)).collect();
        assert_eq!(by_rank[0], kernel.own);
        for pair in by_rank.windows(2) {
            assert!(pair[0].iter().zip(&pair[1]).all(|(less, more)| less >= more));
        }
        assert_eq!(by_rank[4], spectrum.variances(usize::MAX));
    }
}

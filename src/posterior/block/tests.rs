//! Blocks against the inverse of the dense matrix that they stand for, in f64.

use candle_core::Device;
use faer::{Mat, linalg::solvers::DenseSolveCore};
use proptest::prelude::*;

use super::*;
use crate::{
    nn::check::{random, values},
    posterior::fit::{Curvature, Factors},
};

/// A block's shape, what is left of it and a seed for its numbers.
#[derive(Debug, Clone)]
struct Case {
    d_out: usize,
    d_in: usize,
    k_out: usize,
    k_in: usize,
    tail: bool,
    lambda: f64,
    seed: u64,
}

impl Case {
    fn curvature(&self) -> Curvature {
        let Self { d_out, d_in, k_out, k_in, seed, .. } = *self;
        let mut factors = Factors::new(d_out, d_in);
        factors.add(&random(seed, &[9, d_in]), &random(seed + 1, &[9, d_out]), &[1.0; 9]).unwrap();
        let bases = factors.eigenbases("b", DType::F64).unwrap();
        let positive = |seed, shape: &[usize]| (random(seed, shape) * 3.0).unwrap().exp().unwrap();
        let directions = if k_in < d_in { k_out } else { k_in };
        let tail = self.tail && (k_in < d_in || k_out < d_out);
        Curvature {
            input_basis: bases.input.vectors.narrow(1, 0, k_in).unwrap(),
            output_basis: bases.output.vectors.narrow(1, 0, k_out).unwrap(),
            curvature: positive(seed + 2, &[k_out, k_in]),
            tail: tail.then(|| positive(seed + 3, &[directions])),
        }
    }

    fn block(&self, dtype: DType) -> Block {
        let Curvature { input_basis, output_basis, curvature, tail } = self.curvature();
        let (input_basis, output_basis) = (input_basis.to_dtype(dtype), output_basis.to_dtype(dtype));
        let (input_basis, output_basis) = (input_basis.unwrap(), output_basis.unwrap());
        Block::new(Parts { input_basis, output_basis, curvature, tail, prior_precision: self.lambda })
            .unwrap()
    }

    fn gradients(&self, n: usize) -> Tensor {
        random(self.seed + 4, &[n, self.d_out, self.d_in])
    }
}

fn case() -> impl Strategy<Value = Case> {
    let sides = (1..6usize, 1..7usize).prop_flat_map(|(d_out, d_in)| {
        let full = Just((d_out, d_in, d_out, d_in));
        let input = (1..=d_in).prop_map(move |k| (d_out, d_in, d_out, k));
        let output = (1..=d_out).prop_map(move |k| (d_out, d_in, k, d_in));
        prop_oneof![full, input, output]
    });
    (sides, any::<bool>(), 0.1..5.0, 0..1000u64).prop_map(
        |((d_out, d_in, k_out, k_in), tail, lambda, seed)| Case {
            d_out,
            d_in,
            k_out,
            k_in,
            tail,
            lambda,
            seed,
        },
    )
}

/// The block's curvature H over vec(J), row-major: sum of S_ij v_ij v_ij^T with v_ij = u_o kron u_i, plus the tail's part.
fn to_dense(curvature: &Curvature) -> Mat<f64> {
    let side = |basis: &Tensor| {
        let (d, k) = basis.dims2().unwrap();
        let entries = values(basis);
        Mat::from_fn(d, k, |i, j| entries[i * k + j])
    };
    let (input, output) = (side(&curvature.input_basis), side(&curvature.output_basis));
    let (d_in, d_out) = (input.nrows(), output.nrows());
    let spread = |i: usize, j: usize| {
        let (u, v) = (output.col(i), input.col(j));
        Mat::from_fn(d_out * d_in, 1, |r, _| u[r / d_in] * v[r % d_in])
    };
    let s = values(&curvature.curvature);
    let mut dense = Mat::zeros(d_out * d_in, d_out * d_in);
    for (ij, s) in s.iter().enumerate() {
        let v = spread(ij / input.ncols(), ij % input.ncols());
        dense += faer::Scale(*s) * &v * v.transpose();
    }
    let Some(tail) = curvature.tail.as_ref().map(values) else { return dense };
    let outside =
        |basis: &Mat<f64>| Mat::<f64>::identity(basis.nrows(), basis.nrows()) - basis * basis.transpose();
    let line = |basis: &Mat<f64>, k: usize| basis.col(k) * basis.col(k).transpose();
    for (k, t) in tail.iter().enumerate() {
        let (left, right) = match input.ncols() < d_in {
            true => (line(&output, k), outside(&input)),
            false => (outside(&output), line(&input, k)),
        };
        let entry = |r: usize, c: usize| left[(r / d_in, c / d_in)] * right[(r % d_in, c % d_in)];
        dense += faer::Scale(*t) * Mat::from_fn(d_out * d_in, d_out * d_in, entry);
    }
    dense
}

/// Rows of J, flattened, as columns.
fn columns(j: &Tensor) -> Mat<f64> {
    let (n, p) = j.flatten_from(1).unwrap().dims2().unwrap();
    let entries = values(j);
    Mat::from_fn(p, n, |r, c| entries[c * p + r])
}

fn dense_covariance(case: &Case, j: &Tensor) -> Mat<f64> {
    let h = to_dense(&case.curvature());
    let precision = &h + faer::Scale(case.lambda) * Mat::<f64>::identity(h.nrows(), h.nrows());
    let j = columns(j);
    j.transpose() * precision.partial_piv_lu().inverse() * &j
}

fn assert_close(got: f64, want: f64, tolerance: f64) -> Result<(), TestCaseError> {
    prop_assert!((got - want).abs() <= tolerance * (1.0 + want.abs()), "{got} is not {want}");
    Ok(())
}

proptest! {
    #[test]
    fn covariance_and_variances_equal_the_dense_inverse(case in case()) {
        let (block, j) = (case.block(DType::F64), case.gradients(3));
        let want = dense_covariance(&case, &j);
        let (covariance, variances) = (block.covariance(&j).unwrap(), block.variances(&j).unwrap());
        for a in 0..3 {
            assert_close(variances[a], want[(a, a)], 1e-9)?;
            for b in 0..3 {
                assert_close(covariance[a][b], want[(a, b)], 1e-9)?;
            }
        }
    }

    #[test]
    fn features_of_a_difference_are_the_difference_of_features(case in case()) {
        let (block, j) = (case.block(DType::F64), case.gradients(2));
        let both = block.features(&j).unwrap();
        // |J|^2 / lambda, by rotated features and by the gradients themselves.
        let prior = values(&both.prior.sqr().unwrap().sum(1).unwrap());
        for ((i, got), norm) in prior.iter().enumerate().zip(block.prior_variances(&j).unwrap()) {
            let want = values(&j.get(i).unwrap()).iter().map(|x| x * x).sum::<f64>() / case.lambda;
            assert_close(*got, want, 1e-9)?;
            assert_close(norm, want, 1e-9)?;
        }
        let features = both.posterior;
        let difference = (j.narrow(0, 0, 1).unwrap() - j.narrow(0, 1, 1).unwrap()).unwrap();
        let got = values(&block.features(&difference).unwrap().posterior);
        let want = values(&(features.get(0).unwrap() - features.get(1).unwrap()).unwrap());
        for (got, want) in got.iter().zip(want) {
            assert_close(*got, want, 1e-9)?;
        }
    }

    #[test]
    fn single_precision_serves(case in case()) {
        let (block, j) = (case.block(DType::F32), case.gradients(2));
        let want = dense_covariance(&case, &j);
        for dtype in [DType::F32, DType::F64, DType::BF16] {
            let tolerance = if dtype == DType::BF16 { 5e-2 } else { 1e-5 };
            let got = block.variances(&j.to_dtype(dtype).unwrap()).unwrap();
            for (n, got) in got.into_iter().enumerate() {
                assert_close(got, want[(n, n)], tolerance)?;
            }
        }
    }

    #[test]
    fn spectrum_gives_the_dense_log_det_and_effective_parameters(case in case()) {
        let curvature = case.curvature();
        let spectrum = curvature.spectrum().unwrap();
        let eigenvalues = to_dense(&curvature).self_adjoint_eigenvalues(faer::Side::Lower).unwrap();
        let log_det: f64 = eigenvalues.iter().map(|s| (s / case.lambda).ln_1p()).sum();
        let effective: f64 = eigenvalues.iter().map(|s| s / (s + case.lambda)).sum();
        assert_close(spectrum.log_det(case.lambda), log_det, 1e-9)?;
        assert_close(spectrum.effective(case.lambda), effective, 1e-9)?;
        assert_close(curvature.trace().unwrap(), eigenvalues.iter().sum(), 1e-9)?;
    }
}

fn parts() -> Parts {
    let case = Case { d_out: 2, d_in: 5, k_out: 2, k_in: 3, tail: true, lambda: 1.0, seed: 7 };
    case.block(DType::F64).parts().clone()
}

#[test]
fn dims_are_those_of_the_trainable_matrix() {
    assert_eq!(Block::new(parts()).unwrap().dims(), (2, 5));
}

#[test]
fn a_gradient_inside_the_basis_of_a_stiff_block_leaves_no_residual() {
    let mut parts = parts();
    parts.input_basis = parts.input_basis.to_dtype(DType::F32).unwrap();
    parts.curvature = (parts.curvature.ones_like().unwrap() * 1e12).unwrap();
    parts.tail = None;
    let basis = parts.input_basis.t().unwrap().to_dtype(DType::F64).unwrap();
    let inside = random(9, &[2, 3]).matmul(&basis).unwrap().unsqueeze(0).unwrap();
    let variance = Block::new(parts).unwrap().variances(&inside).unwrap()[0];
    assert!(variance < 1e-11, "{variance}"); // ||J||^2 - sum q^2 in f32 would leave about 1e-7
}

#[test]
fn every_problem_is_named_at_once() {
    let scaled = |t: &Tensor, by: f64| (t * by).unwrap();
    let bad = Parts {
        input_basis: scaled(&parts().input_basis, 1.01),
        curvature: scaled(&parts().curvature, -1.0),
        tail: Some(Tensor::new(&[1.0, f64::NAN, 1.0], &Device::Cpu).unwrap()),
        prior_precision: 0.0,
        ..parts()
    };
    let problems = Block::new(bad).unwrap_err();
    let starts = ["tail: shape [3], expected [2]", "input_basis: columns are not orthonormal"];
    let more =
        ["curvature: has a negative entry", "tail: has a non-finite entry: NaN", "prior_precision: must be"];
    assert_eq!(problems.len(), 5, "{problems:?}");
    for (problem, start) in problems.iter().zip(starts.iter().chain(&more)) {
        assert!(problem.starts_with(start), "{problem}");
    }
}

#[test]
fn wrong_shapes_are_named() {
    let narrow = |t: &Tensor, dim, length| t.narrow(dim, 0, length).unwrap();
    let wide = parts().input_basis.t().unwrap();
    let cases = [
        (
            Parts { curvature: narrow(&parts().curvature, 1, 2), ..parts() },
            "curvature: shape [2, 2], expected [2, 3]",
        ),
        (Parts { input_basis: wide, ..parts() }, "input_basis: shape [3, 5], expected a matrix"),
        (Parts { output_basis: narrow(&parts().output_basis, 1, 1), ..parts() }, "both sides are truncated"),
        (
            Parts { output_basis: parts().curvature.flatten_all().unwrap(), ..parts() },
            "output_basis: shape [6]",
        ),
    ];
    for (bad, message) in cases {
        let problems = Block::new(bad).unwrap_err().join("; ");
        assert!(problems.contains(message), "{problems}");
    }
    let case = Case { d_out: 2, d_in: 3, k_out: 2, k_in: 3, tail: false, lambda: 1.0, seed: 7 };
    let full = case.block(DType::F64).parts().clone();
    let tailed = Parts { tail: Some(random(1, &[2]).abs().unwrap()), ..full };
    assert_eq!(Block::new(tailed).unwrap_err(), ["tail: given, but no side is truncated"]);
}

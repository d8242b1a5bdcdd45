//! The kernels against integers, against f64 and against each other, on shapes that fit no tile.

use super::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// (N, d_in, d_out): whole tiles, single rows, and one more or less than a group, a panel, a tile and a task.
const SHAPES: [(usize, usize, usize); 9] = [
    (1, 1, 1),
    (1, 576, 96),
    (2, 63, 31),
    (5, 65, 33),
    (6, 64, 32),
    (7, 130, 100),
    (49, 200, 225),
    (100, 96, 40),
    (150, 576, 192),
];

fn random(seed: u64, len: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// Integers in -127..=127, with a 127 in every group of a row, so that each is its own code.
fn integers(seed: u64, rows: usize, d_in: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let number = |i: usize| if (i % d_in).is_multiple_of(GROUP) { 127 } else { rng.random_range(-127..=127) };
    (0..rows * d_in).map(number).map(|v| v as f32).collect()
}

/// x W^T in f64, and the same of the magnitudes.
fn products(x: &[f32], w: &[f32], d_in: usize) -> Vec<(f64, f64)> {
    let term = |(x, w): (&f32, &f32)| f64::from(*x) * f64::from(*w);
    let rows = x.chunks(d_in).flat_map(|x| w.chunks(d_in).map(move |w| (x, w)));
    let both = |(x, w): (&[f32], &[f32])| {
        let terms = || x.iter().zip(w).map(term);
        (terms().sum(), terms().map(f64::abs).sum())
    };
    rows.map(both).collect()
}

/// x W^T by every kernel that runs here.
fn by_each_kernel(x: &[f32], w: &[f32], (d_out, d_in): (usize, usize)) -> Vec<(Kernel, Vec<f32>)> {
    let weight = QuantizedWeight::new(w, (d_out, d_in));
    Kernel::available().map(|kernel| (kernel, weight.product_by(kernel, x, None))).collect()
}

#[test]
fn the_product_of_integers_is_exact() {
    for (n, d_in, d_out) in SHAPES {
        let (x, w) = (integers(1, n, d_in), integers(2, d_out, d_in));
        // Below 2^24 every sum is an f32.
        let want: Vec<f32> = products(&x, &w, d_in).into_iter().map(|(sum, _)| sum as f32).collect();
        for (kernel, y) in by_each_kernel(&x, &w, (d_out, d_in)) {
            assert_eq!(y, want, "{kernel:?} of ({n}, {d_in}) by ({d_out}, {d_in})");
        }
    }
}

#[test]
fn the_largest_codes_do_not_overflow() {
    let d_in = 3 * GROUP;
    for (x, w) in [(127.0, 127.0), (-127.0, 127.0), (127.0, -127.0), (-127.0, -127.0)] {
        for (kernel, y) in by_each_kernel(&vec![x; 4 * d_in], &vec![w; 35 * d_in], (35, d_in)) {
            assert!(y.iter().all(|y| *y == x * w * d_in as f32), "{kernel:?}: {x} {w}");
        }
    }
}

#[test]
fn all_kernels_give_the_same_bits() {
    for (n, d_in, d_out) in SHAPES {
        let (x, w) = (random(3, n * d_in), random(4, d_out * d_in));
        let all = by_each_kernel(&x, &w, (d_out, d_in));
        for (kernel, y) in &all {
            assert_eq!(y, &all[0].1, "{kernel:?} of ({n}, {d_in}) by ({d_out}, {d_in})");
        }
    }
}

/// A number of a group is off by at most half a step, a 254th of the largest: with |x|, |w| <= 1, a product by at most
/// (|x| + |w| + 1/254) / 254.
#[test]
fn the_error_is_bounded_by_half_a_step() {
    for (n, d_in, d_out) in SHAPES {
        let (x, w) = (random(5, n * d_in), random(6, d_out * d_in));
        let norm = |values: &[f32]| values.iter().map(|v| f64::from(v.abs())).sum::<f64>();
        let y = QuantizedWeight::new(&w, (d_out, d_in)).product(&x, None);
        for (i, (got, (want, size))) in y.iter().zip(products(&x, &w, d_in)).enumerate() {
            let (x, w) = (&x[i / d_out * d_in..][..d_in], &w[i % d_out * d_in..][..d_in]);
            let bound = (norm(x) + norm(w) + d_in as f64 / 254.0) / 254.0 + 1e-6 * size;
            assert!(
                (f64::from(*got) - want).abs() <= bound,
                "entry {i} of ({n}, {d_in}, {d_out}): {got}, {want}"
            );
        }
    }
}

#[test]
fn the_usual_error_is_under_a_hundredth() {
    let (n, d_in, d_out) = (150, 576, 192);
    let (x, w) = (random(7, n * d_in), random(8, d_out * d_in));
    let y = QuantizedWeight::new(&w, (d_out, d_in)).product(&x, None);
    let (mut error, mut norm) = (0.0, 0.0);
    for (got, (want, _)) in y.iter().zip(products(&x, &w, d_in)) {
        error += (f64::from(*got) - want).powi(2);
        norm += want * want;
    }
    assert!(error.sqrt() < 0.01 * norm.sqrt(), "{}", (error / norm).sqrt());
}

#[test]
fn what_is_given_is_added() {
    let (n, d_in, d_out) = (7, 130, 100);
    let (x, w, before) = (random(9, n * d_in), random(10, d_out * d_in), random(11, n * d_out));
    let weight = QuantizedWeight::new(&w, (d_out, d_in));
    let (y, sum) = (weight.product(&x, None), weight.product(&x, Some(&before)));
    assert!(sum.iter().zip(before.iter().zip(&y)).all(|(sum, (before, y))| *sum == before + y));
}

#[test]
fn nothing_that_is_not_finite_becomes_a_number() {
    let (n, d_in, d_out) = (8, 130, 40);
    for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for at in [0, 64, 129] {
            let (mut x, mut w) = (random(12, n * d_in), random(13, d_out * d_in));
            x[3 * d_in + at] = bad;
            for (kernel, y) in by_each_kernel(&x, &w, (d_out, d_in)) {
                let rows = y.chunks(d_out).enumerate();
                rows.for_each(|(i, row)| {
                    assert!(row.iter().all(|y| y.is_finite() == (i != 3)), "{kernel:?}")
                });
            }
            (x[3 * d_in + at], w[7 * d_in + at]) = (0.0, bad);
            for (kernel, y) in by_each_kernel(&x, &w, (d_out, d_in)) {
                let columns = y.iter().enumerate().map(|(i, y)| (i % d_out, y));
                columns.for_each(|(o, y)| assert!(y.is_finite() == (o != 7), "{kernel:?}"));
            }
        }
    }
}

#[test]
fn zeros_tiny_and_huge_numbers_have_scales() {
    for (size, want) in [(0.0, 0.0), (f32::MIN_POSITIVE / 2.0, 0.0), (1e-30, 1e-30), (1e38, 1e38)] {
        for (kernel, y) in by_each_kernel(&[size, -size], &[1.0, 0.0], (1, 2)) {
            assert!((y[0] - want).abs() <= 1e-6 * want, "{kernel:?}: {} is not {want}", y[0]);
        }
    }
}

#[test]
fn no_tokens_give_no_outputs() {
    let weight = QuantizedWeight::new(&[1.0; 6], (2, 3));
    assert!(weight.product(&[], None).is_empty());
    assert_eq!(weight.dims(), (2, 3));
}

#[test]
#[should_panic(expected = "outputs")]
fn an_output_of_another_size_is_a_panic() {
    QuantizedWeight::new(&[1.0; 6], (2, 3)).product(&[1.0; 6], Some(&[0.0; 3]));
}

#[test]
#[should_panic(expected = "values of a weight")]
fn a_weight_of_another_size_is_a_panic() {
    QuantizedWeight::new(&[1.0; 5], (2, 3));
}

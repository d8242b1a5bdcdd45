//! Finite differences: the test oracle of every backward function, in f64.

use candle_core::{DType, Device, Result, Tensor};
use rand::{Rng, SeedableRng};

/// A reproducible tensor of numbers in (-1, 1).
pub fn random(seed: u64, shape: &[usize]) -> Tensor {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f64> = (0..shape.iter().product()).map(|_| rng.random_range(-1.0..1.0)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

pub fn values(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Asserts that `gradient` is the gradient of `sum(dy * f(x))` at `x`, entry by entry.
pub fn assert_gradient(x: &Tensor, dy: &Tensor, gradient: &Tensor, f: impl Fn(&Tensor) -> Result<Tensor>) {
    const STEP: f64 = 1e-5;
    let (at, got) = (values(x), values(gradient));
    assert_eq!(x.dims(), gradient.dims());
    let objective = |v: Vec<f64>| {
        let y = f(&Tensor::from_vec(v, x.dims(), &Device::Cpu).unwrap()).unwrap();
        values(&(y * dy).unwrap()).iter().sum::<f64>()
    };
    for i in 0..at.len() {
        let moved = |step: f64| {
            let mut v = at.clone();
            v[i] += step;
            objective(v)
        };
        let want = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
        assert!((got[i] - want).abs() <= 1e-6 * (1.0 + want.abs()), "entry {i}: {} is not {want}", got[i]);
    }
}

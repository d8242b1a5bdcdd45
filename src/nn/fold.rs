//! A random projection of Jacobians: entries with random signs, added into a few features.
//!
//! ```text
//! phi[(i + shift_c) mod m] += sign_e j_e        e = c m + i, the i-th entry of the c-th run of m entries
//! ```
//!
//! Entries are counted over all that is folded into the same features, so that a Jacobian begins at an offset.
//!
//! Inner products survive in expectation, with a variance of at most 2 |a|^2 |b|^2 / m (Charikar et al., 2002; Achlioptas, 2003):
//! entries of one run never meet, those of two runs meet once in m shifts. Runs lie as they are in memory, so that a projection
//! costs one pass over the Jacobian. With as many features as entries in all there is one run: the map is a signed permutation,
//! and exact.

use super::cpu::{self, Values};
use candle_core::{D, Result, Tensor};

/// A map of the entries from `offset` on to `features` numbers, drawn by its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fold {
    pub key: u64,
    pub features: usize,
    pub offset: usize,
}

/// splitmix64's increment (Steele et al., 2014), and what tells the shifts' stream from the signs'.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
const SHIFTS: u64 = 0xd1b5_4a32_d192_ed03;

impl Fold {
    /// The signs of entries 64 k to 64 k + 63, a bit each: set where the entry is subtracted.
    pub fn signs(&self, k: u64) -> u64 {
        mix(self.key.wrapping_add(k.wrapping_mul(STEP)))
    }

    /// Where the first entry of the c-th run goes.
    pub fn shift(&self, c: u64) -> usize {
        let drawn = mix((self.key ^ SHIFTS).wrapping_add(c.wrapping_mul(STEP)));
        // The high half of the product is uniform on 0..features.
        ((u128::from(drawn) * self.features as u128) >> 64) as usize
    }

    /// Projects each of (n, ..) of any float type: (n, features).
    pub fn apply(&self, j: &Tensor) -> Result<Tensor> {
        let flat = j.flatten_from(1)?;
        if let Some(values) = Values::of(&flat) {
            return cpu::tensor(cpu::fold::fold(self, &values, flat.dim(1)?), (flat.dim(0)?, self.features));
        }
        self.portable(&flat)
    }

    fn portable(&self, flat: &Tensor) -> Result<Tensor> {
        let (n, entries) = flat.dims2()?;
        let (m, all) = (self.features, self.offset..self.offset + entries);
        let subtracted = |e: usize| (self.signs((e / 64) as u64) >> (e % 64)) & 1 == 1;
        let sign = |e: usize| if subtracted(e) { -1f32 } else { 1.0 };
        let feature = |e: usize| ((e % m + self.shift((e / m) as u64)) % m) as u32;
        let signs = Tensor::from_iter(all.clone().map(sign), flat.device())?.to_dtype(flat.dtype())?;
        let features = Tensor::from_iter(all.map(feature), flat.device())?;
        let zeros = Tensor::zeros((n, m), flat.dtype(), flat.device())?;
        zeros.index_add(&features, &flat.broadcast_mul(&signs)?.contiguous()?, D::Minus1)
    }
}

/// splitmix64's output function.
fn mix(state: u64) -> u64 {
    let z = state.wrapping_add(STEP);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::check::{random, values};
    use candle_core::DType;

    #[test]
    fn the_kernel_does_what_the_portable_function_does() {
        let table =
            [(1, 5, 0), (7, 7, 3), (16, 5, 15), (16, 100, 40), (64, 1000, 64), (33, 333, 70), (9, 1, 8)];
        for (features, entries, offset) in table {
            let fold = Fold { key: 3, features, offset };
            let j = random(1, &[3, entries]);
            let want = values(&fold.apply(&j).unwrap());
            let got = fold.apply(&j.to_dtype(DType::F32).unwrap()).unwrap();
            for (got, want) in values(&got).iter().zip(want) {
                assert!((got - want).abs() < 1e-5, "{features} of {entries}: {got}, {want}");
            }
        }
    }

    #[test]
    fn as_many_features_as_entries_keep_every_inner_product() {
        let j = random(1, &[4, 15]);
        let gram = |x: &Tensor| values(&x.matmul(&x.t().unwrap()).unwrap());
        let part = |offset: usize, entries| {
            let fold = Fold { key: 1, features: 15, offset };
            fold.apply(&j.narrow(1, offset, entries).unwrap().contiguous().unwrap()).unwrap()
        };
        let got = gram(&(part(0, 4) + part(4, 11)).unwrap());
        for (got, want) in got.iter().zip(gram(&j)) {
            assert!((got - want).abs() < 1e-12);
        }
    }

    #[test]
    fn inner_products_are_kept_on_average() {
        let j = random(1, &[2, 600]);
        let (exact, keys, features) = (values(&j.matmul(&j.t().unwrap()).unwrap()), 2000, 24);
        let (mut sum, mut squares) = (0.0, 0.0);
        for key in 0..keys {
            let phi = values(&Fold { key, features, offset: 0 }.apply(&j).unwrap());
            let (a, b) = phi.split_at(features);
            let error = a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() - exact[1];
            sum += error;
            squares += error * error;
        }
        let variance = squares / keys as f64;
        let bound = (exact[0] * exact[3] + exact[1] * exact[1]) / features as f64;
        assert!((sum / keys as f64).abs() < 4.0 * (variance / keys as f64).sqrt(), "biased");
        assert!(variance < 1.1 * bound && variance > 0.8 * bound, "{variance} of {bound}");
    }
}

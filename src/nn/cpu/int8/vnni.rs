//! The tile with AVX-512 VNNI: `vpdpbusd` sums four products of an unsigned and a signed byte into each i32.

use super::{
    PANEL, Tile,
    pack::{Block, Codes, WIDE},
};
use std::arch::x86_64::*;

/// The proof that this processor has AVX-512 F and VNNI.
#[derive(Debug, Clone, Copy)]
pub struct Vnni(());

impl Vnni {
    pub fn new() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni");
        has.then_some(Self(()))
    }

    /// Outputs of a panel for `R` tokens.
    pub fn tile<const R: usize>(self, panel: &[Block], rows: [&[Codes]; R]) -> Tile<R> {
        // SAFETY: `new` is the only way to a value of this type, and it found the features.
        unsafe { tile(panel, rows) }
    }
}

#[target_feature(enable = "avx512f,avx512vnni")]
fn tile<const R: usize>(panel: &[Block], rows: [&[Codes]; R]) -> Tile<R> {
    let mut sums = [[_mm512_setzero_ps(); PANEL / WIDE]; R];
    for (g, block) in panel.iter().enumerate() {
        let x: [&Codes; R] = rows.map(|row| &row[g]);
        let dots = dots(block, x);
        let scales = [load_f32(&block.scales[0]), load_f32(&block.scales[1])];
        for r in 0..R {
            let scale = _mm512_set1_ps(x[r].scale);
            for h in 0..PANEL / WIDE {
                let dot = _mm512_cvtepi32_ps(dots[r][h]);
                sums[r][h] = _mm512_fmadd_ps(dot, _mm512_mul_ps(scales[h], scale), sums[r][h]);
            }
        }
    }
    let mut tile = [[0.0; PANEL]; R];
    for (tile, sums) in tile.iter_mut().zip(sums) {
        for (to, sum) in tile.as_chunks_mut::<WIDE>().0.iter_mut().zip(sums) {
            // SAFETY: `to` is sixteen f32, which the unaligned store writes.
            unsafe { _mm512_storeu_ps(to.as_mut_ptr(), sum) };
        }
    }
    tile
}

/// Sums of products of one group.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn dots<const R: usize>(block: &Block, x: [&Codes; R]) -> [[__m512i; PANEL / WIDE]; R] {
    let mut dots = [[load(&block.starts[0]), load(&block.starts[1])]; R];
    for (q, w) in block.codes.iter().enumerate() {
        let w = [load(&w[0]), load(&w[1])];
        for r in 0..R {
            let x = _mm512_set1_epi32(i32::from_ne_bytes(x[r].codes[q]));
            for h in 0..PANEL / WIDE {
                dots[r][h] = _mm512_dpbusd_epi32(dots[r][h], x, w[h]);
            }
        }
    }
    dots
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load<T>(values: &[T; WIDE]) -> __m512i {
    const { assert!(size_of::<T>() == 4) };
    // SAFETY: sixteen values of four bytes are the 64 bytes that the unaligned load reads.
    unsafe { _mm512_loadu_si512(values.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_f32(values: &[f32; WIDE]) -> __m512 {
    _mm512_castsi512_ps(load(values))
}

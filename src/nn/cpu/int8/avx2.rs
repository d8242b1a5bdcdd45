//! The tile with AVX2: bytes widened to i16, whose products `vpmaddwd` sums in pairs to i32.
//!
//! `vpmaddubsw` would take the bytes as they are, but two products of a byte with the sign and one without overflow its
//! i16; taking the sign from one factor to the other costs more than the widening, which several tokens share.

use super::{
    GROUP, PANEL, Tile,
    pack::{Block, Codes, OFFSET, QUAD, WIDE},
};
use std::arch::x86_64::*;

/// Outputs that are summed at a time.
const STRIP: usize = 8;

/// Outputs of a vector of weights, four i16 of each.
const HALF: usize = 4;

/// A group's activations without the offset, four to a number as they are multiplied.
type Wide = [i64; GROUP / QUAD];

/// The proof that this processor has AVX2 and FMA.
#[derive(Debug, Clone, Copy)]
pub struct Avx2(());

impl Avx2 {
    pub fn new() -> Option<Self> {
        let has = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        has.then_some(Self(()))
    }

    /// Outputs of a panel for `R` tokens.
    pub fn tile<const R: usize>(self, panel: &[Block], rows: [&[Codes]; R]) -> Tile<R> {
        // SAFETY: `new` is the only way to a value of this type, and it found the features.
        unsafe { tile(panel, rows) }
    }
}

#[target_feature(enable = "avx2,fma")]
fn tile<const R: usize>(panel: &[Block], rows: [&[Codes]; R]) -> Tile<R> {
    let mut strips = [[_mm256_setzero_ps(); R]; PANEL / STRIP];
    for (g, block) in panel.iter().enumerate() {
        let mut x = [[0; GROUP / QUAD]; R];
        for r in 0..R {
            x[r] = widened(&rows[r][g]);
        }
        for (s, sums) in strips.iter_mut().enumerate() {
            let (first, lane) = (s * STRIP / WIDE, s * STRIP % WIDE);
            let scales = load_f32(&block.scales[first], lane);
            let dots = dots(block, &x, (first, lane));
            for r in 0..R {
                let scale = _mm256_mul_ps(scales, _mm256_set1_ps(rows[r][g].scale));
                sums[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[r]), scale, sums[r]);
            }
        }
    }
    let mut tile = [[0.0; PANEL]; R];
    for (s, sums) in strips.iter().enumerate() {
        for (tile, sum) in tile.iter_mut().zip(sums) {
            let to = &mut tile[s * STRIP..][..STRIP];
            // SAFETY: `to` is eight f32, which the unaligned store writes.
            unsafe { _mm256_storeu_ps(to.as_mut_ptr(), *sum) };
        }
    }
    tile
}

/// Sums of products of one group, for [`STRIP`] outputs from one of vector `first` on.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn dots<const R: usize>(block: &Block, x: &[Wide; R], (first, lane): (usize, usize)) -> [__m256i; R] {
    // Each output's sum, in two parts.
    let mut halves = [[_mm256_setzero_si256(); 2]; R];
    for (q, w) in block.codes.iter().enumerate() {
        let w = [load_wide(&w[first], lane), load_wide(&w[first], lane + HALF)];
        for r in 0..R {
            let x = _mm256_set1_epi64x(x[r][q]);
            for h in 0..2 {
                halves[r][h] = _mm256_add_epi32(halves[r][h], _mm256_madd_epi16(x, w[h]));
            }
        }
    }
    let mut dots = [_mm256_setzero_si256(); R];
    for (dot, [a, b]) in dots.iter_mut().zip(halves) {
        // Outputs 0 1 4 5 | 2 3 6 7, to their order.
        *dot = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_hadd_epi32(a, b));
    }
    dots
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn widened(x: &Codes) -> Wide {
    const { assert!((GROUP / QUAD).is_multiple_of(HALF)) };
    let mut wide = [0; GROUP / QUAD];
    for (wide, codes) in wide.as_chunks_mut::<HALF>().0.iter_mut().zip(x.codes.as_chunks::<HALF>().0) {
        // SAFETY: four times four bytes are the 16 bytes that the unaligned load reads.
        let codes = _mm256_cvtepu8_epi16(unsafe { _mm_loadu_si128(codes.as_ptr().cast()) });
        let codes = _mm256_sub_epi16(codes, _mm256_set1_epi16(i16::from(OFFSET)));
        // SAFETY: four i64 are the 32 bytes that the unaligned store writes.
        unsafe { _mm256_storeu_si256(wide.as_mut_ptr().cast(), codes) };
    }
    wide
}

/// The codes of four outputs from `lane` on, as i16.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn load_wide(w: &[[i8; QUAD]; WIDE], lane: usize) -> __m256i {
    let bytes = w[lane..][..HALF].as_flattened();
    // SAFETY: four times four bytes are the 16 bytes that the unaligned load reads.
    _mm256_cvtepi8_epi16(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) })
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn load_f32(values: &[f32; WIDE], lane: usize) -> __m256 {
    let values = &values[lane..][..STRIP];
    // SAFETY: these are the eight f32 that the unaligned load reads.
    unsafe { _mm256_loadu_ps(values.as_ptr()) }
}

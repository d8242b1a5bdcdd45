//! Numbers to codes: symmetric, a scale for each group, and the order in which the kernels read them.

use super::{GROUP, PANEL};
use crate::nn::cpu::{GRAIN, vectorized};
use rayon::prelude::*;

/// Codes that one instruction multiplies and sums.
pub const QUAD: usize = 4;

/// Outputs of a 64-byte vector of weights: four codes of each.
pub const WIDE: usize = 16;

/// The largest code; -128 is not used, so that the codes are symmetric and fit the absolute values of the AVX2 kernel.
const LARGEST: f32 = 127.0;

/// What the codes of activations are raised by, to be unsigned as `vpdpbusd` wants them.
pub const OFFSET: u8 = 128;

/// One group of an activation's row: the number is `scale (code - OFFSET)`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Codes {
    pub scale: f32,
    pub codes: [[u8; QUAD]; GROUP / QUAD],
}

/// One group of a panel: the number of output o is `scale[o] code[o]`.
#[derive(Debug, Clone)]
#[repr(C, align(64))]
pub struct Block {
    /// -OFFSET times the sum of each output's codes, where a sum of products begins.
    pub starts: [[i32; WIDE]; PANEL / WIDE],
    pub scales: [[f32; WIDE]; PANEL / WIDE],
    /// Four codes of each output, then the next four.
    pub codes: [[[[i8; QUAD]; WIDE]; PANEL / WIDE]; GROUP / QUAD],
}

/// x (N, d_in) -> (N, groups), the last group of a row filled up with zeros.
pub fn activations(x: &[f32], d_in: usize) -> Vec<Codes> {
    let groups = d_in.div_ceil(GROUP);
    let mut out = vec![Codes { scale: 0.0, codes: [[0; QUAD]; GROUP / QUAD] }; x.len() / d_in * groups];
    let rows = (GRAIN / d_in).max(1);
    out.par_chunks_mut(rows * groups).zip(x.par_chunks(rows * d_in)).for_each(|(out, x)| {
        vectorized(
            #[inline(always)]
            || {
                for (out, x) in out.chunks_mut(groups).zip(x.chunks(d_in)) {
                    quantize_row(x, out);
                }
            },
        );
    });
    out
}

/// w (d_out, d_in) -> (panels, groups), filled up with zeros on both sides.
pub fn panels(w: &[f32], d_in: usize) -> Vec<Block> {
    let groups = d_in.div_ceil(GROUP);
    w.par_chunks(PANEL * d_in)
        .flat_map_iter(|rows| (0..groups).map(|group| block(rows, d_in, group)))
        .collect()
}

/// Group `group` of up to [`PANEL`] rows of a weight.
fn block(rows: &[f32], d_in: usize, group: usize) -> Block {
    let mut block = Block {
        starts: [[0; WIDE]; PANEL / WIDE],
        scales: [[0.0; WIDE]; PANEL / WIDE],
        codes: [[[[0; QUAD]; WIDE]; PANEL / WIDE]; GROUP / QUAD],
    };
    for (o, row) in rows.chunks(d_in).enumerate() {
        let (half, lane) = (o / WIDE, o % WIDE);
        let Codes { scale, codes } = quantize(&padded(&row[group * GROUP..]));
        block.scales[half][lane] = scale;
        for (to, from) in block.codes.iter_mut().zip(&codes) {
            to[half][lane] = from.map(|code| code.wrapping_sub(OFFSET) as i8);
        }
        let sum: i32 = block.codes.iter().flat_map(|quad| quad[half][lane]).map(i32::from).sum();
        block.starts[half][lane] = -i32::from(OFFSET) * sum;
    }
    block
}

#[inline(always)]
fn quantize_row(x: &[f32], out: &mut [Codes]) {
    let (whole, rest) = x.as_chunks::<GROUP>();
    for (out, x) in out.iter_mut().zip(whole) {
        *out = quantize(x);
    }
    if let (Some(out), false) = (out.last_mut(), rest.is_empty()) {
        *out = quantize(&padded(rest));
    }
}

/// The first [`GROUP`] numbers, or all and zeros.
fn padded(values: &[f32]) -> [f32; GROUP] {
    let mut group = [0.0; GROUP];
    group.iter_mut().zip(values).for_each(|(to, from)| *to = *from);
    group
}

/// Rounds to the nearest multiple of a 127th of the largest magnitude.
///
/// A group with a number that is not finite has the scale NaN. One whose numbers are all so small that the inverse of
/// the scale overflows (under 4e-37) counts as zeros.
#[inline(always)]
fn quantize(values: &[f32; GROUP]) -> Codes {
    // Bits of magnitudes are in the order of the magnitudes, with infinity and then NaN as the largest.
    let bits = values.iter().map(|v| v.to_bits() & (u32::MAX >> 1)).fold(0, u32::max);
    let largest = f32::from_bits(bits);
    let inverse = LARGEST / largest;
    let (scale, inverse) = match (largest.is_finite(), inverse.is_finite()) {
        (true, true) => (largest / LARGEST, inverse),
        (true, false) => (0.0, 0.0),
        (false, _) => (f32::NAN, 0.0),
    };
    // At 1.5 * 2^23 a step of f32 is one: the sum is rounded to an integer, which its low bits hold.
    let shift = 12_582_912.0 + f32::from(OFFSET);
    let mut codes = [[0; QUAD]; GROUP / QUAD];
    for (code, v) in codes.as_flattened_mut().iter_mut().zip(values) {
        *code = (v * inverse + shift).to_bits() as u8;
    }
    Codes { scale, codes }
}

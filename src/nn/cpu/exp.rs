//! e^x in arithmetic that a compiler can vectorise.

use std::f32::consts::LOG2_E;

/// ln 2 as a short number and its remainder (Cody and Waite, 1980): n * HIGH is exact for the n used here.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;
/// Adding this rounds a small number to an integer, which then stands in the low bits.
const ROUND: f32 = 12_582_912.0;

/// e^x to two units in the last place; 0 for x below -87 and 2^127 e^(rest) at most above 88.
///
/// x = n ln 2 + r with |r| <= ln 2 / 2; e^r by Cephes' polynomial of degree six (Moshier, 1992), 2^n by its bits.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let inside = x.clamp(-87.0, 88.0);
    let shifted = inside * LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (inside - n * LN2_HIGH) - n * LN2_LOW;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 5e-1;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1f32.to_bits()));
    let y = (p * r * r + r + 1.0) * power;
    if x < -87.0 { 0.0 } else { y }
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_library() {
        for i in -86_999..88_000 {
            let x = i as f32 * 1e-3;
            let want = f64::from(x).exp();
            assert!((f64::from(exp(x)) / want - 1.0).abs() < 3e-7, "e^{x}: {}", exp(x));
        }
        assert_eq!((exp(f32::NEG_INFINITY), exp(-1e9), exp(0.0)), (0.0, 0.0, 1.0));
        assert!(exp(1e9).is_finite() && exp(f32::NAN).is_nan());
    }
}

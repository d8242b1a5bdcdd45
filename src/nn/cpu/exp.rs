//! e^x, and what is made of it, in arithmetic that a compiler can vectorise.

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

/// tanh x: near zero by its series, else 1 - 2 / (1 + e^2x).
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let square = x * x;
    let series = x * (1.0 + square * (-1.0 / 3.0 + square * (2.0 / 15.0 - square * (17.0 / 315.0))));
    let far = 1.0 - 2.0 / (1.0 + exp(2.0 * x));
    if square < 0.04 { series } else { far }
}

/// The standard normal distribution function and its density, the first to 1e-7 (Abramowitz and Stegun, 1964, 7.1.26).
#[inline(always)]
pub fn normal(x: f32) -> (f32, f32) {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let p = 1.061_405_4;
    let p = p * t - 1.453_152;
    let p = p * t + 1.421_413_7;
    let p = p * t - 0.284_496_74;
    let p = p * t + 0.254_829_6;
    let density = exp(-z * z);
    let tail = 0.5 * p * t * density;
    (if x < 0.0 { tail } else { 1.0 - tail }, density * 0.398_942_3)
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

    #[test]
    fn curves_agree_with_their_definitions() {
        for i in -9_000..9_000 {
            let x = i as f32 * 1e-3;
            let wide = f64::from(x);
            assert!((f64::from(tanh(x)) - wide.tanh()).abs() < 2e-7, "tanh {x}: {}", tanh(x));
            // The density is the slope of the distribution.
            let (step, (below, density)) = (1e-2, normal(x));
            let slope = (normal(x + step).0 - normal(x - step).0) / (2.0 * step);
            assert!((slope - density).abs() < 5e-5, "{x}: {slope}, {density}");
            assert!((below + normal(-x).0 - 1.0).abs() < 2e-7);
        }
        // Phi(1) and Phi(-2.5), from tables.
        assert!((normal(1.0).0 - 0.841_344_7).abs() < 3e-7 && (normal(-2.5).0 - 0.006_209_665).abs() < 2e-7);
    }
}

//! Elementary functions written so that the compiler vectorises loops over them.

use super::level::fma;

/// e^x to about one unit in the last place. The result is 0 below the normal range, infinity above it, and NaN for NaN.
///
/// e^x = 2^n · e^r with n = round(x / ln 2) and |r| ≤ ln 2 / 2. n · ln 2 is subtracted in two parts (Cody and Waite). e^r is
/// the Taylor polynomial of degree 7, whose error is below 2^-27 in that range.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    const LOWEST: f32 = -87.336_54;
    const HIGHEST: f32 = 88.722_83;
    /// Adding it rounds to an integer, which is then in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;

    // Comparisons in this direction keep NaN.
    let within = if x < LOWEST { LOWEST } else { x };
    let within = if within > HIGHEST { HIGHEST } else { within };
    let shifted = fma::<FMA>(within, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = fma::<FMA>(n, -LN_2_HIGH, within);
    let r = fma::<FMA>(n, -LN_2_LOW, r);
    let mut sum = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        sum = fma::<FMA>(sum, r, coefficient);
    }
    // 2^n as a product of two factors, since f32 can't represent 2^128.
    let n = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let half = n >> 1;
    let power = |n: i32| f32::from_bits(((n + 127) as u32) << 23);
    let value = sum * power(half) * power(n.wrapping_sub(half));
    let value = if x < LOWEST { 0.0 } else { value };
    if x > HIGHEST { f32::INFINITY } else { value }
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub(crate) fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FMA>(-x))
}

/// tanh x with an absolute error of about 2e-7. The relative error near 0 is larger, so use it for values that are then added
/// to others.
#[inline(always)]
pub(crate) fn tanh<const FMA: bool>(x: f32) -> f32 {
    1.0 - 2.0 / (1.0 + exp::<FMA>(2.0 * x))
}

#[cfg(test)]
mod tests {
    use super::super::level::{Level, multiversion};

    multiversion! {
        fn exps(values: &[f32], out: &mut [f32]) {
            for (out, value) in out.iter_mut().zip(values) {
                *out = super::exp::<FMA>(*value);
            }
        }
    }

    #[test]
    fn exp_is_accurate_over_its_whole_range() {
        let values: Vec<f32> = (-870_000..=887_000).map(|i| i as f32 * 1e-4).chain([-0.0, 1e-30, -1e-30]).collect();
        let mut got = vec![0.0; values.len()];
        for level in Level::available() {
            exps(level, &values, &mut got);
            for (x, got) in values.iter().zip(&got) {
                let want = f64::from(*x).exp();
                let error = (f64::from(*got) - want).abs() / want;
                assert!(error < 1.3e-7, "{level:?}: exp({x}) = {got}, off by {error:e}");
            }
        }
    }

    #[test]
    fn exp_of_infinities_nan_zero_and_out_of_range_arguments() {
        for level in Level::available() {
            let mut got = [0.0; 6];
            exps(level, &[f32::NEG_INFINITY, -200.0, 89.0, f32::INFINITY, f32::NAN, 0.0], &mut got);
            assert_eq!(got[..4], [0.0, 0.0, f32::INFINITY, f32::INFINITY]);
            assert!(got[4].is_nan());
            assert_eq!(got[5], 1.0);
        }
    }
}

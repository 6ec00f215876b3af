//! Scales: rounding to f16, and the power of two that brings values near one.

use super::lanes::{LANES, Lanes};
use crate::{f16_from_f32, f16_to_f32};

/// The largest finite f16. Numbers from [`OVERFLOW`] on would round to infinity.
const LARGEST: f32 = 65504.0;
const OVERFLOW: f32 = 65520.0;

/// The bytes of the nearest finite f16, and `scale` limited to the range of f16, but not rounded.
#[inline(always)]
pub(super) fn f16_scale(scale: f32) -> ([u8; 2], f32) {
    let scale = if scale.abs() < OVERFLOW { scale } else { LARGEST.copysign(scale) };
    (f16_from_f32(scale).to_le_bytes(), scale)
}

/// The f16 nearest to a scale, and its value. The magnitude is at least that of the smallest positive f16, because a scale that
/// rounds to zero would lose all values of the block, and at most that of the largest. Zero stays zero.
pub(super) fn nonzero_f16(scale: f32) -> (u16, f32) {
    let magnitude = scale.abs().clamp(f16_to_f32(1), LARGEST);
    let bits = if scale == 0.0 { 0 } else { f16_from_f32(magnitude.copysign(scale)) };
    (bits, f16_to_f32(bits))
}

/// A power of two which brings the largest magnitude to 1 … 4, so that no product or sum overflows. Zero if all values are
/// nearer to zero than to the smallest f16, so that no format has a better code for them than zero.
pub(super) fn factor(values: &[f32]) -> f32 {
    let (vectors, _) = values.as_chunks::<LANES>();
    let largest = vectors.iter().fold(Lanes::ZERO, |largest, vector| largest.at_least(Lanes(*vector).magnitude()));
    let exponent = (largest.largest().to_bits() >> 23) as i32 - 127;
    if exponent < -25 {
        return 0.0;
    }
    // 2^-exponent. From 2^127 on, it would be subnormal.
    f32::from_bits(((127 - exponent.min(126)) as u32) << 23)
}

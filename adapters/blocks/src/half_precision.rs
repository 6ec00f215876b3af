//! Conversions between `f32` and IEEE binary16 or bfloat16, written so that the compiler vectorises loops over them.

/// Converts a binary16 number. Exact; NaN payloads are kept.
#[inline]
#[must_use]
pub const fn f16_to_f32(bits: u16) -> f32 {
    let sign = (bits as u32 & 0x8000) << 16;
    let magnitude = (bits as u32 & 0x7fff) << 13;
    // The exponent's bias differs by 112. A subnormal becomes a normal number whose exponent is one larger; then the
    // implicit leading one is subtracted.
    let finite = if magnitude < 0x0080_0000 {
        (f32::from_bits(magnitude + (113 << 23)) - f32::from_bits(113 << 23)).to_bits()
    } else {
        magnitude + (112 << 23)
    };
    let special = if magnitude >= 0x0f80_0000 { 0x7f80_0000 } else { 0 };
    f32::from_bits(sign | finite | special)
}

/// Converts a bfloat16 number. Exact.
#[inline]
#[must_use]
pub const fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits((bits as u32) << 16)
}

/// Rounds to the nearest bfloat16, ties to even. NaN stays NaN.
#[inline]
#[must_use]
pub const fn bf16_from_f32(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return (bits >> 16) as u16 | 0x0040;
    }
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

/// Rounds to the nearest binary16, ties to even. Larger numbers become infinity; NaN stays NaN.
#[inline]
#[must_use]
pub const fn f16_from_f32(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = ((bits >> 16) & 0x8000) as u16;
    let magnitude = bits & 0x7fff_ffff;
    if magnitude > 0x7f80_0000 {
        return sign | 0x7e00;
    }
    if magnitude >= 0x4780_0000 {
        return sign | 0x7c00;
    }
    if magnitude < 0x3880_0000 {
        // After adding 0.5, the unit in the last place is 2^-24, that of binary16's subnormals.
        let sum = (f32::from_bits(magnitude) + 0.5).to_bits();
        return sign | (sum - 0x3f00_0000) as u16;
    }
    let rounded = magnitude + 0x0fff + ((magnitude >> 13) & 1) - (112 << 23);
    sign | (rounded >> 13) as u16
}

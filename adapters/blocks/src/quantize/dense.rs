//! Rounding to the dense formats: once, to the nearest number, ties to even.

use crate::{Format, bf16_from_f32, f16_from_f32};

pub(super) fn append(format: Format, values: &[f32], out: &mut Vec<u8>) {
    match format {
        Format::F16 => each(values, out, |value| f16_from_f32(value).to_le_bytes()),
        Format::Bf16 => each(values, out, |value| bf16_from_f32(value).to_le_bytes()),
        _ => each(values, out, f32::to_le_bytes),
    }
}

#[inline(always)]
fn each<const BYTES: usize>(values: &[f32], out: &mut Vec<u8>, bytes: impl Fn(f32) -> [u8; BYTES]) {
    let start = out.len();
    out.resize(start + BYTES * values.len(), 0);
    let (numbers, _) = out[start..].as_chunks_mut::<BYTES>();
    for (number, value) in numbers.iter_mut().zip(values) {
        *number = bytes(*value);
    }
}

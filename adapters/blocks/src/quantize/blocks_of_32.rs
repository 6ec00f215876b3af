//! The formats with blocks of 32 values, without importance: bytes equal to those of ggml.
//!
//! Responsible for: the arithmetic of ggml's reference quantizers, operation by operation. Source: ggml's `ggml-quants.c`
//! (`quantize_row_*_ref`) and `quants.py` of its Python package `gguf`. Where ggml writes an infinite scale, ours is the
//! largest finite one.

use super::lanes::{Lanes, ROUNDER};
use super::scale::f16_scale;
use crate::Format;

const LEN: usize = 32;

pub(super) fn append(format: Format, values: &[f32], out: &mut Vec<u8>) {
    match format {
        Format::Q8_0 => each(values, out, q8_0),
        Format::Q4_0 => each(values, out, q4_0),
        Format::Q4_1 => each(values, out, q4_1),
        Format::Q5_0 => each(values, out, q5_0),
        Format::Q5_1 => each(values, out, q5_1),
        _ => unreachable!("{format} has no blocks of 32"),
    }
}

#[inline(always)]
fn each<const BYTES: usize>(values: &[f32], out: &mut Vec<u8>, encode: impl Fn(&[f32; LEN], &mut [u8; BYTES])) {
    let start = out.len();
    let (blocks, _) = values.as_chunks::<LEN>();
    out.resize(start + BYTES * blocks.len(), 0);
    let (bytes, _) = out[start..].as_chunks_mut::<BYTES>();
    for (bytes, block) in bytes.iter_mut().zip(blocks) {
        encode(block, bytes);
    }
}

#[inline(always)]
fn q8_0(values: &[f32; LEN], out: &mut [u8; 34]) {
    let (low, high) = range(values);
    let (bits, d) = f16_scale(high.max(-low) / 127.0);
    let inverse = inverse(d);
    out[..2].copy_from_slice(&bits);
    for (code, value) in out[2..].iter_mut().zip(values) {
        let exact = limit(value * inverse, -127.0, 127.0);
        let even = (exact + ROUNDER) - ROUNDER;
        // ggml rounds ties away from zero.
        let up = if exact - even == 0.5 && exact > 0.0 { 1.0 } else { 0.0 };
        let down = if exact - even == -0.5 && exact < 0.0 { 1.0 } else { 0.0 };
        *code = low_byte(even + up - down);
    }
}

#[inline(always)]
fn q4_0(values: &[f32; LEN], out: &mut [u8; 18]) {
    let (bits, codes) = symmetric(values, 8.0);
    out[..2].copy_from_slice(&bits);
    pack_nibbles(&codes, &mut out[2..]);
}

#[inline(always)]
fn q5_0(values: &[f32; LEN], out: &mut [u8; 22]) {
    let (bits, codes) = symmetric(values, 16.0);
    out[..2].copy_from_slice(&bits);
    out[2..6].copy_from_slice(&fifth_bits(&codes));
    pack_nibbles(&codes, &mut out[6..]);
}

#[inline(always)]
fn q4_1(values: &[f32; LEN], out: &mut [u8; 20]) {
    let (bits, min_bits, codes) = affine(values, 15.0);
    out[..2].copy_from_slice(&bits);
    out[2..4].copy_from_slice(&min_bits);
    pack_nibbles(&codes, &mut out[4..]);
}

#[inline(always)]
fn q5_1(values: &[f32; LEN], out: &mut [u8; 24]) {
    let (bits, min_bits, codes) = affine(values, 31.0);
    out[..2].copy_from_slice(&bits);
    out[2..4].copy_from_slice(&min_bits);
    out[4..8].copy_from_slice(&fifth_bits(&codes));
    pack_nibbles(&codes, &mut out[8..]);
}

/// Scale and codes, offset by `half`. The value of largest magnitude has code 0, and so decides the sign of the scale.
#[inline(always)]
fn symmetric(values: &[f32; LEN], half: f32) -> ([u8; 2], [u8; LEN]) {
    let (low, high) = range(values);
    let extreme = if high > -low {
        high
    } else if high < -low {
        low
    } else {
        // The first of both signs; plus zero if all are zero.
        values.iter().copied().find(|value| value.abs() == high && *value != 0.0).unwrap_or(0.0)
    };
    let (bits, d) = f16_scale(extreme / -half);
    let inverse = inverse(d);
    (bits, values.map(|value| floor_code(value * inverse + (half + 0.5), 2.0 * half - 1.0)))
}

/// Scale, minimum and codes of 0 … `max`.
#[inline(always)]
fn affine(values: &[f32; LEN], max: f32) -> ([u8; 2], [u8; 2], [u8; LEN]) {
    let (low, high) = range(values);
    let (bits, d) = f16_scale((high - low) / max);
    let (min_bits, low) = f16_scale(low);
    let inverse = inverse(d);
    (bits, min_bits, values.map(|value| floor_code((value - low) * inverse + 0.5, max)))
}

/// The smallest and the largest value.
#[inline(always)]
fn range(values: &[f32; LEN]) -> (f32, f32) {
    let (vectors, _) = values.as_chunks::<8>();
    let (mut low, mut high) = (Lanes(vectors[0]), Lanes(vectors[0]));
    for vector in &vectors[1..] {
        low = low.at_most(Lanes(*vector));
        high = high.at_least(Lanes(*vector));
    }
    (low.smallest(), high.largest())
}

/// 0 for zero, and for numbers so small that the reciprocal is infinite. Their f16 scale is zero.
#[inline(always)]
fn inverse(d: f32) -> f32 {
    let inverse = 1.0 / d;
    if inverse.is_finite() { inverse } else { 0.0 }
}

#[inline(always)]
fn limit(value: f32, low: f32, high: f32) -> f32 {
    let value = if value > low { value } else { low };
    if value < high { value } else { high }
}

/// The largest integer up to `value`, within 0 … `max`.
#[inline(always)]
fn floor_code(value: f32, max: f32) -> u8 {
    let value = limit(value, 0.0, max);
    let nearest = (value + ROUNDER) - ROUNDER;
    low_byte(if nearest > value { nearest - 1.0 } else { nearest })
}

/// The low byte of an integer below 2^22.
#[inline(always)]
fn low_byte(integer: f32) -> u8 {
    (integer + ROUNDER).to_bits() as u8
}

/// Elements 0 … 15 in the low nibbles, 16 … 31 in the high nibbles.
#[inline(always)]
pub(super) fn pack_nibbles(codes: &[u8; LEN], out: &mut [u8]) {
    let (low, high) = codes.split_at(LEN / 2);
    for ((byte, low), high) in out.iter_mut().zip(low).zip(high) {
        *byte = low & 15 | high << 4;
    }
}

/// Bit 4 of code `i` in bit `i`.
#[inline(always)]
pub(super) fn fifth_bits(codes: &[u8; LEN]) -> [u8; 4] {
    codes.iter().enumerate().fold(0u32, |bits, (i, code)| bits | u32::from(code >> 4 & 1) << i).to_le_bytes()
}

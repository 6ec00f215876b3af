//! Dequantization of the dense formats and of ggml's block formats.
//!
//! Sources: ggml's `ggml-common.h` for the layouts; `quants.py` of its Python package `gguf` for the order of operations.

use crate::Format;
use crate::half_precision::{bf16_to_f32, f16_to_f32};

/// Dequantizes values from `start` on. The caller has checked the lengths.
pub(crate) fn dequantize(format: Format, bytes: &[u8], start: usize, out: &mut [f32]) {
    match format {
        Format::F32 => each(bytes, start, out, |number: &[u8; 4]| f32::from_le_bytes(*number)),
        Format::F16 => each(bytes, start, out, |number: &[u8; 2]| f16_to_f32(u16::from_le_bytes(*number))),
        Format::Bf16 => each(bytes, start, out, |number: &[u8; 2]| bf16_to_f32(u16::from_le_bytes(*number))),
        Format::Q8_0 => each_block(bytes, start, out, q8_0),
        Format::Q4_0 => each_block(bytes, start, out, q4_0),
        Format::Q4_1 => each_block(bytes, start, out, q4_1),
        Format::Q5_0 => each_block(bytes, start, out, q5_0),
        Format::Q5_1 => each_block(bytes, start, out, q5_1),
        Format::Q4K => each_block(bytes, start, out, q4_k),
        Format::Q5K => each_block(bytes, start, out, q5_k),
        Format::Q6K => each_block(bytes, start, out, q6_k),
        Format::Nf4 => unreachable!("NF4 has sections, not blocks"),
    }
}

#[inline(always)]
fn each<const BYTES: usize>(bytes: &[u8], start: usize, out: &mut [f32], value: impl Fn(&[u8; BYTES]) -> f32) {
    let (numbers, _) = bytes.as_chunks::<BYTES>();
    for (out, number) in out.iter_mut().zip(&numbers[start..]) {
        *out = value(number);
    }
}

/// Decodes whole blocks directly to the output. Blocks that are partly in the range are decoded to a buffer.
#[inline(always)]
fn each_block<const BYTES: usize, const LEN: usize>(
    bytes: &[u8],
    start: usize,
    out: &mut [f32],
    decode: impl Fn(&[u8; BYTES], &mut [f32; LEN]),
) {
    let (blocks, _) = bytes.as_chunks::<BYTES>();
    let partial = |block: usize, skip: usize, out: &mut [f32]| {
        let mut values = [0.0; LEN];
        decode(&blocks[block], &mut values);
        out.copy_from_slice(&values[skip..skip + out.len()]);
    };
    let skip = start % LEN;
    let head = if skip == 0 { 0 } else { (LEN - skip).min(out.len()) };
    let (first, rest) = out.split_at_mut(head);
    if !first.is_empty() {
        partial(start / LEN, skip, first);
    }
    let next = start.div_ceil(LEN);
    let (whole, last) = rest.as_chunks_mut::<LEN>();
    for (values, block) in whole.iter_mut().zip(blocks.iter().skip(next)) {
        decode(block, values);
    }
    if !last.is_empty() {
        partial(next + whole.len(), 0, last);
    }
}

#[inline(always)]
fn f16_at(block: &[u8], at: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// f16 d, 32 i8.
#[inline(always)]
fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = f16_at(block, 0);
    for (out, code) in out.iter_mut().zip(&block[2..]) {
        *out = f32::from(*code as i8) * d;
    }
}

/// f16 d, 16 bytes: elements 0 … 15 in the low nibbles, 16 … 31 in the high nibbles.
#[inline(always)]
fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = f16_at(block, 0);
    let (low, high) = out.split_at_mut(16);
    for ((low, high), byte) in low.iter_mut().zip(high).zip(&block[2..]) {
        *low = f32::from((byte & 15) as i8 - 8) * d;
        *high = f32::from((byte >> 4) as i8 - 8) * d;
    }
}

/// f16 d, f16 m, 16 bytes as in Q4_0.
#[inline(always)]
fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (f16_at(block, 0), f16_at(block, 2));
    let (low, high) = out.split_at_mut(16);
    for ((low, high), byte) in low.iter_mut().zip(high).zip(&block[4..]) {
        *low = f32::from(byte & 15) * d + m;
        *high = f32::from(byte >> 4) * d + m;
    }
}

/// The five-bit codes of Q5_0 and Q5_1: low four bits as in Q4_0, the fifth bit of element `i` in bit `i` of `fifth`.
#[inline(always)]
fn five_bit_codes(fifth: [u8; 4], codes: &[u8]) -> [u8; 32] {
    let fifth = u32::from_le_bytes(fifth);
    std::array::from_fn(|i| {
        let low = codes[i % 16] >> (4 * (i / 16)) & 15;
        low | ((fifth >> i & 1) as u8) << 4
    })
}

/// f16 d, 4 bytes of fifth bits, 16 bytes as in Q4_0.
#[inline(always)]
fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let d = f16_at(block, 0);
    let codes = five_bit_codes([block[2], block[3], block[4], block[5]], &block[6..]);
    for (out, code) in out.iter_mut().zip(codes) {
        *out = f32::from(code as i8 - 16) * d;
    }
}

/// f16 d, f16 m, 4 bytes of fifth bits, 16 bytes as in Q4_0.
#[inline(always)]
fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (f16_at(block, 0), f16_at(block, 2));
    let codes = five_bit_codes([block[4], block[5], block[6], block[7]], &block[8..]);
    for (out, code) in out.iter_mut().zip(codes) {
        *out = f32::from(code) * d + m;
    }
}

/// The six-bit scale and minimum of sub-block `j`, from the twelve bytes in which Q4_K and Q5_K store eight of each.
#[inline(always)]
fn scale_and_min(packed: &[u8], j: usize) -> (f32, f32) {
    let (scale, min) = if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        (packed[j + 4] & 15 | (packed[j - 4] >> 6) << 4, packed[j + 4] >> 4 | (packed[j] >> 6) << 4)
    };
    (f32::from(scale), f32::from(min))
}

/// f16 d, f16 dmin, 12 bytes of scales and minima, 128 bytes of codes. Each 32 bytes hold one sub-block in the low nibbles and
/// the next in the high nibbles.
#[inline(always)]
fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (d, dmin, packed, codes) = (f16_at(block, 0), f16_at(block, 2), &block[4..16], &block[16..]);
    for (pair, (out, codes)) in out.chunks_exact_mut(64).zip(codes.chunks_exact(32)).enumerate() {
        let (low, high) = out.split_at_mut(32);
        for (half, out) in [low, high].into_iter().enumerate() {
            let (scale, min) = scale_and_min(packed, 2 * pair + half);
            let (d, m) = (d * scale, dmin * min);
            for (out, byte) in out.iter_mut().zip(codes) {
                *out = d * f32::from(byte >> (4 * half) & 15) - m;
            }
        }
    }
}

/// As Q4_K. The fifth bits of sub-block `j` are bit `j` of the 32 bytes before the codes.
#[inline(always)]
fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (d, dmin, packed) = (f16_at(block, 0), f16_at(block, 2), &block[4..16]);
    let (fifth, codes) = (&block[16..48], &block[48..]);
    for (pair, (out, codes)) in out.chunks_exact_mut(64).zip(codes.chunks_exact(32)).enumerate() {
        let (low, high) = out.split_at_mut(32);
        for (half, out) in [low, high].into_iter().enumerate() {
            let j = 2 * pair + half;
            let (scale, min) = scale_and_min(packed, j);
            let (d, m) = (d * scale, dmin * min);
            for ((out, byte), bits) in out.iter_mut().zip(codes).zip(fifth) {
                *out = d * f32::from(byte >> (4 * half) & 15 | (bits >> j & 1) << 4) - m;
            }
        }
    }
}

/// 128 bytes of low four bits, 64 bytes of high two bits, 16 signed scales, f16 d. Each half of the block has 64 and 32 of
/// these bytes: elements from 32 k on are in nibble k / 2 of the bytes from 32 (k % 2) on, and in bit pair k.
#[inline(always)]
fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let d = f16_at(block, 208);
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let halves =
        out.chunks_exact_mut(128).zip(low.chunks_exact(64)).zip(high.chunks_exact(32)).zip(scales.chunks_exact(8));
    for (((out, low), high), scales) in halves {
        for (k, out) in out.chunks_exact_mut(32).enumerate() {
            let low = &low[32 * (k % 2)..][..32];
            for (i, ((out, low), high)) in out.iter_mut().zip(low).zip(high).enumerate() {
                let code = (low >> (4 * (k / 2)) & 15 | (high >> (2 * k) & 3) << 4) as i8 - 32;
                *out = d * f32::from(scales[2 * k + i / 16] as i8) * f32::from(code);
            }
        }
    }
}

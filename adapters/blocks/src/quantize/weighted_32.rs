//! The formats with blocks of 32 values, with importance.
//!
//! Responsible for: weighted least squares ([`search`]) for eight blocks at a time. Q8_0 has no such search: its error is
//! decided by the largest value alone.

use super::blocks_of_32::{fifth_bits, pack_nibbles};
use super::lanes::{LANES, Lanes};
use super::scale::{f16_scale, factor};
use super::search::{self, Affine, Group};
use crate::{Format, f16_to_f32};

const LEN: usize = 32;

/// The blocks of one row.
pub(super) fn append(format: Format, row: &[f32], weights: &[f32], out: &mut Vec<u8>) {
    for (values, weights) in row.chunks(LANES * LEN).zip(weights.chunks(LANES * LEN)) {
        let count = values.len() / LEN;
        let (mut all, mut all_weights) = ([0.0; LANES * LEN], [1.0; LANES * LEN]);
        all[..values.len()].copy_from_slice(values);
        all_weights[..values.len()].copy_from_slice(weights);
        let factors = Lanes(std::array::from_fn(|lane| factor(&all[lane * LEN..][..LEN])));
        let group = Group::<LEN>::new(&all, &all_weights, factors);
        match format {
            Format::Q4_0 => symmetric::<8>(group, factors, count, out),
            Format::Q5_0 => symmetric::<16>(group, factors, count, out),
            Format::Q4_1 => affine::<15>(group, factors, count, out),
            Format::Q5_1 => affine::<31>(group, factors, count, out),
            _ => unreachable!("{format} has no search"),
        }
    }
}

fn symmetric<const HALF: u8>(group: Group<LEN>, factors: Lanes, count: usize, out: &mut Vec<u8>) {
    let half = f32::from(HALF);
    let (bits, scale) = rounded(search::symmetric(&group, half), factors);
    let inverse = Lanes::splat(1.0).over_signed(scale);
    let codes = group.codes(inverse, Lanes::ZERO, -half, half - 1.0);
    for (bits, codes) in bits.iter().zip(&codes).take(count) {
        out.extend_from_slice(bits);
        append_codes(codes, HALF == 16, out);
    }
}

fn affine<const MAX: u8>(mut group: Group<LEN>, factors: Lanes, count: usize, out: &mut Vec<u8>) {
    let max = f32::from(MAX);
    let mean = group.center();
    // Lower than any minimum: these formats have minima of either sign.
    let floor = Lanes::splat(-1e9);
    let Affine { scale, min } = search::affine(&group, floor, max);
    let (bits, scale) = rounded(scale, factors);
    let (min_bits, low) = rounded(mean - min, factors);
    let inverse = Lanes::splat(1.0).over(scale);
    let codes = group.codes(inverse, (mean - low) * inverse, 0.0, max);
    for ((bits, min_bits), codes) in bits.iter().zip(&min_bits).zip(&codes).take(count) {
        out.extend_from_slice(bits);
        out.extend_from_slice(min_bits);
        append_codes(codes, MAX == 31, out);
    }
}

/// f16 numbers, and their values times the factors.
fn rounded(numbers: Lanes, factors: Lanes) -> ([[u8; 2]; LANES], Lanes) {
    let bits = std::array::from_fn(|i| f16_scale(if factors.0[i] > 0.0 { numbers.0[i] / factors.0[i] } else { 0.0 }).0);
    (bits, Lanes(bits.map(|bits| f16_to_f32(u16::from_le_bytes(bits)))) * factors)
}

fn append_codes(codes: &[u8; LEN], five_bits: bool, out: &mut Vec<u8>) {
    if five_bits {
        out.extend_from_slice(&fifth_bits(codes));
    }
    let mut nibbles = [0; LEN / 2];
    pack_nibbles(codes, &mut nibbles);
    out.extend_from_slice(&nibbles);
}

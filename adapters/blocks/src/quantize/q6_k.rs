//! Q6_K: blocks of sixteen sub-blocks with signed eight-bit scales.
//!
//! Responsible for: the scales that a block stores, and its layout (ggml's `ggml-common.h`). The steps are those of Q4_K
//! (`k_quants.rs`), without minima.

use super::lanes::{LANES, Lanes};
use super::scale::{factor, nonzero_f16};
use super::search::{self, Group, Sums};

/// Values per block.
pub(super) const LEN: usize = 256;
/// Values per sub-block.
const SUB: usize = 16;
/// Half the number of codes.
const HALF: f32 = 32.0;
/// Integer scales are at least this, and less than its negative.
const LEAST: f32 = -128.0;

pub(super) fn q6_k(values: &[f32; LEN], weights: &[f32; LEN], out: &mut [u8; 210]) {
    let factor = factor(values);
    if factor == 0.0 {
        return;
    }
    let halves = [0, LEN / 2]
        .map(|at| Group::<SUB>::new(&values[at..][..LEN / 2], &weights[at..][..LEN / 2], Lanes::splat(factor)));
    let rounded = |d: f32| {
        let (bits, d) = nonzero_f16(d / factor);
        (bits, d * factor)
    };
    let optima = halves.each_ref().map(|group| search::symmetric(group, HALF));
    // The scale of largest magnitude has the integer that exists with one sign only.
    let (low, high) = (optima[0].at_most(optima[1]).smallest(), optima[0].at_least(optima[1]).largest());
    let (mut bits, mut d) = rounded(if high > -low { high } else { low } / LEAST);
    let mut best = choose(&halves, optima, d);
    let (fitted_bits, fitted_d) = rounded(fitted_unit(&best));
    let choice = choose(&halves, best.each_ref().map(|half| half.scales * Lanes::splat(d)), fitted_d);
    if choice[0].error + choice[1].error < best[0].error + best[1].error {
        (best, bits, d) = (choice, fitted_bits, fitted_d);
    }
    let (low, rest) = out.split_at_mut(128);
    let (high, rest) = rest.split_at_mut(64);
    let (scales, unit) = rest.split_at_mut(16);
    unit.copy_from_slice(&bits.to_le_bytes());
    for (half, (group, choice)) in halves.iter().zip(&best).enumerate() {
        for (to, scale) in scales[half * LANES..].iter_mut().zip(choice.scales.0) {
            *to = scale as i8 as u8;
        }
        let inverse = Lanes::splat(1.0).over_signed(choice.scales * Lanes::splat(d));
        let codes = group.codes(inverse, Lanes::ZERO, -HALF, HALF - 1.0);
        pack_codes(codes.as_flattened(), &mut low[64 * half..][..64], &mut high[32 * half..][..32]);
    }
}

/// The integers of eight sub-blocks.
struct Choice {
    scales: Lanes,
    sums: Sums,
    error: f32,
}

/// The best of three integers around each scale, in units of `d`.
#[inline(always)]
fn choose(halves: &[Group<SUB>; 2], near: [Lanes; 2], d: f32) -> [Choice; 2] {
    let unit = Lanes::splat(d);
    std::array::from_fn(|half| {
        let center = near[half].over_signed(unit).between(LEAST, -LEAST - 1.0).rounded();
        let (mut scales, mut kept, mut least) = (Lanes::ZERO, Sums::ZERO, Lanes::splat(f32::MAX));
        for step in [0.0, -1.0, 1.0] {
            let integer = (center + Lanes::splat(step)).between(LEAST, -LEAST - 1.0);
            let scale = integer * unit;
            let sums = halves[half].sums(Lanes::splat(1.0).over_signed(scale), Lanes::ZERO, -HALF, HALF - 1.0);
            let error = sums.symmetric_error(scale);
            scales = integer.where_less(error, least, scales);
            kept = sums.where_less(error, least, kept);
            least = error.at_most(least);
        }
        Choice { scales, sums: kept, error: least.sum() }
    })
}

/// `d` of least error for the integers and codes.
fn fitted_unit(choices: &[Choice; 2]) -> f32 {
    let products: f32 = choices.iter().map(|half| (half.scales * half.sums.products).sum()).sum();
    let squares: f32 = choices.iter().map(|half| (half.scales * half.scales * half.sums.squares).sum()).sum();
    if squares > 0.0 { products / squares } else { 0.0 }
}

/// The codes of half a block. The codes from 32 k on are in nibble k / 2 of the bytes from 32 (k % 2) on, and in bit pair k.
#[inline(always)]
fn pack_codes(codes: &[u8], low: &mut [u8], high: &mut [u8]) {
    for i in 0..32 {
        let [a, b, c, d] = [codes[i], codes[i + 32], codes[i + 64], codes[i + 96]];
        low[i] = a & 15 | c << 4;
        low[i + 32] = b & 15 | d << 4;
        high[i] = a >> 4 | (b >> 4) << 2 | (c >> 4) << 4 | (d >> 4) << 6;
    }
}

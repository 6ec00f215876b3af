//! Q4_K and Q5_K: blocks of eight sub-blocks with six-bit scales and minima.
//!
//! Responsible for: the scales that a block stores, and its layout (ggml's `ggml-common.h`).
//! 1. [`search`] finds the best scale and minimum of each sub-block.
//! 2. The largest scale and minimum determine the f16 scales `d` and `dmin` of the block.
//! 3. Each sub-block takes the best pair of integers near its optimum. Its error is that of the stored numbers.
//! 4. `d` and `dmin` are fitted to these integers and the codes, and step 3 is repeated with them.

use super::lanes::{LANES, Lanes};
use super::scale::{factor, nonzero_f16};
use super::search::{self, Affine, Group, Sums};

/// Values per block.
pub(super) const LEN: usize = 256;
/// Values per sub-block.
const SUB: usize = 32;
/// The largest integer scale and minimum.
const LARGEST: f32 = 63.0;

/// The numbers that a block stores.
#[derive(Default)]
struct Block {
    d: u16,
    dmin: u16,
    scales: [u8; LANES],
    mins: [u8; LANES],
    codes: [[u8; SUB]; LANES],
}

pub(super) fn q4_k(values: &[f32; LEN], weights: &[f32; LEN], out: &mut [u8; 144]) {
    let block = block(values, weights, 15.0);
    out[..16].copy_from_slice(&header(&block));
    pack_low_nibbles(&block.codes, &mut out[16..]);
}

pub(super) fn q5_k(values: &[f32; LEN], weights: &[f32; LEN], out: &mut [u8; 176]) {
    let block = block(values, weights, 31.0);
    out[..16].copy_from_slice(&header(&block));
    for (j, codes) in block.codes.iter().enumerate() {
        for (bits, code) in out[16..48].iter_mut().zip(codes) {
            *bits |= (code >> 4) << j;
        }
    }
    pack_low_nibbles(&block.codes, &mut out[48..]);
}

/// Scales, integers and codes for codes of 0 … `max`.
#[inline(always)]
fn block(values: &[f32; LEN], weights: &[f32; LEN], max: f32) -> Block {
    let factor = factor(values);
    if factor == 0.0 {
        return Block::default();
    }
    let mut group = Group::<SUB>::new(values, weights, Lanes::splat(factor));
    let mean = group.center();
    let optimum = search::affine(&group, mean, max);
    let units = (optimum.scale.largest() / LARGEST, (optimum.min - mean).largest() / LARGEST);
    let mut best = Choice::new(&group, mean, max, optimum, Units::rounded(units, factor));
    let units = Units::rounded(best.fitted_units(mean, group.total_weight), factor);
    let choice = Choice::new(&group, mean, max, best.model(mean), units);
    if choice.error < best.error {
        best = choice;
    }
    let Affine { scale, min } = best.model(mean);
    let inverse = Lanes::splat(1.0).over(scale);
    Block {
        d: best.units.d_bits,
        dmin: best.units.dmin_bits,
        scales: best.scales.0.map(|scale| scale as u8),
        mins: best.mins.0.map(|min| min as u8),
        codes: group.codes(inverse, min * inverse, 0.0, max),
    }
}

/// The f16 scales of a block, and their values times the block's factor.
#[derive(Clone, Copy)]
struct Units {
    d_bits: u16,
    dmin_bits: u16,
    d: f32,
    dmin: f32,
}

impl Units {
    fn rounded((d, dmin): (f32, f32), factor: f32) -> Self {
        // With a negative unit, the model would describe other values than the sums.
        let stored = |unit: f32| nonzero_f16(unit.max(0.0) / factor);
        let ((d_bits, d), (dmin_bits, dmin)) = (stored(d), stored(dmin));
        Self { d_bits, dmin_bits, d: d * factor, dmin: dmin * factor }
    }
}

/// The integers of the sub-blocks for given units.
struct Choice {
    units: Units,
    scales: Lanes,
    mins: Lanes,
    sums: Sums,
    error: f32,
}

impl Choice {
    /// The best of three scales around `near`, each with its best minimum. Sub-blocks are centered: a stored minimum of 0 is
    /// `mean` in the model.
    #[inline(always)]
    fn new(group: &Group<SUB>, mean: Lanes, max: f32, near: Affine, units: Units) -> Self {
        let integer = |number: Lanes, unit: f32| {
            let per_unit = if unit > 0.0 { 1.0 / unit } else { 0.0 };
            (number * Lanes::splat(per_unit)).between(0.0, LARGEST).rounded()
        };
        let min_of = |integer: Lanes| integer * Lanes::splat(units.dmin) + mean;
        let center = integer(near.scale, units.d);
        let mut best = Self { units, scales: Lanes::ZERO, mins: Lanes::ZERO, sums: Sums::ZERO, error: 0.0 };
        let mut least = Lanes::splat(f32::MAX);
        for step in [0.0, -1.0, 1.0] {
            let scales = (center + Lanes::splat(step)).between(0.0, LARGEST);
            let scale = scales * Lanes::splat(units.d);
            // A larger scale extends the range of values at both ends.
            let shifted = near.min + (scale - near.scale) * Lanes::splat(max / 2.0);
            let inverse = Lanes::splat(1.0).over(scale);
            let sums = group.sums(inverse, min_of(integer(shifted - mean, units.dmin)) * inverse, 0.0, max);
            let mins = integer((scale * sums.codes).over(group.total_weight) - mean, units.dmin);
            let error = sums.error(group.total_weight, Affine { scale, min: min_of(mins) });
            best.scales = scales.where_less(error, least, best.scales);
            best.mins = mins.where_less(error, least, best.mins);
            best.sums = sums.where_less(error, least, best.sums);
            least = error.at_most(least);
        }
        best.error = least.sum();
        best
    }

    fn model(&self, mean: Lanes) -> Affine {
        Affine {
            scale: self.scales * Lanes::splat(self.units.d),
            min: self.mins * Lanes::splat(self.units.dmin) + mean,
        }
    }

    /// `d` and `dmin` of least error for the integers and codes: two linear equations.
    fn fitted_units(&self, mean: Lanes, total_weight: Lanes) -> (f32, f32) {
        let Self { scales, mins, sums, .. } = self;
        let scale_scale = (*scales * *scales * sums.squares).sum();
        let scale_min = (*scales * *mins * sums.codes).sum();
        let min_min = (*mins * *mins * total_weight).sum();
        let scale_value = (*scales * (sums.products + mean * sums.codes)).sum();
        let min_value = (*mins * mean * total_weight).sum();
        let determinant = scale_scale * min_min - scale_min * scale_min;
        if determinant > 1e-5 * scale_scale * min_min {
            (
                (scale_value * min_min - scale_min * min_value) / determinant,
                (scale_min * scale_value - scale_scale * min_value) / determinant,
            )
        } else if scale_scale > 0.0 {
            ((scale_value + self.units.dmin * scale_min) / scale_scale, self.units.dmin)
        } else {
            (self.units.d, self.units.dmin)
        }
    }
}

/// `d`, `dmin`, and twelve bytes with eight six-bit scales and minima.
fn header(block: &Block) -> [u8; 16] {
    let mut out = [0; 16];
    out[..2].copy_from_slice(&block.d.to_le_bytes());
    out[2..4].copy_from_slice(&block.dmin.to_le_bytes());
    let (scales, mins, packed) = (&block.scales, &block.mins, &mut out[4..]);
    for j in 0..4 {
        packed[j] = scales[j] | (scales[j + 4] >> 4) << 6;
        packed[j + 4] = mins[j] | (mins[j + 4] >> 4) << 6;
        packed[j + 8] = scales[j + 4] & 15 | mins[j + 4] << 4;
    }
    out
}

/// Each 32 bytes hold one sub-block in the low nibbles and the next in the high nibbles.
#[inline(always)]
fn pack_low_nibbles(codes: &[[u8; SUB]; LANES], out: &mut [u8]) {
    for (pair, out) in codes.as_chunks::<2>().0.iter().zip(out.chunks_exact_mut(SUB)) {
        for ((byte, low), high) in out.iter_mut().zip(&pair[0]).zip(&pair[1]) {
            *byte = low & 15 | high << 4;
        }
    }
}

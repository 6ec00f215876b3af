//! NF4 with double quantization, bit-identical to bitsandbytes' `quantize_4bit(…, "nf4", blocksize=64,
//! compress_statistics=True)` on a CPU.
//!
//! 64 values of the flattened matrix share a scale, their largest magnitude (absmax). The mean of the scales (the offset) is
//! subtracted from them, and they are quantized to 8 bits with [`DYNAMIC_MAP`]; 256 of them share an f32 scale.
//! Sources: QLoRA (arXiv 2305.14314); bitsandbytes 0.50, `backends/default/ops.py` and `csrc/cpu_ops.cpp`.

use std::ops::Range;

use crate::DYNAMIC_MAP;
use crate::cascade_sum;

/// Values per scale.
pub const NF4_BLOCK: usize = 64;
/// Scales per nested scale.
pub const SCALE_BLOCK: usize = 256;

/// The values of the sixteen codes: quantiles of the normal distribution, scaled to -1 … 1 (QLoRA, appendix E).
#[expect(clippy::excessive_precision, reason = "the digits are those of the paper and of bitsandbytes")]
pub const NF4: [f32; 16] = [
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
];

/// Byte ranges of the sections of a matrix with `n` values. Every section starts at a multiple of 4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nf4Sections {
    /// `ceil(n / 2)` bytes, two codes each, the first in the high nibble.
    pub codes: Range<usize>,
    /// `ceil(n / 64)` bytes, indices into [`DYNAMIC_MAP`].
    pub absmax: Range<usize>,
    /// `ceil(ceil(n / 64) / 256)` f32.
    pub nested_absmax: Range<usize>,
    /// One f32.
    pub offset: Range<usize>,
    /// Length of the buffer.
    pub end: usize,
}

impl Nf4Sections {
    /// The layout for `n` values; `None` if it exceeds `usize`.
    #[must_use]
    pub fn of(n: usize) -> Option<Self> {
        let blocks = n.div_ceil(NF4_BLOCK);
        let part = |start: usize, len: usize| Some(start..start.checked_add(len)?);
        let codes = part(0, n.div_ceil(2))?;
        let absmax = part(codes.end.checked_next_multiple_of(4)?, blocks)?;
        let nested_absmax =
            part(absmax.end.checked_next_multiple_of(4)?, blocks.div_ceil(SCALE_BLOCK).checked_mul(4)?)?;
        let offset = part(nested_absmax.end, 4)?;
        Some(Self { end: offset.end, codes, absmax, nested_absmax, offset })
    }
}

/// A view of the sections of an NF4 buffer.
#[derive(Clone, Copy, Debug)]
pub struct Nf4View<'a> {
    n: usize,
    codes: &'a [u8],
    absmax: &'a [u8],
    nested_absmax: &'a [u8],
    offset: f32,
}

impl<'a> Nf4View<'a> {
    /// A view of `n` values; `None` if the buffer has another length.
    #[must_use]
    pub fn from_bytes(bytes: &'a [u8], n: usize) -> Option<Self> {
        let sections = Nf4Sections::of(n)?;
        (bytes.len() == sections.end).then(|| Self {
            n,
            codes: &bytes[sections.codes],
            absmax: &bytes[sections.absmax],
            nested_absmax: &bytes[sections.nested_absmax],
            offset: f32_at(&bytes[sections.offset], 0),
        })
    }

    pub(crate) fn of(bytes: &'a [u8], n: usize) -> Self {
        Self::from_bytes(bytes, n).unwrap_or_else(|| panic!("{n} NF4 values don't have {} bytes", bytes.len()))
    }

    /// Number of values.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.n
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// Two codes per byte, the first in the high nibble.
    #[must_use]
    pub const fn codes(&self) -> &'a [u8] {
        self.codes
    }

    /// The quantized scales, one byte per block of 64 values.
    #[must_use]
    pub const fn absmax(&self) -> &'a [u8] {
        self.absmax
    }

    /// The nested scales, one per 256 blocks.
    pub fn nested_absmax(&self) -> impl ExactSizeIterator<Item = f32> + use<'a> {
        self.nested_absmax.chunks_exact(4).map(|bytes| f32_at(bytes, 0))
    }

    /// The mean of the scales, which was subtracted before their quantization.
    #[must_use]
    pub const fn offset(&self) -> f32 {
        self.offset
    }

    /// The scale of a block of 64 values.
    ///
    /// # Panics
    /// Beyond the last block.
    #[inline]
    #[must_use]
    pub fn block_scale(&self, block: usize) -> f32 {
        let nested = f32_at(self.nested_absmax, block / SCALE_BLOCK);
        DYNAMIC_MAP[usize::from(self.absmax[block])] * nested + self.offset
    }
}

#[inline]
fn f32_at(bytes: &[u8], index: usize) -> f32 {
    let at = index * 4;
    f32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Joins the tensors that bitsandbytes stores to one buffer.
///
/// Returns `None` if their lengths don't match `n` values (see [`Nf4Sections`]).
#[must_use]
pub fn pack_nf4(n: usize, codes: &[u8], absmax: &[u8], nested_absmax: &[f32], offset: f32) -> Option<Vec<u8>> {
    let sections = Nf4Sections::of(n)?;
    let fits = codes.len() == sections.codes.len()
        && absmax.len() == sections.absmax.len()
        && nested_absmax.len() * 4 == sections.nested_absmax.len();
    if !fits {
        return None;
    }
    let mut bytes = vec![0; sections.end];
    bytes[sections.codes].copy_from_slice(codes);
    bytes[sections.absmax].copy_from_slice(absmax);
    for (slot, value) in bytes[sections.nested_absmax].chunks_exact_mut(4).zip(nested_absmax) {
        slot.copy_from_slice(&value.to_le_bytes());
    }
    bytes[sections.offset].copy_from_slice(&offset.to_le_bytes());
    Some(bytes)
}

/// Dequantizes values from `start` on, block by block.
pub(crate) fn dequantize(view: &Nf4View<'_>, start: usize, out: &mut [f32]) {
    let mut element = start;
    let mut rest = out;
    while !rest.is_empty() {
        let block = element / NF4_BLOCK;
        let end = ((block + 1) * NF4_BLOCK).min(element + rest.len());
        let (now, later) = rest.split_at_mut(end - element);
        // Sixteen products instead of sixty-four, with the same rounding.
        let scale = view.block_scale(block);
        let table = NF4.map(|value| value * scale);
        if element.is_multiple_of(2) {
            let codes = &view.codes[element / 2..end.div_ceil(2)];
            unpack(codes, &table, now);
        } else {
            now[0] = table[usize::from(view.codes[element / 2] & 15)];
            unpack(&view.codes[element / 2 + 1..end.div_ceil(2)], &table, &mut now[1..]);
        }
        element = end;
        rest = later;
    }
}

/// Decodes codes, beginning with a high nibble. If `out` has an odd length, the last low nibble is not used.
fn unpack(codes: &[u8], table: &[f32; 16], out: &mut [f32]) {
    let mut pairs = out.chunks_exact_mut(2);
    for (pair, &byte) in pairs.by_ref().zip(codes) {
        pair[0] = table[usize::from(byte >> 4)];
        pair[1] = table[usize::from(byte & 15)];
    }
    if let ([last], Some(&byte)) = (pairs.into_remainder(), codes.last()) {
        *last = table[usize::from(byte >> 4)];
    }
}

/// The NF4 buffer of `values`, which are finite. Layout: [`Nf4Sections`].
#[must_use]
pub fn quantize_nf4(values: &[f32]) -> Vec<u8> {
    join_nf4(values.len(), &[Nf4Piece::new(values)])
}

/// Codes and scales of a range of values, before the scales are quantized.
#[derive(Clone, Debug)]
pub struct Nf4Piece {
    codes: Vec<u8>,
    scales: Vec<f32>,
}

/// The NF4 buffer of `n` values from their pieces. Each piece except the last has a multiple of [`NF4_BLOCK`] values.
///
/// # Panics
/// When the pieces don't have `n` values in total.
#[must_use]
pub fn join_nf4(n: usize, pieces: &[Nf4Piece]) -> Vec<u8> {
    let codes = pieces.iter().map(|piece| &piece.codes[..]).collect::<Vec<_>>().concat();
    let scales = pieces.iter().map(|piece| &piece.scales[..]).collect::<Vec<_>>().concat();
    let (absmax, nested_absmax, offset) = quantize_scales(&scales);
    pack_nf4(n, &codes, &absmax, &nested_absmax, offset).unwrap_or_else(|| panic!("the pieces don't have {n} values"))
}

impl Nf4Piece {
    /// Quantizes finite values.
    #[must_use]
    pub fn new(values: &[f32]) -> Self {
        let bounds: [f32; 15] = std::array::from_fn(|i| (NF4[i] + NF4[i + 1]) / 2.0);
        let mut scales = Vec::with_capacity(values.len().div_ceil(NF4_BLOCK));
        let mut codes = Vec::with_capacity(values.len().div_ceil(2));
        let (blocks, last) = values.as_chunks::<NF4_BLOCK>();
        for block in blocks {
            let absmax = largest_magnitude(block);
            let inverse = 1.0 / absmax.max(SMALLEST_SCALE);
            scales.push(absmax);
            let scaled = block.map(|value| (value * inverse).clamp(-1.0, 1.0));
            push_codes(&scaled, &bounds, &mut codes);
        }
        if !last.is_empty() {
            // For a partial block, bitsandbytes divides; for full blocks it multiplies by the reciprocal.
            let absmax = largest_magnitude(last).max(SMALLEST_SCALE);
            scales.push(absmax);
            let scaled: Vec<f32> = last.iter().map(|value| (value / absmax).clamp(-1.0, 1.0)).collect();
            push_codes(&scaled, &bounds, &mut codes);
        }
        Self { codes, scales }
    }
}

/// The divisor for a block of zeros, whose scale is zero.
const SMALLEST_SCALE: f32 = 1e-38;

fn largest_magnitude(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |largest, value| value.abs().max(largest))
}

/// Appends the code of each value: the number of bounds below it. After an odd number of values, the last low nibble is the
/// code of zero.
fn push_codes(scaled: &[f32], bounds: &[f32; 15], codes: &mut Vec<u8>) {
    let mut below = [0u32; NF4_BLOCK];
    for bound in bounds {
        // Comparing all values with one bound at a time vectorises.
        for (below, value) in below.iter_mut().zip(scaled) {
            *below += u32::from(*bound < *value);
        }
    }
    if scaled.len() % 2 == 1 {
        below[scaled.len()] = CODE_OF_ZERO;
    }
    let (pairs, _) = below[..scaled.len().next_multiple_of(2)].as_chunks::<2>();
    codes.extend(pairs.iter().map(|[high, low]| (high << 4 | low) as u8));
}

const CODE_OF_ZERO: u32 = 7;

/// Indices into [`DYNAMIC_MAP`], their scales, and the offset.
fn quantize_scales(scales: &[f32]) -> (Vec<u8>, Vec<f32>, f32) {
    if scales.is_empty() {
        return (Vec::new(), Vec::new(), 0.0);
    }
    let offset = cascade_sum::sum(scales) / scales.len() as f32;
    let bounds: [f32; 255] = std::array::from_fn(|i| 0.5 * (DYNAMIC_MAP[i] + DYNAMIC_MAP[i + 1]));
    let mut indices = Vec::with_capacity(scales.len());
    let mut nested = Vec::with_capacity(scales.len().div_ceil(SCALE_BLOCK));
    for block in scales.chunks(SCALE_BLOCK) {
        let centred: Vec<f32> = block.iter().map(|scale| scale - offset).collect();
        let absmax = largest_magnitude(&centred);
        nested.push(absmax);
        if absmax == 0.0 {
            indices.extend(centred.iter().map(|_| 0));
            continue;
        }
        let inverse = 1.0 / absmax;
        indices.extend(centred.iter().map(|value| {
            let on_grid = grid((value * inverse).clamp(-1.0, 1.0));
            bounds.partition_point(|bound| *bound < on_grid) as u8
        }));
    }
    (indices, nested, offset)
}

/// bitsandbytes rounds to one of 65,536 equal steps of -1 … 1 before it searches the nearest entry of the map. Its compiler
/// fuses the multiplication with the addition.
fn grid(value: f32) -> f32 {
    let index = ((value + 1.0) * 0.5).mul_add(65535.0, 0.5) as u16;
    -1.0 + (2.0 * f32::from(index)) / 65535.0
}

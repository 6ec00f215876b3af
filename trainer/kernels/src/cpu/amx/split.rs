//! Splits f32 matrices into blocks of bf16 tiles.
//!
//! Responsible for: the layout of both operands. A word holds the bf16 numbers of two consecutive `k`, the first in its lower
//! half. Subtracting the nearest bf16 number from an f32 number is exact in f32, so high, middle and low part add up to the
//! number.
#![expect(unsafe_code, reason = "vector instructions")]

use std::arch::x86_64::{
    __m512, __m512i, _mm512_add_epi32, _mm512_and_si512, _mm512_castps_si512, _mm512_castsi512_ps, _mm512_loadu_ps,
    _mm512_loadu_si512, _mm512_mask_blend_epi16, _mm512_maskz_loadu_ps, _mm512_permutex2var_epi16, _mm512_set1_epi32,
    _mm512_setzero_si512, _mm512_srli_epi32, _mm512_storeu_si512, _mm512_sub_ps,
};

use super::tiles::{BLOCK, DEPTH, EDGE, PARTS, TILE, Tiles};

/// Splits `A[r, k] = values[r * stride + k]` for up to 16 rows and `depth` steps of `k`. The rest of the blocks is zero.
///
/// # Panics
/// When `values` is too short for the rows, or `to` is not the number of blocks that `depth` needs.
pub(super) fn left(_: &Tiles, values: &[f32], stride: usize, rows: usize, depth: usize, to: &mut [u32]) {
    assert!(
        rows <= EDGE && (rows == 0 || (rows - 1) * stride + depth <= values.len()),
        "the left operand is too small"
    );
    assert_eq!(to.len(), depth.div_ceil(DEPTH) * BLOCK, "blocks of the left operand");
    // SAFETY: `Tiles` proves that the processor has the instructions; the assertions check the bounds.
    unsafe { left_blocks(values, stride, rows, depth, to) }
}

/// Splits `B[k, n] = values[k * stride + n]` for 16 columns and `depth` steps of `k`. The rest of the blocks is zero.
///
/// # Panics
/// When `values` is too short for the columns, or `to` is not the number of blocks that `depth` needs.
pub(super) fn right(_: &Tiles, values: &[f32], stride: usize, depth: usize, to: &mut [u32]) {
    assert!(depth == 0 || (depth - 1) * stride + EDGE <= values.len(), "the right operand is too small");
    assert_eq!(to.len(), depth.div_ceil(DEPTH) * BLOCK, "blocks of the right operand");
    // SAFETY: as above.
    unsafe { right_blocks(values, stride, depth, to) }
}

/// High, middle and low part of each number, in the upper halves of three lanes.
#[inline]
#[target_feature(enable = "avx512f")]
fn parts(value: __m512) -> [__m512i; PARTS] {
    let high = nearest_bf16(value);
    let rest = _mm512_sub_ps(value, high);
    let middle = nearest_bf16(rest);
    [high, middle, _mm512_sub_ps(rest, middle)].map(|part| _mm512_castps_si512(part))
}

/// Rounds to the nearest bf16 number, ties away from zero. Rounding keeps the remainders small and their signs random.
#[inline]
#[target_feature(enable = "avx512f")]
fn nearest_bf16(value: __m512) -> __m512 {
    let half = _mm512_add_epi32(_mm512_castps_si512(value), _mm512_set1_epi32(0x8000));
    _mm512_castsi512_ps(_mm512_and_si512(half, _mm512_set1_epi32(0xffff_0000_u32.cast_signed())))
}

/// # Safety
/// [`left`] has checked its arguments.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn left_blocks(values: &[f32], stride: usize, rows: usize, depth: usize, to: &mut [u32]) {
    let upper_halves: [u16; DEPTH] = std::array::from_fn(|i| 2 * i as u16 + 1);
    // SAFETY: lanes of existing terms are within the values; the other lanes are not read. A block has `BLOCK` words.
    unsafe {
        let upper_halves = _mm512_loadu_si512(upper_halves.as_ptr().cast());
        for (block, k) in to.chunks_exact_mut(BLOCK).zip((0..).step_by(DEPTH)) {
            let existing = |k: usize| ((1_u32 << depth.saturating_sub(k).min(EDGE)) - 1) as u16;
            let masks = [existing(k), existing(k + EDGE)];
            for r in 0..EDGE {
                let mut words = [_mm512_setzero_si512(); PARTS];
                if r < rows {
                    let row = values.as_ptr().wrapping_add(r * stride + k);
                    let early = parts(_mm512_maskz_loadu_ps(masks[0], row));
                    let late = parts(_mm512_maskz_loadu_ps(masks[1], row.wrapping_add(EDGE)));
                    for (word, (early, late)) in words.iter_mut().zip(early.into_iter().zip(late)) {
                        *word = _mm512_permutex2var_epi16(early, upper_halves, late);
                    }
                }
                for (part, words) in words.into_iter().enumerate() {
                    _mm512_storeu_si512(block.as_mut_ptr().add(part * TILE + r * EDGE).cast(), words);
                }
            }
        }
    }
}

/// # Safety
/// [`right`] has checked its arguments.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn right_blocks(values: &[f32], stride: usize, depth: usize, to: &mut [u32]) {
    // SAFETY: rows of existing terms are within the values; the other rows are not read. A block has `BLOCK` words.
    unsafe {
        let row = |k: usize| {
            if k < depth {
                parts(_mm512_loadu_ps(values.as_ptr().add(k * stride)))
            } else {
                [_mm512_setzero_si512(); PARTS]
            }
        };
        for (block, first) in to.chunks_exact_mut(BLOCK).zip((0..).step_by(DEPTH)) {
            for pair in 0..EDGE {
                let (even, odd) = (row(first + 2 * pair), row(first + 2 * pair + 1));
                for (part, (even, odd)) in even.into_iter().zip(odd).enumerate() {
                    let words = _mm512_mask_blend_epi16(0xaaaa_aaaa, _mm512_srli_epi32::<16>(even), odd);
                    _mm512_storeu_si512(block.as_mut_ptr().add(part * TILE + pair * EDGE).cast(), words);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::level::Level;
    use super::super::super::testing::values;
    use super::*;

    /// The sum of the three parts of element `index` (of 32 along `k`) in line `line` (of 16) of a block.
    fn joined(block: &[u32], line: usize, index: usize, word: impl Fn(usize, usize) -> usize) -> f64 {
        let part = |part: usize| {
            let word = block[part * TILE + word(line, index / 2)];
            f64::from(f32::from_bits(if index.is_multiple_of(2) { word << 16 } else { word & 0xffff_0000 }))
        };
        (0..PARTS).map(part).sum()
    }

    #[test]
    fn parts_add_up_to_the_number() {
        if Level::best() != Level::Amx {
            return;
        }
        // SAFETY: the level proves that the processor has AMX, and this thread has no other `Tiles`.
        let tiles = unsafe { Tiles::configure() };
        let (stride, depth, rows) = (50, 45, 11);
        let mut numbers = values(stride * stride, 1);
        for (i, special) in
            [0.0, -0.0, 1.0, 3.3e38, -3.3e38, f32::EPSILON, 1.0 - f32::EPSILON / 2.0, 1e-30].into_iter().enumerate()
        {
            numbers[i * (stride + 1)] = special;
        }
        let mut blocks = vec![u32::MAX; 2 * BLOCK];
        left(&tiles, &numbers, stride, rows, depth, &mut blocks);
        for (r, k) in (0..EDGE).flat_map(|r| (0..2 * DEPTH).map(move |k| (r, k))) {
            let want = if r < rows && k < depth { numbers[r * stride + k] } else { 0.0 };
            let got = joined(&blocks[k / DEPTH * BLOCK..], r, k % DEPTH, |row, pair| row * EDGE + pair);
            assert_eq!(got, f64::from(want), "row {r}, term {k}");
        }
        right(&tiles, &numbers, stride, depth, &mut blocks);
        for (n, k) in (0..EDGE).flat_map(|n| (0..2 * DEPTH).map(move |k| (n, k))) {
            let want = if k < depth { numbers[k * stride + n] } else { 0.0 };
            let got = joined(&blocks[k / DEPTH * BLOCK..], n, k % DEPTH, |column, pair| pair * EDGE + column);
            assert_eq!(got, f64::from(want), "column {n}, term {k}");
        }
    }
}

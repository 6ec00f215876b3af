//! The innermost loop of a matrix product: a tile of the output held in registers.
//!
//! Responsible for: `C[r, n] (+)= Σ_k A[r, k] · B[k, n]` for up to 12 rows and up to 64 columns. One level's
//! instructions each; all levels sum over `k` in ascending order.
#![expect(unsafe_code, reason = "raw addresses and vector instructions")]

use super::level::Level;

/// Columns of one vector of the widest level, and the unit in which panels are wide.
pub(crate) const LANES: usize = 16;
/// Widest panel in units of [`LANES`].
pub(crate) const MAX_UNITS: usize = 4;

/// One tile's operands.
#[derive(Clone, Copy)]
pub(crate) struct Tile {
    /// Terms of the sum.
    pub(crate) depth: usize,
    /// `A[r, k]` lies at `a + r * a_row + k * a_depth`.
    pub(crate) a: *const f32,
    pub(crate) a_row: usize,
    pub(crate) a_depth: usize,
    /// `B[k, n]` lies at `b + k * b_depth + n`; all lanes of the units are readable.
    pub(crate) b: *const f32,
    pub(crate) b_depth: usize,
    /// `C[r, n]` lies at `c + r * c_row + n`.
    pub(crate) c: *mut f32,
    pub(crate) c_row: usize,
    /// Columns of the last unit that exist, 1 to 16.
    pub(crate) last: usize,
    /// Add to what `C` holds instead of overwriting it.
    pub(crate) accumulate: bool,
}

/// Most rows of a tile of `units` times 16 columns.
pub(crate) fn max_rows(level: Level, units: usize) -> usize {
    match level {
        Level::Portable => 4,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => 6,
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Amx => [12, 12, 8, 6][units - 1],
    }
}

/// Computes a tile of `units` times 16 columns and as many of `rows` rows as one tile takes; returns that number.
///
/// # Safety
/// Every address that [`Tile`] describes is valid, and nobody else uses the addressed part of `C`.
pub(crate) unsafe fn tile(level: Level, rows: usize, units: usize, tile: &Tile) -> usize {
    let fitting = |sizes: &[usize]| sizes.iter().copied().find(|&size| size <= rows).unwrap_or(1);
    match level {
        Level::Portable => {
            let rows = fitting(&[4, 2]);
            // SAFETY: the caller's promise.
            unsafe {
                match rows {
                    4 => portable::<4>(units, tile),
                    2 => portable::<2>(units, tile),
                    _ => portable::<1>(units, tile),
                }
            }
            rows
        }
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => {
            let rows = fitting(&[6, 4, 2]);
            // SAFETY: the caller's promise, and the level is proof of the instructions.
            unsafe {
                match rows {
                    6 => avx2::<6>(units, tile),
                    4 => avx2::<4>(units, tile),
                    2 => avx2::<2>(units, tile),
                    _ => avx2::<1>(units, tile),
                }
            }
            rows
        }
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Amx => {
            let sizes: [&[usize]; 4] = [&[12, 8, 4, 2], &[12, 8, 4, 2], &[8, 4, 2], &[6, 4, 2]];
            let rows = fitting(sizes[units - 1]);
            // SAFETY: the caller's promise, and the level is proof of the instructions.
            unsafe {
                match (units, rows) {
                    (1, 12) => avx512::<12, 1>(tile),
                    (1, 8) => avx512::<8, 1>(tile),
                    (1, 4) => avx512::<4, 1>(tile),
                    (1, 2) => avx512::<2, 1>(tile),
                    (1, _) => avx512::<1, 1>(tile),
                    (2, 12) => avx512::<12, 2>(tile),
                    (2, 8) => avx512::<8, 2>(tile),
                    (2, 4) => avx512::<4, 2>(tile),
                    (2, 2) => avx512::<2, 2>(tile),
                    (2, _) => avx512::<1, 2>(tile),
                    (3, 8) => avx512::<8, 3>(tile),
                    (3, 4) => avx512::<4, 3>(tile),
                    (3, 2) => avx512::<2, 3>(tile),
                    (3, _) => avx512::<1, 3>(tile),
                    (_, 6) => avx512::<6, 4>(tile),
                    (_, 4) => avx512::<4, 4>(tile),
                    (_, 2) => avx512::<2, 4>(tile),
                    (_, _) => avx512::<1, 4>(tile),
                }
            }
            rows
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn avx512<const ROWS: usize, const UNITS: usize>(tile: &Tile) {
    use std::arch::x86_64::{
        _MM_HINT_T0, _mm_prefetch, _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mask_storeu_ps,
        _mm512_maskz_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps,
    };
    // SAFETY: the caller's promise; masked lanes are neither read nor written.
    unsafe {
        // Rows of the left operand lie far apart, where no prefetcher of the processor looks for them; neither does one
        // for the output. Both are asked for while there is a tile's worth of work to do.
        for row in 0..ROWS {
            for unit in 0..UNITS {
                _mm_prefetch::<_MM_HINT_T0>(tile.c.wrapping_add(row * tile.c_row + unit * LANES).cast());
            }
            if tile.a_depth == 1 {
                let next = tile.a.wrapping_add((ROWS + row) * tile.a_row);
                for k in (0..tile.depth).step_by(LANES) {
                    _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(k).cast());
                }
            }
        }
        let mut sums = [[_mm512_setzero_ps(); UNITS]; ROWS];
        let (mut a, mut b) = (tile.a, tile.b);
        for _ in 0..tile.depth {
            let mut columns = [_mm512_setzero_ps(); UNITS];
            for (unit, columns) in columns.iter_mut().enumerate() {
                *columns = _mm512_loadu_ps(b.add(unit * LANES));
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                let value = _mm512_set1_ps(*a.add(row * tile.a_row));
                for (sum, columns) in sums.iter_mut().zip(columns) {
                    *sum = _mm512_fmadd_ps(value, columns, *sum);
                }
            }
            a = a.wrapping_add(tile.a_depth);
            b = b.wrapping_add(tile.b_depth);
        }
        for (row, sums) in sums.into_iter().enumerate() {
            for (unit, sum) in sums.into_iter().enumerate() {
                let mask = if unit + 1 == UNITS { 0xffff >> (LANES - tile.last) } else { 0xffff };
                let c = tile.c.add(row * tile.c_row + unit * LANES);
                let sum = if tile.accumulate { _mm512_add_ps(_mm512_maskz_loadu_ps(mask, c), sum) } else { sum };
                _mm512_mask_storeu_ps(c, mask, sum);
            }
        }
    }
}

/// Where a row of sums goes: 16 columns, of which the first `columns` exist.
#[inline(always)]
unsafe fn store(sums: &[f32; LANES], c: *mut f32, columns: usize, accumulate: bool) {
    // SAFETY: the caller's promise.
    let c = unsafe { std::slice::from_raw_parts_mut(c, columns) };
    if accumulate {
        c.iter_mut().zip(sums).for_each(|(c, sum)| *c += sum);
    } else {
        c.copy_from_slice(&sums[..columns]);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn avx2<const ROWS: usize>(units: usize, tile: &Tile) {
    use std::arch::x86_64::{
        _mm256_add_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
    };
    // SAFETY: the caller's promise.
    unsafe {
        for unit in 0..units {
            let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
            let (mut a, mut b) = (tile.a, tile.b.add(unit * LANES));
            for _ in 0..tile.depth {
                let columns = [_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8))];
                for (row, sums) in sums.iter_mut().enumerate() {
                    let value = _mm256_set1_ps(*a.add(row * tile.a_row));
                    sums[0] = _mm256_fmadd_ps(value, columns[0], sums[0]);
                    sums[1] = _mm256_fmadd_ps(value, columns[1], sums[1]);
                }
                a = a.wrapping_add(tile.a_depth);
                b = b.wrapping_add(tile.b_depth);
            }
            let columns = if unit + 1 == units { tile.last } else { LANES };
            for (row, sums) in sums.into_iter().enumerate() {
                let c = tile.c.add(row * tile.c_row + unit * LANES);
                if columns == LANES {
                    for (half, sum) in sums.into_iter().enumerate() {
                        let c = c.add(half * 8);
                        let sum = if tile.accumulate { _mm256_add_ps(_mm256_loadu_ps(c), sum) } else { sum };
                        _mm256_storeu_ps(c, sum);
                    }
                } else {
                    let mut lanes = [0.0; LANES];
                    _mm256_storeu_ps(lanes.as_mut_ptr(), sums[0]);
                    _mm256_storeu_ps(lanes.as_mut_ptr().add(8), sums[1]);
                    store(&lanes, c, columns, tile.accumulate);
                }
            }
        }
    }
}

unsafe fn portable<const ROWS: usize>(units: usize, tile: &Tile) {
    use super::level::{PORTABLE_FMA, fma};
    // SAFETY: the caller's promise.
    unsafe {
        for unit in 0..units {
            let mut sums = [[0.0f32; LANES]; ROWS];
            let (mut a, mut b) = (tile.a, tile.b.add(unit * LANES));
            for _ in 0..tile.depth {
                let columns = *b.cast::<[f32; LANES]>();
                for (row, sums) in sums.iter_mut().enumerate() {
                    let value = *a.add(row * tile.a_row);
                    for (sum, column) in sums.iter_mut().zip(columns) {
                        *sum = fma::<PORTABLE_FMA>(value, column, *sum);
                    }
                }
                a = a.wrapping_add(tile.a_depth);
                b = b.wrapping_add(tile.b_depth);
            }
            let columns = if unit + 1 == units { tile.last } else { LANES };
            for (row, sums) in sums.iter().enumerate() {
                store(sums, tile.c.add(row * tile.c_row + unit * LANES), columns, tile.accumulate);
            }
        }
    }
}

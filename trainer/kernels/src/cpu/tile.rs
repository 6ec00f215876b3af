//! The innermost loop of a GEMM: a tile of the output held in registers.
//!
//! Responsible for: `C[r, n] (+)= Σ_k A[r, k] · B[k, n]` for up to 12 rows and up to 64 columns, one function per level. All
//! levels sum over `k` in ascending order.
#![expect(unsafe_code, reason = "raw addresses and vector instructions")]

use super::level::Level;
use super::memory::prefetch;

/// Floats in a vector of the widest level. Panel widths are multiples of it.
pub(crate) const LANES: usize = 16;

/// Consecutive tiles of `R` rows each. Both operands are packed in reading order; each tile has its own panel of the left
/// operand, with `R` rows.
#[derive(Clone, Copy)]
pub(crate) struct Tiles {
    pub(crate) count: usize,
    /// Steps of `k`.
    pub(crate) depth: usize,
    /// `A[t * R + r, k]` of tile `t` is at `a + t * a_panel + k * R + r`.
    pub(crate) a: *const f32,
    pub(crate) a_panel: usize,
    /// `B[k, n]` is at `b + k * b_depth + n`. All lanes of the vectors are readable.
    pub(crate) b: *const f32,
    pub(crate) b_depth: usize,
    /// `C[m, n]` is at `c + m * c_row + n`.
    pub(crate) c: *mut f32,
    pub(crate) c_row: usize,
    /// Number of existing columns in the last vector, 1 to 16.
    pub(crate) last: usize,
    /// Whether to add to `C` instead of overwriting it.
    pub(crate) accumulate: bool,
}

/// Panel widths of the right operand, in columns, the best first.
pub(crate) fn widths(level: Level) -> &'static [usize] {
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Amx => &[64, 48, 32],
        _ => &[LANES],
    }
}

/// Steps of `k` that a tile computes at once. The panel of the right operand for them takes at most 32 KiB with AVX-512, and
/// 20 KiB at the other levels: two thirds of an L1 cache of 48 KiB or 32 KiB.
pub(crate) fn depth(level: Level) -> usize {
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Amx => 128,
        _ => 320,
    }
}

/// The tiles for `rows` rows, from the top: pairs of rows per tile and number of tiles. Panels of the right operand have at
/// most `width` columns.
pub(crate) fn tile_heights(level: Level, width: usize, rows: usize) -> impl Iterator<Item = (usize, usize)> {
    let sizes: &[usize] = match (level, width.div_ceil(LANES)) {
        (Level::Portable, _) => &[4, 2, 1],
        #[cfg(target_arch = "x86_64")]
        (Level::Avx2, _) => &[6, 4, 2, 1],
        #[cfg(target_arch = "x86_64")]
        (Level::Avx512 | Level::Amx, ..=2) => &[12, 8, 4, 2, 1],
        #[cfg(target_arch = "x86_64")]
        (Level::Avx512 | Level::Amx, 3) => &[8, 4, 2, 1],
        #[cfg(target_arch = "x86_64")]
        (Level::Avx512 | Level::Amx, _) => &[6, 4, 2, 1],
    };
    sizes.iter().scan(rows, |left, &size| {
        let count = *left / size;
        *left %= size;
        Some((size, count))
    })
}

/// Computes tiles of `rows` rows and `units · 16` columns. [`tile_heights`] lists the possible `rows`; a panel has at least
/// that many columns.
///
/// # Safety
/// Every address that [`Tiles`] describes is valid, and the addressed part of `C` is not accessed otherwise.
pub(crate) unsafe fn compute(level: Level, rows: usize, units: usize, tiles: &Tiles) {
    macro_rules! choose {
        ($size:expr, $function:ident: $(($($number:literal),+))*) => {
            match $size {
                $(($($number,)+) => $function::<$($number),+>(tiles),)*
                _ => panic!("no tile has {rows} rows and {units} times 16 columns"),
            }
        };
    }
    // SAFETY: the caller's promise; the level proves that the processor has the instructions.
    unsafe {
        match level {
            Level::Portable => choose!((rows,), portable: (4) (2) (1)),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => choose!((rows,), avx2: (6) (4) (2) (1)),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Amx => choose!((rows, units), avx512:
                (12, 1) (8, 1) (6, 1) (4, 1) (2, 1) (1, 1)
                (12, 2) (8, 2) (6, 2) (4, 2) (2, 2) (1, 2)
                (8, 3) (6, 3) (4, 3) (2, 3) (1, 3)
                (6, 4) (4, 4) (2, 4) (1, 4)
            ),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn avx512<const ROWS: usize, const UNITS: usize>(tiles: &Tiles) {
    use std::arch::x86_64::{
        _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_set1_ps,
        _mm512_setzero_ps,
    };
    // SAFETY: the caller's promise; masked lanes are neither read nor written.
    unsafe {
        for index in 0..tiles.count {
            let c = tiles.c.add(index * ROWS * tiles.c_row);
            // The hardware prefetchers don't find the rows of the output, which are far apart.
            for (row, unit) in (0..ROWS).flat_map(|row| (0..UNITS).map(move |unit| (row, unit))) {
                prefetch(c.wrapping_add(row * tiles.c_row + unit * LANES));
            }
            let mut sums = [[_mm512_setzero_ps(); UNITS]; ROWS];
            let (mut a, mut b) = (tiles.a.add(index * tiles.a_panel), tiles.b);
            for _ in 0..tiles.depth {
                let mut columns = [_mm512_setzero_ps(); UNITS];
                for (unit, columns) in columns.iter_mut().enumerate() {
                    *columns = _mm512_loadu_ps(b.add(unit * LANES));
                }
                for (row, sums) in sums.iter_mut().enumerate() {
                    let value = _mm512_set1_ps(*a.add(row));
                    for (sum, columns) in sums.iter_mut().zip(columns) {
                        *sum = _mm512_fmadd_ps(value, columns, *sum);
                    }
                }
                a = a.wrapping_add(ROWS);
                b = b.wrapping_add(tiles.b_depth);
            }
            for (row, sums) in sums.into_iter().enumerate() {
                for (unit, sum) in sums.into_iter().enumerate() {
                    let mask = if unit + 1 == UNITS { 0xffff >> (LANES - tiles.last) } else { 0xffff };
                    let c = c.add(row * tiles.c_row + unit * LANES);
                    let sum = if tiles.accumulate { _mm512_add_ps(_mm512_maskz_loadu_ps(mask, c), sum) } else { sum };
                    _mm512_mask_storeu_ps(c, mask, sum);
                }
            }
        }
    }
}

/// Stores or adds the first `columns` of 16 sums to a row of the output.
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
unsafe fn avx2<const ROWS: usize>(tiles: &Tiles) {
    use std::arch::x86_64::{
        _mm256_add_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
    };
    /// Steps of `k` per iteration of the unrolled loop.
    const TURN: usize = 4;
    // SAFETY: the caller's promise.
    unsafe {
        for index in 0..tiles.count {
            let c = tiles.c.add(index * ROWS * tiles.c_row);
            for row in 0..ROWS {
                prefetch(c.wrapping_add(row * tiles.c_row));
            }
            let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
            let (mut a, mut b) = (tiles.a.add(index * tiles.a_panel), tiles.b);
            let mut add = |terms: usize| {
                for term in 0..terms {
                    let columns = [_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8))];
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let value = _mm256_set1_ps(*a.add(term * ROWS + row));
                        sums[0] = _mm256_fmadd_ps(value, columns[0], sums[0]);
                        sums[1] = _mm256_fmadd_ps(value, columns[1], sums[1]);
                    }
                    b = b.wrapping_add(tiles.b_depth);
                }
                a = a.wrapping_add(terms * ROWS);
            };
            for _ in 0..tiles.depth / TURN {
                add(TURN);
            }
            add(tiles.depth % TURN);
            for (row, sums) in sums.into_iter().enumerate() {
                let c = c.add(row * tiles.c_row);
                if tiles.last == LANES {
                    for (half, sum) in sums.into_iter().enumerate() {
                        let c = c.add(half * 8);
                        let sum = if tiles.accumulate { _mm256_add_ps(_mm256_loadu_ps(c), sum) } else { sum };
                        _mm256_storeu_ps(c, sum);
                    }
                } else {
                    let mut lanes = [0.0; LANES];
                    _mm256_storeu_ps(lanes.as_mut_ptr(), sums[0]);
                    _mm256_storeu_ps(lanes.as_mut_ptr().add(8), sums[1]);
                    store(&lanes, c, tiles.last, tiles.accumulate);
                }
            }
        }
    }
}

unsafe fn portable<const ROWS: usize>(tiles: &Tiles) {
    use super::level::{PORTABLE_FMA, fma};
    // SAFETY: the caller's promise.
    unsafe {
        for index in 0..tiles.count {
            let c = tiles.c.add(index * ROWS * tiles.c_row);
            let mut sums = [[0.0f32; LANES]; ROWS];
            let (mut a, mut b) = (tiles.a.add(index * tiles.a_panel), tiles.b);
            for _ in 0..tiles.depth {
                let columns = *b.cast::<[f32; LANES]>();
                for (row, sums) in sums.iter_mut().enumerate() {
                    let value = *a.add(row);
                    for (sum, column) in sums.iter_mut().zip(columns) {
                        *sum = fma::<PORTABLE_FMA>(value, column, *sum);
                    }
                }
                a = a.wrapping_add(ROWS);
                b = b.wrapping_add(tiles.b_depth);
            }
            for (row, sums) in sums.iter().enumerate() {
                store(sums, c.add(row * tiles.c_row), tiles.last, tiles.accumulate);
            }
        }
    }
}

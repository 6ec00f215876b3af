//! Transposes of small blocks and of whole matrices.
#![expect(unsafe_code, reason = "vector instructions")]

use super::level::Level;
use super::memory::Shared;
use super::threads;

/// The transpose of 4 by 4 elements.
#[inline(always)]
pub(crate) fn block4(rows: [[f32; 4]; 4]) -> [[f32; 4]; 4] {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{__m128, _mm_movehl_ps, _mm_movelh_ps, _mm_unpackhi_ps, _mm_unpacklo_ps};
        let [a, b, c, d] = rows.map(bytemuck::cast::<_, __m128>);
        // SAFETY: x86-64 has these instructions.
        let columns = unsafe {
            let (ab_low, ab_high) = (_mm_unpacklo_ps(a, b), _mm_unpackhi_ps(a, b));
            let (cd_low, cd_high) = (_mm_unpacklo_ps(c, d), _mm_unpackhi_ps(c, d));
            [
                _mm_movelh_ps(ab_low, cd_low),
                _mm_movehl_ps(cd_low, ab_low),
                _mm_movelh_ps(ab_high, cd_high),
                _mm_movehl_ps(cd_high, ab_high),
            ]
        };
        columns.map(bytemuck::cast)
    }
    #[cfg(not(target_arch = "x86_64"))]
    std::array::from_fn(|k| rows.map(|row| row[k]))
}

/// Transposes 16 by 16 elements: `to[k * to_stride + r] = from[r * from_stride + k]`.
pub(crate) fn block16(level: Level, from: &[f32], from_stride: usize, to: &mut [f32], to_stride: usize) {
    assert!(from.len() >= 15 * from_stride + 16 && to.len() >= 15 * to_stride + 16);
    match level {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the assertion checks the lengths; the level proves that the processor has the instructions.
        Level::Avx512 | Level::Amx => unsafe { avx512(from.as_ptr(), from_stride, to.as_mut_ptr(), to_stride) },
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => {
            for (row, column) in [(0, 0), (0, 8), (8, 0), (8, 8)] {
                let (from, to) = (&from[row * from_stride + column..], &mut to[column * to_stride + row..]);
                // SAFETY: as above.
                unsafe { avx2(from.as_ptr(), from_stride, to.as_mut_ptr(), to_stride) };
            }
        }
        Level::Portable => {
            for r in 0..16 {
                for k in 0..16 {
                    to[k * to_stride + r] = from[r * from_stride + k];
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
    use std::arch::x86_64::{
        __m512, _mm512_castpd_ps, _mm512_castps_pd, _mm512_loadu_ps, _mm512_setzero_ps, _mm512_shuffle_f32x4,
        _mm512_storeu_ps, _mm512_unpackhi_pd, _mm512_unpackhi_ps, _mm512_unpacklo_pd, _mm512_unpacklo_ps,
    };
    // SAFETY: the caller's promise.
    unsafe {
        let mut rows: [__m512; 16] = [_mm512_setzero_ps(); 16];
        for (r, row) in rows.iter_mut().enumerate() {
            *row = _mm512_loadu_ps(from.add(r * from_stride));
        }
        // Within each 128-bit quarter: 4 by 4 blocks of rows 4 i … 4 i + 3.
        let mut quads = rows;
        for i in 0..4 {
            let [a, b, c, d] = [rows[4 * i], rows[4 * i + 1], rows[4 * i + 2], rows[4 * i + 3]];
            let (ab_low, ab_high) = (_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
            let (cd_low, cd_high) = (_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
            let pair = |x: __m512, y: __m512| (_mm512_castps_pd(x), _mm512_castps_pd(y));
            let ((l0, l1), (h0, h1)) = (pair(ab_low, cd_low), pair(ab_high, cd_high));
            quads[4 * i] = _mm512_castpd_ps(_mm512_unpacklo_pd(l0, l1));
            quads[4 * i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(l0, l1));
            quads[4 * i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(h0, h1));
            quads[4 * i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(h0, h1));
        }
        // Quarter q of quads[4 i + j] is column 4 q + j of rows 4 i … 4 i + 3.
        for j in 0..4 {
            let [a, b, c, d] = [quads[j], quads[4 + j], quads[8 + j], quads[12 + j]];
            let (ab_low, ab_high) = (_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0xee>(a, b));
            let (cd_low, cd_high) = (_mm512_shuffle_f32x4::<0x44>(c, d), _mm512_shuffle_f32x4::<0xee>(c, d));
            _mm512_storeu_ps(to.add(j * to_stride), _mm512_shuffle_f32x4::<0x88>(ab_low, cd_low));
            _mm512_storeu_ps(to.add((4 + j) * to_stride), _mm512_shuffle_f32x4::<0xdd>(ab_low, cd_low));
            _mm512_storeu_ps(to.add((8 + j) * to_stride), _mm512_shuffle_f32x4::<0x88>(ab_high, cd_high));
            _mm512_storeu_ps(to.add((12 + j) * to_stride), _mm512_shuffle_f32x4::<0xdd>(ab_high, cd_high));
        }
    }
}

/// Transposes 8 by 8 elements.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn avx2(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
    use std::arch::x86_64::{
        __m256, _mm256_loadu_ps, _mm256_permute2f128_ps, _mm256_setzero_ps, _mm256_shuffle_ps, _mm256_storeu_ps,
        _mm256_unpackhi_ps, _mm256_unpacklo_ps,
    };
    // SAFETY: the caller's promise.
    unsafe {
        let mut rows: [__m256; 8] = [_mm256_setzero_ps(); 8];
        for (r, row) in rows.iter_mut().enumerate() {
            *row = _mm256_loadu_ps(from.add(r * from_stride));
        }
        let mut quads = rows;
        for i in 0..2 {
            let [a, b, c, d] = [rows[4 * i], rows[4 * i + 1], rows[4 * i + 2], rows[4 * i + 3]];
            let (ab_low, ab_high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            let (cd_low, cd_high) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
            quads[4 * i] = _mm256_shuffle_ps::<0x44>(ab_low, cd_low);
            quads[4 * i + 1] = _mm256_shuffle_ps::<0xee>(ab_low, cd_low);
            quads[4 * i + 2] = _mm256_shuffle_ps::<0x44>(ab_high, cd_high);
            quads[4 * i + 3] = _mm256_shuffle_ps::<0xee>(ab_high, cd_high);
        }
        for j in 0..4 {
            let (a, b) = (quads[j], quads[4 + j]);
            _mm256_storeu_ps(to.add(j * to_stride), _mm256_permute2f128_ps::<0x20>(a, b));
            _mm256_storeu_ps(to.add((4 + j) * to_stride), _mm256_permute2f128_ps::<0x31>(a, b));
        }
    }
}

/// Writes the transpose of a matrix `[rows, columns]` with row stride `stride` to `to`.
pub(crate) fn matrix(from: &[f32], rows: usize, columns: usize, stride: usize, to: &mut [f32]) {
    assert_eq!(to.len(), rows * columns, "elements of a transpose");
    let level = Level::best();
    let out = Shared::new(to);
    threads::each(columns.div_ceil(16), |strip| {
        let k0 = strip * 16;
        let width = (columns - k0).min(16);
        // SAFETY: each strip writes its own rows of the output.
        let to = unsafe { out.part(k0 * rows, width * rows) };
        let whole = if width == 16 { rows / 16 * 16 } else { 0 };
        for r in (0..whole).step_by(16) {
            block16(level, &from[r * stride + k0..], stride, &mut to[r..], rows);
        }
        for r in whole..rows {
            for k in 0..width {
                to[k * rows + r] = from[r * stride + k0 + k];
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrices_of_any_size_are_transposed() {
        for (rows, columns, stride) in [(16, 16, 16), (1, 1, 1), (33, 47, 50), (64, 32, 32), (17, 16, 19)] {
            let from: Vec<f32> = (0..rows * stride).map(|i| i as f32).collect();
            let mut to = vec![f32::NAN; rows * columns];
            matrix(&from, rows, columns, stride, &mut to);
            for r in 0..rows {
                for k in 0..columns {
                    assert_eq!(to[k * rows + r], from[r * stride + k]);
                }
            }
        }
    }

    #[test]
    fn every_level_transposes_a_block() {
        let from: Vec<f32> = (0..16 * 20).map(|i| i as f32).collect();
        for level in Level::available() {
            let mut to = vec![0.0; 16 * 18];
            block16(level, &from, 20, &mut to, 18);
            for (r, k) in (0..16).flat_map(|r| (0..16).map(move |k| (r, k))) {
                assert_eq!(to[k * 18 + r], from[r * 20 + k], "{level:?}");
            }
        }
    }
}

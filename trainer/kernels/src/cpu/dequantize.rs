//! Fast dequantization of rows of a stored matrix to `f32`.
//!
//! Responsible for: NF4, F32, F16 and BF16, and any range of a matrix; `blocks` has whole blocks of ggml's formats. All values
//! are bit-identical to those of `tonfall_blocks::dequantize`.

use tonfall_blocks::{Format, Nf4View, f16_to_f32};

#[cfg(target_arch = "x86_64")]
use super::blocks;
use super::level::{Level, multiversion};
use super::tile::LANES;

/// A borrowed stored matrix.
#[derive(Clone, Copy)]
pub(crate) struct Stored<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) format: Format,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    nf4: Option<Nf4View<'a>>,
}

impl<'a> Stored<'a> {
    /// A matrix whose `bytes` have the length that format and shape require.
    pub(crate) fn new(bytes: &'a [u8], format: Format, rows: usize, cols: usize) -> Self {
        let nf4 = (format == Format::Nf4).then(|| Nf4View::from_bytes(bytes, rows * cols)).flatten();
        Self { bytes, format, rows, cols, nf4 }
    }

    /// The values, if they are stored as aligned little-endian f32.
    pub(crate) fn as_f32(&self) -> Option<&'a [f32]> {
        (self.format == Format::F32 && cfg!(target_endian = "little"))
            .then(|| bytemuck::try_cast_slice(self.bytes).ok())
            .flatten()
    }

    /// Dequantizes values `start .. start + out.len()` of the flattened matrix.
    pub(crate) fn read(&self, level: Level, start: usize, out: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        if let Some(view) = &self.nf4
            && level >= Level::Avx2
            && start.is_multiple_of(LANES)
            && out.len().is_multiple_of(LANES)
        {
            return nf4::read(level, view, start, out);
        }
        #[cfg(target_arch = "x86_64")]
        if self.read_blocks(level, start, out) {
            return;
        }
        match self.format {
            Format::F32 => f32s(level, &self.bytes[start * 4..][..out.len() * 4], out),
            Format::Bf16 => bf16s(level, &self.bytes[start * 2..][..out.len() * 2], out),
            Format::F16 => f16s(level, &self.bytes[start * 2..][..out.len() * 2], out),
            _ => tonfall_blocks::dequantize(self.format, self.bytes, self.rows, self.cols, start, out),
        }
    }

    /// Dequantizes whole blocks, or multiples of 32 numbers, with AVX2. Returns false without writing if the level is lower,
    /// or the range is another one.
    #[cfg(target_arch = "x86_64")]
    fn read_blocks(&self, level: Level, start: usize, out: &mut [f32]) -> bool {
        let (len, size) = (self.format.block_len(), self.format.block_bytes());
        if self.format == Format::Nf4 || !start.is_multiple_of(len) || !out.len().is_multiple_of(len) {
            return false;
        }
        blocks::read(level, self.format, &self.bytes[start / len * size..][..out.len() / len * size], out)
    }

    /// Dequantizes columns `column .. column + depth` of 16 rows from `row` on, transposed: the value in row `row + r` and column
    /// `column + k` goes to `to[k * to_stride + r]`. Rows beyond the last are zeros. Returns false without writing if
    /// [`Stored::read`] is the fastest way.
    pub(crate) fn read_transposed(
        &self,
        level: Level,
        row: usize,
        column: usize,
        depth: usize,
        to: &mut [f32],
        to_stride: usize,
    ) -> bool {
        #[cfg(target_arch = "x86_64")]
        if let Some(view) = &self.nf4
            && level >= Level::Avx2
            && self.cols.is_multiple_of(64)
            && column.is_multiple_of(64)
            && depth.is_multiple_of(64)
            && i32::try_from(self.cols * LANES).is_ok()
        {
            let rows = row..(row + LANES).min(self.rows);
            nf4::read_transposed(level, view, self.cols, rows, column, depth, to, to_stride);
            return true;
        }
        let _ = (level, row, column, depth, to, to_stride);
        false
    }
}

multiversion! {
    fn f32s(bytes: &[u8], out: &mut [f32]) {
        for (out, number) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *out = f32::from_le_bytes(*number);
        }
    }
}

multiversion! {
    fn bf16s(bytes: &[u8], out: &mut [f32]) {
        for (out, number) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
            *out = f32::from_bits(u32::from(u16::from_le_bytes(*number)) << 16);
        }
    }
}

multiversion! {
    fn f16s(bytes: &[u8], out: &mut [f32]) {
        for (out, number) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
            *out = f16_to_f32(u16::from_le_bytes(*number));
        }
    }
}

/// NF4 with the sixteen values in registers: one permute decodes sixteen codes (AVX-512), two decode eight (AVX2).
#[cfg(target_arch = "x86_64")]
mod nf4 {
    #![expect(unsafe_code, reason = "vector instructions")]

    use std::arch::x86_64::{
        __m128i, __m256, __m256i, _mm_cvtsi32_si128, _mm_loadl_epi64, _mm256_blendv_ps, _mm256_castsi256_ps,
        _mm256_cvtepu8_epi64, _mm256_i32gather_epi32, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_mul_ps,
        _mm256_or_si256, _mm256_permutevar8x32_ps, _mm256_set1_ps, _mm256_slli_epi32, _mm256_slli_epi64,
        _mm256_srli_epi32, _mm256_srli_epi64, _mm256_storeu_ps, _mm512_cvtepu8_epi64, _mm512_i32gather_epi32,
        _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mul_ps, _mm512_or_si512, _mm512_permutexvar_ps, _mm512_set1_ps,
        _mm512_slli_epi64, _mm512_srli_epi32, _mm512_srli_epi64, _mm512_storeu_ps,
    };
    use std::ops::Range;

    use tonfall_blocks::{NF4, NF4_BLOCK, Nf4View};

    use super::super::level::Level;
    use super::super::tile::LANES;

    /// Dequantizes values from `start` on. `start` and the length are multiples of 16; the level is AVX2 or higher.
    pub(super) fn read(level: Level, view: &Nf4View<'_>, start: usize, out: &mut [f32]) {
        assert!(start.is_multiple_of(LANES) && out.len().is_multiple_of(LANES));
        let codes = &view.codes()[start / 2..][..out.len() / 2];
        let mut element = start;
        let (mut codes, mut out) = (codes, out);
        while !out.is_empty() {
            let block = element / NF4_BLOCK;
            let len = ((block + 1) * NF4_BLOCK - element).min(out.len());
            let (now, later) = std::mem::take(&mut out).split_at_mut(len);
            let (codes_now, scale) = (&codes[..len / 2], view.block_scale(block));
            // SAFETY: the level proves that the processor has the instructions.
            unsafe {
                match level {
                    Level::Avx2 => look_up_avx2(codes_now, scale, now),
                    _ => look_up(codes_now, scale, now),
                }
            }
            (codes, out, element) = (&codes[len / 2..], later, element + len);
        }
    }

    #[target_feature(enable = "avx512f")]
    fn look_up(codes: &[u8], scale: f32, out: &mut [f32]) {
        // SAFETY: eight bytes hold sixteen codes; both slices are read and written in whole chunks.
        unsafe {
            let table = _mm512_mul_ps(_mm512_loadu_ps(NF4.as_ptr()), _mm512_set1_ps(scale));
            for (codes, out) in codes.as_chunks::<8>().0.iter().zip(out.as_chunks_mut::<LANES>().0) {
                let bytes = _mm512_cvtepu8_epi64(_mm_loadl_epi64(codes.as_ptr().cast::<__m128i>()));
                // The lower lane of each pair takes the high nibble. The permute reads only the low four bits.
                let indices = _mm512_or_si512(_mm512_srli_epi64::<4>(bytes), _mm512_slli_epi64::<32>(bytes));
                _mm512_storeu_ps(out.as_mut_ptr(), _mm512_permutexvar_ps(indices, table));
            }
        }
    }

    /// The sixteen values in two registers.
    struct Halves(__m256, __m256);

    impl Halves {
        #[inline]
        #[target_feature(enable = "avx2")]
        fn scaled(scale: f32) -> Self {
            // SAFETY: sixteen values.
            let [low, high] = unsafe { [_mm256_loadu_ps(NF4.as_ptr()), _mm256_loadu_ps(NF4.as_ptr().add(8))] };
            let scale = _mm256_set1_ps(scale);
            Self(_mm256_mul_ps(low, scale), _mm256_mul_ps(high, scale))
        }

        /// The values of eight codes, each in the low four bits of a lane. Three bits select within a half, the fourth selects
        /// the half.
        #[inline]
        #[target_feature(enable = "avx2")]
        fn of(&self, codes: __m256i) -> __m256 {
            let (low, high) = (_mm256_permutevar8x32_ps(self.0, codes), _mm256_permutevar8x32_ps(self.1, codes));
            _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32::<28>(codes)))
        }
    }

    #[target_feature(enable = "avx2")]
    fn look_up_avx2(codes: &[u8], scale: f32, out: &mut [f32]) {
        let values = Halves::scaled(scale);
        for (codes, out) in codes.as_chunks::<4>().0.iter().zip(out.as_chunks_mut::<8>().0) {
            let bytes = _mm256_cvtepu8_epi64(_mm_cvtsi32_si128(i32::from_le_bytes(*codes)));
            let codes = _mm256_or_si256(_mm256_srli_epi64::<4>(bytes), _mm256_slli_epi64::<32>(bytes));
            // SAFETY: eight values.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr(), values.of(codes)) };
        }
    }

    /// See [`super::Stored::read_transposed`]. `cols`, `column` and `depth` are multiples of 64; the level is AVX2 or higher.
    #[expect(clippy::too_many_arguments, reason = "a rectangle and its destination")]
    pub(super) fn read_transposed(
        level: Level,
        view: &Nf4View<'_>,
        cols: usize,
        rows: Range<usize>,
        column: usize,
        depth: usize,
        to: &mut [f32],
        to_stride: usize,
    ) {
        assert!(cols.is_multiple_of(64) && column.is_multiple_of(64) && depth.is_multiple_of(64));
        assert!(column + depth <= cols && rows.end * cols <= view.len() && !rows.is_empty());
        assert!(depth == 0 || to.len() >= (depth - 1) * to_stride + LANES);
        let first = rows.start * cols + column;
        let mut offsets = [0i32; LANES];
        for (r, offset) in offsets.iter_mut().enumerate().take(rows.len()) {
            *offset = i32::try_from(r * cols / 2).expect("the caller checked `cols`");
        }
        for k in (0..depth).step_by(NF4_BLOCK) {
            // Rows beyond the last read the first row and are scaled to zero.
            let mut scales = [0.0f32; LANES];
            for (r, scale) in scales.iter_mut().enumerate().take(rows.len()) {
                *scale = view.block_scale((first + r * cols + k) / NF4_BLOCK);
            }
            let codes = &view.codes()[(first + k) / 2..];
            // SAFETY: the level proves that the processor has the instructions. Every row has 32 more bytes of codes, and the
            // assertion above checks `to`.
            unsafe {
                let (codes, to) = (codes.as_ptr(), to.as_mut_ptr().add(k * to_stride));
                match level {
                    Level::Avx2 => block_avx2(codes, &offsets, &scales, to, to_stride),
                    _ => block(codes, &offsets, &scales, to, to_stride),
                }
            }
        }
    }

    /// Calls `column!(code number, first bit)` for each of the eight codes in four little-endian bytes.
    macro_rules! eight_columns {
        ($column:ident) => {
            $column!(0, 4);
            $column!(1, 0);
            $column!(2, 12);
            $column!(3, 8);
            $column!(4, 20);
            $column!(5, 16);
            $column!(6, 28);
            $column!(7, 24);
        };
    }

    /// 64 columns of 16 rows.
    #[target_feature(enable = "avx2")]
    unsafe fn block_avx2(
        codes: *const u8,
        offsets: &[i32; LANES],
        scales: &[f32; LANES],
        to: *mut f32,
        to_stride: usize,
    ) {
        let values = Halves::scaled(1.0);
        for half in [0, 8] {
            // SAFETY: the caller's promise.
            unsafe {
                let scales = _mm256_loadu_ps(scales.as_ptr().add(half));
                let offsets = _mm256_loadu_si256(offsets.as_ptr().add(half).cast());
                for eight in 0..8 {
                    let codes = _mm256_i32gather_epi32::<1>(codes.add(4 * eight).cast(), offsets);
                    let to = to.add(8 * eight * to_stride + half);
                    macro_rules! column {
                        ($k:literal, $shift:literal) => {
                            let values = values.of(_mm256_srli_epi32::<$shift>(codes));
                            _mm256_storeu_ps(to.add($k * to_stride), _mm256_mul_ps(values, scales));
                        };
                    }
                    eight_columns!(column);
                }
            }
        }
    }

    /// 64 columns of 16 rows.
    #[target_feature(enable = "avx512f")]
    unsafe fn block(codes: *const u8, offsets: &[i32; LANES], scales: &[f32; LANES], to: *mut f32, to_stride: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let table = _mm512_loadu_ps(NF4.as_ptr());
            let scales = _mm512_loadu_ps(scales.as_ptr());
            let offsets = _mm512_loadu_si512(offsets.as_ptr().cast());
            for eight in 0..8 {
                // Four bytes, eight codes, of each row.
                let codes = _mm512_i32gather_epi32::<1>(offsets, codes.add(4 * eight).cast());
                let to = to.add(8 * eight * to_stride);
                macro_rules! column {
                    ($k:literal, $shift:literal) => {
                        let values = _mm512_permutexvar_ps(_mm512_srli_epi32::<$shift>(codes), table);
                        _mm512_storeu_ps(to.add($k * to_stride), _mm512_mul_ps(values, scales));
                    };
                }
                eight_columns!(column);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tonfall_blocks::{byte_len, quantize_nf4};

    use super::*;

    fn stored_bytes(format: Format, rows: usize, cols: usize) -> Vec<u8> {
        let values: Vec<f32> = (0..rows * cols).map(|i| ((i * 37 % 101) as f32 - 50.0) / 64.0).collect();
        match format {
            Format::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Format::Nf4 => quantize_nf4(&values),
            // Any bytes are valid numbers in these formats. Cleared high bits keep the exponents small.
            _ => (0..byte_len(format, rows, cols)).map(|i| (i * 29 % 251) as u8 & 0x3b).collect(),
        }
    }

    #[test]
    fn every_level_is_bit_identical_to_the_reference() {
        for format in Format::ALL {
            let (rows, cols) = (20, 512);
            let bytes = stored_bytes(format, rows, cols);
            let stored = Stored::new(&bytes, format, rows, cols);
            for level in Level::available() {
                for (start, len) in [(0, 10240), (16, 96), (512, 512), (1, 5), (130, 77), (100, 64), (10239, 1)] {
                    let (mut got, mut want) = (vec![0.0; len], vec![0.0; len]);
                    stored.read(level, start, &mut got);
                    tonfall_blocks::dequantize(format, &bytes, rows, cols, start, &mut want);
                    assert_eq!(got, want, "{format} {level:?} {start}+{len}");
                }
            }
        }
    }

    #[test]
    fn nf4_read_transposed_equals_the_reference() {
        let (rows, cols) = (21, 192);
        let bytes = stored_bytes(Format::Nf4, rows, cols);
        let stored = Stored::new(&bytes, Format::Nf4, rows, cols);
        let mut want = vec![0.0; rows * cols];
        tonfall_blocks::dequantize(Format::Nf4, &bytes, rows, cols, 0, &mut want);
        for level in Level::available() {
            for (row, column, depth) in [(0, 0, 192), (16, 64, 128), (5, 128, 64)] {
                let mut to = vec![f32::NAN; depth * 20];
                if stored.read_transposed(level, row, column, depth, &mut to, 20) {
                    for (r, k) in (0..16).flat_map(|r| (0..depth).map(move |k| (r, k))) {
                        let value = if row + r < rows { want[(row + r) * cols + column + k] } else { 0.0 };
                        assert_eq!(to[k * 20 + r], value, "row {r} column {k}");
                    }
                }
            }
        }
    }
}

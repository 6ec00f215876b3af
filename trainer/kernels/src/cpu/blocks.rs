//! Dequantization of ggml's blocks and of half-precision numbers with AVX2, 32 values at a time.
//!
//! Responsible for: values bit-identical to those of `tonfall_blocks::dequantize`, which has the layouts. Products of codes
//! and scales are exact in f32, so a fused multiply-add rounds like a product and a sum.
//! Must not depend on: the shape of the matrix.
//!
//! Code with vector instructions uses loops instead of closures: if a closure is not inlined, each instruction becomes a function call.
#![expect(unsafe_code, reason = "raw addresses and vector instructions")]

use std::arch::x86_64::{
    __m256, __m256i, _mm_cvtph_ps, _mm_cvtsi32_si128, _mm_cvtss_f32, _mm_loadl_epi64, _mm_loadu_si128,
    _mm256_and_si256, _mm256_castsi256_ps, _mm256_cmpeq_epi32, _mm256_cvtepi8_epi32, _mm256_cvtepi32_ps,
    _mm256_cvtepu8_epi32, _mm256_cvtepu16_epi32, _mm256_cvtph_ps, _mm256_fmadd_ps, _mm256_mul_ps, _mm256_or_si256,
    _mm256_set1_epi32, _mm256_set1_ps, _mm256_setr_epi32, _mm256_setzero_ps, _mm256_setzero_si256, _mm256_slli_epi32,
    _mm256_srl_epi32, _mm256_srli_epi32, _mm256_srlv_epi32, _mm256_storeu_ps, _mm256_sub_epi32,
};

use tonfall_blocks::Format;

use super::level::Level;

/// 32 consecutive values.
pub(super) type Values = [__m256; 4];

/// A format whose blocks are decoded in parts of 32 values. The functions are inlined into code with AVX2, FMA and F16C.
pub(super) trait Packed {
    /// Bytes of a block.
    const BYTES: usize;
    /// Parts of a block.
    const PARTS: usize;
    /// What the parts of a block have in common.
    type Header: Copy;
    /// # Safety
    /// `block` has [`Packed::BYTES`] bytes, and the processor has the instructions; likewise below.
    unsafe fn header(block: *const u8) -> Self::Header;
    /// # Safety
    /// See above; `part` is less than [`Packed::PARTS`].
    unsafe fn part(block: *const u8, header: Self::Header, part: usize) -> Values;
}

/// Runs `$run!(type)` with the [`Packed`] type of a format, or `$otherwise`.
macro_rules! with_packed {
    ($format:expr, $run:ident, $otherwise:expr) => {
        match $format {
            Format::F16 => $run!(F16),
            Format::Bf16 => $run!(Bf16),
            Format::Q8_0 => $run!(Q8),
            Format::Q4_0 => $run!(Q4),
            Format::Q4_1 => $run!(Q4WithMin),
            Format::Q5_0 => $run!(Q5),
            Format::Q5_1 => $run!(Q5WithMin),
            Format::Q4K => $run!(Q4K),
            Format::Q5K => $run!(Q5K),
            Format::Q6K => $run!(Q6K),
            Format::F32 | Format::Nf4 => $otherwise,
        }
    };
}
pub(super) use with_packed;

/// Dequantizes the blocks in `bytes`. Returns false without writing if the level or the format is another one, or the lengths
/// aren't those of whole blocks.
pub(super) fn read(level: Level, format: Format, bytes: &[u8], out: &mut [f32]) -> bool {
    if level < Level::Avx2 {
        return false;
    }
    macro_rules! run {
        ($packed:ty) => {{
            let blocks = bytes.len() / <$packed>::BYTES;
            let whole = bytes.len().is_multiple_of(<$packed>::BYTES) && out.len() == blocks * <$packed>::PARTS * 32;
            if whole {
                // SAFETY: the level proves that the processor has the instructions; the lengths are those of whole blocks.
                unsafe { store::<$packed>(bytes.as_ptr(), blocks, out.as_mut_ptr()) };
            }
            whole
        }};
    }
    with_packed!(format, run, false)
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn store<P: Packed>(bytes: *const u8, blocks: usize, out: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        for index in 0..blocks {
            let block = bytes.add(index * P::BYTES);
            let header = P::header(block);
            for part in 0..P::PARTS {
                let out = out.add((index * P::PARTS + part) * 32);
                for (i, eight) in P::part(block, header, part).into_iter().enumerate() {
                    _mm256_storeu_ps(out.add(8 * i), eight);
                }
            }
        }
    }
}

/// The f16 at an address.
#[inline(always)]
unsafe fn half(at: *const u8) -> f32 {
    // SAFETY: the caller's promise; likewise below.
    unsafe { _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(at.cast::<u16>().read_unaligned())))) }
}

/// Eight unsigned bytes.
#[inline(always)]
unsafe fn bytes(at: *const u8) -> __m256i {
    unsafe { _mm256_cvtepu8_epi32(_mm_loadl_epi64(at.cast())) }
}

#[inline(always)]
unsafe fn and(a: __m256i, mask: i32) -> __m256i {
    unsafe { _mm256_and_si256(a, _mm256_set1_epi32(mask)) }
}

/// `codes · d + m`.
#[inline(always)]
unsafe fn scaled(codes: [__m256i; 4], d: f32, m: f32) -> Values {
    unsafe {
        let (d, m) = (_mm256_set1_ps(d), _mm256_set1_ps(m));
        let mut values = [d; 4];
        for (value, codes) in values.iter_mut().zip(codes) {
            *value = _mm256_fmadd_ps(_mm256_cvtepi32_ps(codes), d, m);
        }
        values
    }
}

/// Thirty-two codes in sixteen bytes: 0 … 15 in the low nibbles, 16 … 31 in the high nibbles.
#[inline(always)]
unsafe fn nibbles(at: *const u8) -> [__m256i; 4] {
    unsafe {
        let (first, second) = (bytes(at), bytes(at.add(8)));
        [and(first, 15), and(second, 15), _mm256_srli_epi32::<4>(first), _mm256_srli_epi32::<4>(second)]
    }
}

/// [`nibbles`] with the fifth bits from the four bytes at `fifth`.
#[inline(always)]
unsafe fn five_bits(at: *const u8, fifth: *const u8) -> [__m256i; 4] {
    unsafe {
        let (mut codes, all) = (nibbles(at), _mm256_set1_epi32(fifth.cast::<i32>().read_unaligned()));
        let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        for (i, codes) in codes.iter_mut().enumerate() {
            let bits = _mm256_srlv_epi32(all, _mm256_or_si256(lanes, _mm256_set1_epi32(8 * i as i32)));
            *codes = _mm256_or_si256(*codes, _mm256_slli_epi32::<4>(and(bits, 1)));
        }
        codes
    }
}

/// 32 numbers of two bytes, of which `convert` converts eight.
macro_rules! dense {
    ($name:ident, $convert:ident) => {
        pub(super) struct $name;
        impl Packed for $name {
            const BYTES: usize = 64;
            const PARTS: usize = 1;
            type Header = ();
            #[inline(always)]
            unsafe fn header(_: *const u8) {}
            #[inline(always)]
            unsafe fn part(block: *const u8, (): (), _: usize) -> Values {
                unsafe {
                    let mut values = [_mm256_setzero_ps(); 4];
                    for (i, value) in values.iter_mut().enumerate() {
                        let eight = _mm_loadu_si128(block.add(16 * i).cast());
                        *value = $convert!(eight);
                    }
                    values
                }
            }
        }
    };
}

macro_rules! from_f16 {
    ($eight:ident) => {
        _mm256_cvtph_ps($eight)
    };
}

macro_rules! from_bf16 {
    ($eight:ident) => {
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32($eight)))
    };
}

dense!(F16, from_f16);
dense!(Bf16, from_bf16);

/// Blocks of 32 values: an f16 scale, an optional f16 minimum, and codes.
macro_rules! simple {
    ($name:ident, $bytes:literal, |$block:ident| ($d:expr, $m:expr), $codes:expr) => {
        pub(super) struct $name;
        impl Packed for $name {
            const BYTES: usize = $bytes;
            const PARTS: usize = 1;
            type Header = ();
            #[inline(always)]
            unsafe fn header(_: *const u8) {}
            #[inline(always)]
            unsafe fn part($block: *const u8, (): (), _: usize) -> Values {
                unsafe { scaled($codes, $d, $m) }
            }
        }
    };
}

// (code - 8) · d and (code - 16) · d are exact, so they equal code · d - 8 · d and code · d - 16 · d.
simple!(Q4, 18, |block| (half(block), -8.0 * half(block)), nibbles(block.add(2)));
simple!(Q4WithMin, 20, |block| (half(block), half(block.add(2))), nibbles(block.add(4)));
simple!(Q5, 22, |block| (half(block), -16.0 * half(block)), five_bits(block.add(6), block.add(2)));
simple!(Q5WithMin, 24, |block| (half(block), half(block.add(2))), five_bits(block.add(8), block.add(4)));

pub(super) struct Q8;

impl Packed for Q8 {
    const BYTES: usize = 34;
    const PARTS: usize = 1;
    type Header = ();
    #[inline(always)]
    unsafe fn header(_: *const u8) {}
    #[inline(always)]
    unsafe fn part(block: *const u8, (): (), _: usize) -> Values {
        unsafe {
            let d = _mm256_set1_ps(half(block));
            let mut values = [d; 4];
            for (i, value) in values.iter_mut().enumerate() {
                let codes = _mm256_cvtepi8_epi32(_mm_loadl_epi64(block.add(2 + 8 * i).cast()));
                *value = _mm256_mul_ps(_mm256_cvtepi32_ps(codes), d);
            }
            values
        }
    }
}

/// Scales and minima of the eight sub-blocks of Q4_K and Q5_K.
#[derive(Clone, Copy)]
pub(super) struct SubBlocks {
    d: [f32; 8],
    m: [f32; 8],
}

#[inline(always)]
unsafe fn sub_blocks(block: *const u8) -> SubBlocks {
    unsafe {
        let (d, dmin) = (half(block), half(block.add(2)));
        // Twelve bytes: six bits of each scale and minimum; see `tonfall_blocks`.
        let word = |at: usize| block.add(4 + at).cast::<u32>().read_unaligned();
        let (low, high, rest) = (word(0), word(4), word(8));
        let (six, four, two) = (0x3f3f_3f3f, 0x0f0f_0f0f, 0x3030_3030);
        let scales = [low & six, (rest & four) | (low >> 2 & two)];
        let minima = [high & six, (rest >> 4 & four) | (high >> 2 & two)];
        let value = |words: [u32; 2], j: usize| f32::from((words[j / 4] >> (8 * (j % 4))) as u8);
        SubBlocks {
            d: std::array::from_fn(|j| d * value(scales, j)),
            m: std::array::from_fn(|j| -(dmin * value(minima, j))),
        }
    }
}

/// The codes of sub-block `j`: 32 nibbles, low ones for even `j`.
#[inline(always)]
unsafe fn k_nibbles(codes: *const u8, j: usize) -> [__m256i; 4] {
    unsafe {
        let at = codes.add(j / 2 * 32);
        let (mut codes, shift) = ([_mm256_setzero_si256(); 4], _mm_cvtsi32_si128(4 * (j % 2) as i32));
        for (i, codes) in codes.iter_mut().enumerate() {
            *codes = and(_mm256_srl_epi32(bytes(at.add(8 * i)), shift), 15);
        }
        codes
    }
}

pub(super) struct Q4K;

impl Packed for Q4K {
    const BYTES: usize = 144;
    const PARTS: usize = 8;
    type Header = SubBlocks;
    #[inline(always)]
    unsafe fn header(block: *const u8) -> SubBlocks {
        unsafe { sub_blocks(block) }
    }
    #[inline(always)]
    unsafe fn part(block: *const u8, header: SubBlocks, j: usize) -> Values {
        unsafe { scaled(k_nibbles(block.add(16), j), header.d[j], header.m[j]) }
    }
}

pub(super) struct Q5K;

impl Packed for Q5K {
    const BYTES: usize = 176;
    const PARTS: usize = 8;
    type Header = SubBlocks;
    #[inline(always)]
    unsafe fn header(block: *const u8) -> SubBlocks {
        unsafe { sub_blocks(block) }
    }
    #[inline(always)]
    unsafe fn part(block: *const u8, header: SubBlocks, j: usize) -> Values {
        unsafe {
            let mut codes = k_nibbles(block.add(48), j);
            // The fifth bits of sub-block `j` are bit `j` of 32 bytes.
            let bit = _mm256_set1_epi32(1 << j);
            for (i, codes) in codes.iter_mut().enumerate() {
                let set = _mm256_cmpeq_epi32(_mm256_and_si256(bytes(block.add(16 + 8 * i)), bit), bit);
                *codes = _mm256_or_si256(*codes, and(set, 16));
            }
            scaled(codes, header.d[j], header.m[j])
        }
    }
}

pub(super) struct Q6K;

impl Packed for Q6K {
    const BYTES: usize = 210;
    const PARTS: usize = 8;
    type Header = f32;
    #[inline(always)]
    unsafe fn header(block: *const u8) -> f32 {
        unsafe { half(block.add(208)) }
    }
    #[inline(always)]
    unsafe fn part(block: *const u8, d: f32, part: usize) -> Values {
        unsafe {
            let (half, k) = (part / 4, part % 4);
            let (low, high) = (block.add(64 * half + 32 * (k % 2)), block.add(128 + 32 * half));
            let (low_shift, high_shift) = (_mm_cvtsi32_si128(4 * (k / 2) as i32), _mm_cvtsi32_si128(2 * k as i32));
            let mut values = [_mm256_setzero_ps(); 4];
            for (i, value) in values.iter_mut().enumerate() {
                let scale = d * f32::from(block.add(192 + 8 * half + 2 * k + i / 2).cast::<i8>().read());
                let low = and(_mm256_srl_epi32(bytes(low.add(8 * i)), low_shift), 15);
                let high = and(_mm256_srl_epi32(bytes(high.add(8 * i)), high_shift), 3);
                let code = _mm256_or_si256(low, _mm256_slli_epi32::<4>(high));
                let code = _mm256_cvtepi32_ps(_mm256_sub_epi32(code, _mm256_set1_epi32(32)));
                *value = _mm256_mul_ps(code, _mm256_set1_ps(scale));
            }
            values
        }
    }
}

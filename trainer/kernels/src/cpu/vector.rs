//! Vectors of floats of a level, for loops that are written once.
//!
//! Responsible for: the operations that the loops of decoding need.
//! Must not depend on: the loops.
#![expect(unsafe_code, reason = "raw addresses and vector instructions")]

/// A vector of floats. Functions are inlined into code of the level that has the instructions.
pub(super) trait Vector: Copy {
    const LANES: usize;
    unsafe fn zero() -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn splat(value: f32) -> Self;
    unsafe fn multiply_add(self, other: Self, sum: Self) -> Self;
    /// Adds the products of 32 values and 32 floats at `x` to `sum`, in ascending order.
    #[cfg(target_arch = "x86_64")]
    unsafe fn multiply_add_32(values: [std::arch::x86_64::__m256; 4], x: *const f32, sum: Self) -> Self;
    /// The sum of all lanes, in a fixed order.
    unsafe fn sum(self) -> f32;
}

/// Eight lanes in any registers.
#[derive(Clone, Copy)]
pub(super) struct Portable([f32; 8]);

impl Vector for Portable {
    const LANES: usize = 8;
    #[inline(always)]
    unsafe fn zero() -> Self {
        Self([0.0; 8])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { from.cast::<[f32; 8]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; 8])
    }
    #[inline(always)]
    unsafe fn multiply_add(self, other: Self, sum: Self) -> Self {
        use super::level::{PORTABLE_FMA, fma};
        Self(std::array::from_fn(|lane| fma::<PORTABLE_FMA>(self.0[lane], other.0[lane], sum.0[lane])))
    }
    #[cfg(target_arch = "x86_64")]
    unsafe fn multiply_add_32(_: [std::arch::x86_64::__m256; 4], _: *const f32, _: Self) -> Self {
        unreachable!("a portable level has no such values")
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        super::reduce::pairwise(self.0)
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256, __m512, _mm_add_ps, _mm_add_ss, _mm_cvtss_f32, _mm_movehl_ps, _mm_shuffle_ps, _mm256_castps256_ps128,
        _mm256_extractf128_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
        _mm512_castps256_ps512, _mm512_fmadd_ps, _mm512_insertf32x8, _mm512_loadu_ps, _mm512_reduce_add_ps,
        _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
    };

    use super::Vector;

    impl Vector for __m256 {
        const LANES: usize = 8;
        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: the caller's promise; likewise below.
            unsafe { _mm256_setzero_ps() }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            unsafe { _mm256_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe { _mm256_storeu_ps(to, self) }
        }
        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            unsafe { _mm256_set1_ps(value) }
        }
        #[inline(always)]
        unsafe fn multiply_add(self, other: Self, sum: Self) -> Self {
            unsafe { _mm256_fmadd_ps(self, other, sum) }
        }
        #[inline(always)]
        unsafe fn multiply_add_32(values: [__m256; 4], x: *const f32, mut sum: Self) -> Self {
            unsafe {
                for (i, values) in values.into_iter().enumerate() {
                    sum = _mm256_fmadd_ps(values, _mm256_loadu_ps(x.add(8 * i)), sum);
                }
                sum
            }
        }
        #[inline(always)]
        unsafe fn sum(self) -> f32 {
            unsafe {
                let four = _mm_add_ps(_mm256_castps256_ps128(self), _mm256_extractf128_ps::<1>(self));
                let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
            }
        }
    }

    impl Vector for __m512 {
        const LANES: usize = 16;
        #[inline(always)]
        unsafe fn zero() -> Self {
            unsafe { _mm512_setzero_ps() }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            unsafe { _mm512_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe { _mm512_storeu_ps(to, self) }
        }
        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            unsafe { _mm512_set1_ps(value) }
        }
        #[inline(always)]
        unsafe fn multiply_add(self, other: Self, sum: Self) -> Self {
            unsafe { _mm512_fmadd_ps(self, other, sum) }
        }
        #[inline(always)]
        unsafe fn multiply_add_32(values: [__m256; 4], x: *const f32, mut sum: Self) -> Self {
            unsafe {
                for (i, [low, high]) in values.as_chunks::<2>().0.iter().enumerate() {
                    let values = _mm512_insertf32x8::<1>(_mm512_castps256_ps512(*low), *high);
                    sum = _mm512_fmadd_ps(values, _mm512_loadu_ps(x.add(16 * i)), sum);
                }
                sum
            }
        }
        #[inline(always)]
        unsafe fn sum(self) -> f32 {
            unsafe { _mm512_reduce_add_ps(self) }
        }
    }
}

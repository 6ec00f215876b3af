//! Attention of single queries, for decoding: scores and weighted sums over the keys and values of one head.
//!
//! Responsible for: loops whose order depends only on the length of a head and the number of keys.
//! Must not depend on: masks, caches, threads.
#![expect(unsafe_code, reason = "raw addresses and vector instructions")]

use super::level::Level;
use super::vector::{Portable, Vector};

/// Vectors of a head that are summed at once.
const VECTORS: usize = 8;

/// Keys or values of one head: row `t` is at `values[t * stride ..]`.
#[derive(Clone, Copy)]
pub(crate) struct HeadRows<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) stride: usize,
    pub(crate) count: usize,
}

impl HeadRows<'_> {
    fn check(&self, head_dim: usize) {
        let end = self.count.checked_sub(1).map_or(0, |last| last * self.stride + head_dim);
        assert!(end <= self.values.len(), "the rows of a head are too short");
    }
}

/// Defines a function that runs a generic loop with the vectors of the level.
macro_rules! with_vectors {
    ($(#[$attribute:meta])* fn $name:ident = $generic:ident($($argument:ident: $type:ty),*)) => {
        $(#[$attribute])*
        unsafe fn $name(level: Level, $($argument: $type),*) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn avx2($($argument: $type),*) {
                // SAFETY: the caller's promise.
                unsafe { $generic::<std::arch::x86_64::__m256>($($argument),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
            unsafe fn avx512($($argument: $type),*) {
                // SAFETY: the caller's promise.
                unsafe { $generic::<std::arch::x86_64::__m512>($($argument),*) }
            }
            // SAFETY: the caller's promise; the level proves that the processor has the instructions.
            unsafe {
                match level {
                    Level::Portable => $generic::<Portable>($($argument),*),
                    #[cfg(target_arch = "x86_64")]
                    Level::Avx2 => avx2($($argument),*),
                    #[cfg(target_arch = "x86_64")]
                    Level::Avx512 | Level::Amx => avx512($($argument),*),
                }
            }
        }
    };
}

/// `scores[t] = scale · q·k_t`.
pub(crate) fn scores(level: Level, q: &[f32], k: HeadRows<'_>, scale: f32, scores: &mut [f32]) {
    k.check(q.len());
    assert_eq!(scores.len(), k.count, "one score for each key");
    // SAFETY: the assertions above.
    unsafe { all_scores(level, q, k, scale, scores) }
}

/// `out = Σ_t p[t] · v_t`.
pub(crate) fn weighted_sum(level: Level, p: &[f32], v: HeadRows<'_>, out: &mut [f32]) {
    v.check(out.len());
    assert_eq!(p.len(), v.count, "one weight for each value");
    // SAFETY: the assertions above.
    unsafe { all_sums(level, p, v, out) }
}

with_vectors! {
    /// # Safety
    /// Every key has the length of `q`.
    fn all_scores = generic_scores(q: &[f32], k: HeadRows<'_>, scale: f32, scores: &mut [f32])
}

with_vectors! {
    /// # Safety
    /// Every value has the length of `out`.
    fn all_sums = generic_sums(p: &[f32], v: HeadRows<'_>, out: &mut [f32])
}

#[inline(always)]
unsafe fn generic_scores<V: Vector>(q: &[f32], k: HeadRows<'_>, scale: f32, scores: &mut [f32]) {
    let whole = q.len() / V::LANES * V::LANES;
    for (t, score) in scores.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        unsafe {
            let key = k.values.as_ptr().add(t * k.stride);
            let mut sums = V::zero();
            let mut i = 0;
            while i < whole {
                sums = V::load(q.as_ptr().add(i)).multiply_add(V::load(key.add(i)), sums);
                i += V::LANES;
            }
            let mut sum = sums.sum();
            while i < q.len() {
                sum += q[i] * *key.add(i);
                i += 1;
            }
            *score = scale * sum;
        }
    }
}

#[inline(always)]
unsafe fn generic_sums<V: Vector>(p: &[f32], v: HeadRows<'_>, out: &mut [f32]) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut first = 0;
        while first + V::LANES <= out.len() {
            let count = ((out.len() - first) / V::LANES).min(VECTORS);
            let (values, to) = (v.values.as_ptr().add(first), out.as_mut_ptr().add(first));
            match count {
                VECTORS => some_sums::<V, VECTORS>(p, values, v.stride, to),
                4.. => some_sums::<V, 4>(p, values, v.stride, to),
                _ => some_sums::<V, 1>(p, values, v.stride, to),
            }
            first += V::LANES * if count < 4 { 1 } else { count / 4 * 4 };
        }
        for (i, out) in out.iter_mut().enumerate().skip(first) {
            *out = p.iter().enumerate().map(|(t, p)| p * *v.values.as_ptr().add(t * v.stride + i)).sum();
        }
    }
}

/// `N` vectors of the weighted sum.
#[inline(always)]
unsafe fn some_sums<V: Vector, const N: usize>(p: &[f32], values: *const f32, stride: usize, to: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [V::zero(); N];
        for (t, p) in p.iter().enumerate() {
            let (p, row) = (V::splat(*p), values.add(t * stride));
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = p.multiply_add(V::load(row.add(i * V::LANES)), *sum);
            }
        }
        for (i, sum) in sums.into_iter().enumerate() {
            sum.store(to.add(i * V::LANES));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::values;
    use super::*;

    #[test]
    fn scores_and_sums_equal_their_definitions() {
        for (dim, keys) in [(64, 1), (64, 300), (8, 17), (5, 9), (128, 33), (100, 40), (256, 12), (24, 3)] {
            let stride = dim + 3;
            let (q, rows, p) = (values(dim, 1), values(keys * stride, 2), values(keys, 3));
            let head = HeadRows { values: &rows, stride, count: keys };
            for level in Level::available() {
                let (mut found, mut sums) = (vec![f32::NAN; keys], vec![f32::NAN; dim]);
                scores(level, &q, head, 0.5, &mut found);
                weighted_sum(level, &p, head, &mut sums);
                for (t, found) in found.iter().enumerate() {
                    let want: f64 = (0..dim).map(|i| f64::from(q[i]) * f64::from(rows[t * stride + i])).sum();
                    assert!((f64::from(*found) - 0.5 * want).abs() < 1e-4, "{level:?} {dim} {t}: {found} for {want}");
                }
                for (i, found) in sums.iter().enumerate() {
                    let want: f64 = (0..keys).map(|t| f64::from(p[t]) * f64::from(rows[t * stride + i])).sum();
                    assert!((f64::from(*found) - want).abs() < 1e-4, "{level:?} {dim} {i}: {found} for {want}");
                }
            }
        }
    }
}

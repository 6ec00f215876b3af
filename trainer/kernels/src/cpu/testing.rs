//! References for tests of matrix products.

/// Numbers between -1 and 1.
pub(super) fn values(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

/// `A·B` of `m` by `n` by `k`: `(Σ, Σ of magnitudes)` in f64.
pub(super) fn naive(
    m: usize,
    n: usize,
    k: usize,
    a: impl Fn(usize, usize) -> f32,
    b: impl Fn(usize, usize) -> f32,
) -> Vec<(f64, f64)> {
    let mut out = Vec::with_capacity(m * n);
    for i in 0..m {
        for j in 0..n {
            let terms = (0..k).map(|l| f64::from(a(i, l)) * f64::from(b(l, j)));
            out.push(terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs())));
        }
    }
    out
}

pub(super) fn assert_close(got: &[f32], want: &[(f64, f64)], what: &str) {
    for (i, (got, (want, size))) in got.iter().zip(want).enumerate() {
        assert!((f64::from(*got) - want).abs() <= 1e-6 * size + 1e-7, "{what} element {i}: {got} for {want}");
    }
}

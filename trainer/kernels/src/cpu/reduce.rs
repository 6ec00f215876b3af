//! Reductions over slices in a fixed order that can be vectorised: 16 or 64 partial sums, added pairwise.

use super::level::{Level, fma, multiversion};
use super::memory::Shared;
use super::threads;

const LANES: usize = 16;

/// Adds partial sums pairwise.
#[inline(always)]
pub(crate) fn pairwise<const N: usize>(sums: [f32; N]) -> f32 {
    let mut sums = sums;
    let mut len = N;
    while len > 1 {
        len /= 2;
        for i in 0..len {
            sums[i] += sums[i + len];
        }
    }
    sums[0]
}

/// Σ f(i) for i below `len`, with 16 partial sums.
#[inline(always)]
pub(crate) fn sum_of(len: usize, f: impl Fn(usize) -> f32) -> f32 {
    let mut sums = [0.0; LANES];
    let whole = len / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        for (lane, sum) in sums.iter_mut().enumerate() {
            *sum += f(start + lane);
        }
    }
    let rest: f32 = (whole..len).map(&f).sum();
    pairwise(sums) + rest
}

/// Σ a · b.
#[inline(always)]
pub(crate) fn dot_of<const FMA: bool>(a: &[f32], b: &[f32]) -> f32 {
    const WIDE: usize = 4 * LANES;
    let (a_wide, a_rest) = a.as_chunks::<WIDE>();
    let (b_wide, b_rest) = b.as_chunks::<WIDE>();
    let mut sums = [0.0; WIDE];
    for (a, b) in a_wide.iter().zip(b_wide) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum = fma::<FMA>(*a, *b, *sum);
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    pairwise(sums) + rest
}

multiversion! {
    pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
        dot_of::<FMA>(a, b)
    }
}

multiversion! {
    fn add(values: &[f32], sums: &mut [f32]) {
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum += value;
        }
    }
}

/// Rows per partial sum of [`column_sums`]. It is fixed, so that the result doesn't depend on the number of threads.
const SUMMED_ROWS: usize = 64;

/// The sum of all rows of a matrix with `columns` columns. `add_row(row, sums)` adds one row to partial sums.
pub(crate) fn column_sums_with(
    rows: usize,
    columns: usize,
    add_row: impl Fn(usize, &mut [f32]) + Sync + Send,
) -> Vec<f32> {
    let pieces = rows.div_ceil(SUMMED_ROWS);
    let mut partial = vec![0.0; pieces * columns];
    let out = Shared::new(&mut partial);
    threads::each(pieces, |piece| {
        #[expect(unsafe_code, reason = "each task has its own partial sums")]
        // SAFETY: each piece writes its own row of partial sums.
        let sums = unsafe { out.part(piece * columns, columns) };
        for row in piece * SUMMED_ROWS..rows.min((piece + 1) * SUMMED_ROWS) {
            add_row(row, sums);
        }
    });
    let mut sums = vec![0.0; columns];
    for piece in partial.chunks_exact(columns.max(1)) {
        add(Level::best(), piece, &mut sums);
    }
    sums
}

/// The sum of all rows of a matrix, `[columns]`.
pub(crate) fn column_sums(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let level = Level::best();
    column_sums_with(rows, columns, |row, sums| add(level, &values[row * columns..][..columns], sums))
}

multiversion! {
    fn squares(values: &[f32]) -> f64 {
        let mut sums = [0.0f64; LANES];
        let (whole, rest) = values.as_chunks::<LANES>();
        for values in whole {
            for (sum, value) in sums.iter_mut().zip(values) {
                *sum += f64::from(*value) * f64::from(*value);
            }
        }
        rest.iter().fold(sums.iter().sum(), |sum, value| sum + f64::from(*value) * f64::from(*value))
    }
}

/// Σ x² in f64.
pub(crate) fn square_sum(values: &[f32]) -> f64 {
    const PIECE: usize = 1 << 16;
    let level = Level::best();
    let mut partial = vec![0.0; values.len().div_ceil(PIECE)];
    let out = Shared::new(&mut partial);
    threads::each(out.len(), |piece| {
        let values = &values[piece * PIECE..values.len().min((piece + 1) * PIECE)];
        #[expect(unsafe_code, reason = "each task has its own partial sum")]
        // SAFETY: each piece writes its own partial sum.
        let sum = unsafe { out.part(piece, 1) };
        sum[0] = squares(level, values);
    });
    partial.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_equal_their_definitions() {
        for len in [0, 1, 15, 16, 17, 63, 64, 65, 200, 70_000] {
            let a: Vec<f32> = (0..len).map(|i| (i % 7) as f32 - 3.0).collect();
            let b: Vec<f32> = (0..len).map(|i| (i % 5) as f32 - 2.0).collect();
            let want: f64 = a.iter().zip(&b).map(|(a, b)| f64::from(a * b)).sum();
            for level in Level::available() {
                assert_eq!(f64::from(dot(level, &a, &b)), want, "small integers are exact");
            }
            assert_eq!(square_sum(&a), a.iter().map(|a| f64::from(a * a)).sum::<f64>());
            assert_eq!(sum_of(len, |i| a[i]), a.iter().sum::<f32>());
        }
    }

    #[test]
    fn column_sums_equal_the_definition() {
        for (rows, columns) in [(1, 1), (63, 5), (64, 16), (65, 33), (300, 7), (0, 4)] {
            let values: Vec<f32> = (0..rows * columns).map(|i| (i % 11) as f32).collect();
            let want: Vec<f32> = (0..columns).map(|c| (0..rows).map(|r| values[r * columns + c]).sum()).collect();
            assert_eq!(column_sums(&values, rows, columns), want);
        }
    }
}

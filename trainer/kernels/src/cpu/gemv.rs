//! GEMV for decoding: `y = x·Wᵀ` for up to four rows of `x`. The time is that of reading `W` once.

use super::dequantize::Stored;
use super::level::Level;
use super::memory::{Shared, with_scratch};
use super::reduce::dot;
use super::threads;

/// Most rows of `x` for which this is faster than GEMM.
pub(crate) const MAX_ROWS: usize = 4;

/// `y[m, n] = Σ_k x[m, k] · w[n, k]`; `x` has `rows` rows.
pub(crate) fn product(level: Level, x: &[f32], rows: usize, w: Stored<'_>, y: &mut [f32]) {
    let (outputs, depth) = (w.rows, w.cols);
    assert!(x.len() == rows * depth && y.len() == rows * outputs, "the operands' sizes don't fit");
    let dense = w.as_f32();
    let piece = threads::rows_per_piece(outputs, depth);
    let y = Shared::new(y);
    threads::each(outputs.div_ceil(piece), |task| {
        with_scratch(depth, |decoded| {
            for n in task * piece..outputs.min((task + 1) * piece) {
                let row = match dense {
                    Some(values) => &values[n * depth..][..depth],
                    None => {
                        w.read(level, n * depth, decoded);
                        &*decoded
                    }
                };
                for m in 0..rows {
                    #[expect(unsafe_code, reason = "tasks write disjoint parts of one buffer")]
                    // SAFETY: no other task has column `n`.
                    let y = unsafe { y.part(m * outputs + n, 1) };
                    y[0] = dot(level, &x[m * depth..][..depth], row);
                }
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use tonfall_blocks::{Format, quantize_nf4};

    use super::*;

    #[test]
    fn equals_a_naive_product() {
        for (rows, outputs, depth) in [(1, 1, 1), (1, 300, 576), (4, 17, 33), (2, 1000, 64), (3, 5, 7)] {
            let dense: Vec<f32> = (0..outputs * depth).map(|i| ((i * 7 % 23) as f32 - 11.0) / 16.0).collect();
            let x: Vec<f32> = (0..rows * depth).map(|i| ((i * 5 % 19) as f32 - 9.0) / 8.0).collect();
            let f32_bytes: Vec<u8> = dense.iter().flat_map(|v| v.to_le_bytes()).collect();
            for (format, bytes) in [(Format::F32, f32_bytes), (Format::Nf4, quantize_nf4(&dense))] {
                let mut w = vec![0.0; outputs * depth];
                tonfall_blocks::dequantize(format, &bytes, outputs, depth, 0, &mut w);
                for level in Level::available() {
                    let mut y = vec![f32::NAN; rows * outputs];
                    product(level, &x, rows, Stored::new(&bytes, format, outputs, depth), &mut y);
                    for (i, y) in y.iter().enumerate() {
                        let (m, n) = (i / outputs, i % outputs);
                        let want: f32 = (0..depth).map(|k| x[m * depth + k] * w[n * depth + k]).sum();
                        assert!((y - want).abs() < 1e-4 * depth as f32, "{format} {y} for {want}");
                    }
                }
            }
        }
    }
}

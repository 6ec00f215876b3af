//! GEMM on AMX: the output is split into rectangles, one per task.
//!
//! Responsible for: the order of work within a rectangle. Its rows of the left operand are split into bf16 for up to 512 steps
//! of `k` and stay in the L2 cache. The panels of the right operand are packed as f32, split, and multiplied one by one.

use std::ops::Range;

use super::super::gemm::{Gemm, Output, Term, depth_blocks};
use super::super::level::Level;
use super::super::memory::with_scratch;
use super::split;
use super::tiles::{BLOCK, DEPTH, EDGE, OUTPUT, Sums, Tiles};

/// Most steps of `k` for which operands are split at once.
const SPLIT_DEPTH: usize = 512;
/// Most rows of a task's rectangle.
const PART_ROWS: usize = 256;
/// Columns of a panel.
const WIDTH: usize = 64;
/// Most columns of a task's rectangle. A format with longer blocks may exceed it.
const PART_COLUMNS: usize = 1024;

/// Whether AMX is faster than vector instructions: each split number must be multiplied often enough to pay for the split.
/// Measured on the shapes of SmolLM2-135M.
pub(crate) fn pays(terms: &[Term<'_>], rows: usize, columns: usize) -> bool {
    let depth = terms.iter().map(|term| term.depth).max().unwrap_or(0);
    let lines = terms.iter().all(|term| term.left.depth == 1 || term.depth <= 1);
    lines && rows >= 96 && columns >= 192 && depth >= 64
}

/// The size of a part if `whole` is split into `parts` at multiples of `unit`.
fn cut(whole: usize, parts: usize, unit: usize) -> usize {
    whole.div_ceil(unit).div_ceil(parts) * unit
}

/// Computes a GEMM for which [`pays`] is true. `each` runs the tasks on `threads` threads.
///
/// # Panics
/// At a level other than AMX, or when an operand or the output is too small.
pub(crate) fn run(gemm: &Gemm<'_>, threads: usize, each: impl FnOnce(usize, &(dyn Fn(usize) + Sync + Send))) {
    let Gemm { level, terms, rows, columns, output, accumulate } = *gemm;
    assert_eq!(level, Level::Amx, "the level proves that the processor has AMX");
    let unit = terms.iter().map(|term| term.right.column_unit()).max().unwrap_or(1).max(OUTPUT);
    let part_columns = cut(columns, threads * columns.div_ceil(threads * PART_COLUMNS), unit);
    let strips = columns.div_ceil(part_columns);
    let part_rows = cut(rows, rows.div_ceil(PART_ROWS).max(threads.div_ceil(strips)), OUTPUT);
    let blocks = rows.div_ceil(part_rows);
    each(strips * blocks, &|task| {
        let (n, m) = (task / blocks * part_columns, task % blocks * part_rows);
        let part = Part {
            level,
            rows: m..(m + part_rows).min(rows),
            columns: n..(n + part_columns).min(columns),
            // Columns packed at once: one panel, or as many panels as cover a block of the format.
            packed: unit.next_multiple_of(WIDTH),
            output,
        };
        part.compute(terms, accumulate);
    });
}

/// One task: a rectangle of the output.
struct Part<'a> {
    level: Level,
    rows: Range<usize>,
    columns: Range<usize>,
    packed: usize,
    output: Output<'a>,
}

impl Part<'_> {
    fn compute(&self, terms: &[Term<'_>], mut accumulate: bool) {
        #[expect(unsafe_code, reason = "the level proves that the processor has AMX")]
        // SAFETY: `run` was called with `Level::Amx`. A task creates one `Tiles` and calls no other task.
        let mut tiles = unsafe { Tiles::configure() };
        let strip = SPLIT_DEPTH / DEPTH * BLOCK;
        let row_blocks = self.rows.len().next_multiple_of(OUTPUT) / EDGE;
        let lens = [self.packed * SPLIT_DEPTH, row_blocks * strip, WIDTH / EDGE * strip];
        with_scratch(lens.iter().sum(), |space| {
            let (packed, space) = space.split_at_mut(lens[0]);
            let (left, right) = bytemuck::cast_slice_mut(space).split_at_mut(lens[1]);
            for term in terms {
                for (k, depth) in depth_blocks(term.depth, SPLIT_DEPTH) {
                    let blocks = depth.div_ceil(DEPTH) * BLOCK;
                    let left = &mut left[..row_blocks * blocks];
                    self.split_left(&tiles, term, k, depth, left);
                    for n in self.columns.clone().step_by(self.packed) {
                        let columns = (self.columns.end - n).min(self.packed);
                        let panel = WIDTH * SPLIT_DEPTH;
                        term.right.pack(self.level, (k, depth), (n, columns), term.alpha, packed, WIDTH, panel);
                        for (panel, first) in packed.chunks(panel).zip((0..columns).step_by(WIDTH)) {
                            let columns = (columns - first).min(WIDTH);
                            let right = &mut right[..columns.next_multiple_of(OUTPUT) / EDGE * blocks];
                            for (to, first) in right.chunks_exact_mut(blocks).zip((0..).step_by(EDGE)) {
                                split::right(&tiles, &panel[first..], WIDTH, depth, to);
                            }
                            self.multiply(&mut tiles, left, right, blocks, n + first..n + first + columns, accumulate);
                        }
                    }
                    accumulate = true;
                }
            }
        });
    }

    /// Splits `depth` steps of `k` of the part's rows. A strip of blocks has 16 rows.
    fn split_left(&self, tiles: &Tiles, term: &Term<'_>, k: usize, depth: usize, to: &mut [u32]) {
        let strip = depth.div_ceil(DEPTH) * BLOCK;
        for (to, m) in to.chunks_exact_mut(strip).zip((self.rows.start..).step_by(EDGE)) {
            let rows = self.rows.end.saturating_sub(m).min(EDGE);
            let values = if rows > 0 { &term.left.values[m * term.left.row + k..] } else { &[] };
            split::left(tiles, values, term.left.row, rows, depth, to);
        }
    }

    /// Multiplies all rows of the part by one panel, for the `columns` of the output. 16 rows or columns take `strip` words.
    fn multiply(
        &self,
        tiles: &mut Tiles,
        left: &[u32],
        right: &[u32],
        strip: usize,
        columns: Range<usize>,
        accumulate: bool,
    ) {
        let Output { values, start, stride } = self.output;
        let mut sums = Sums::new();
        for (left, m) in left.chunks_exact(2 * strip).zip(self.rows.clone().step_by(OUTPUT)) {
            for (right, n) in right.chunks_exact(2 * strip).zip(columns.clone().step_by(OUTPUT)) {
                tiles.product(left.split_at(strip).into(), right.split_at(strip).into(), &mut sums);
                let (rows, columns) = ((self.rows.end - m).min(OUTPUT), (columns.end - n).min(OUTPUT));
                let first = start + m * stride + n;
                assert!(first + (rows - 1) * stride + columns <= values.len(), "a task left its output");
                let c = values.at(first);
                #[expect(unsafe_code, reason = "tasks write disjoint parts of one buffer")]
                // SAFETY: the assertion checks the bounds; parts are disjoint rectangles of the output.
                unsafe {
                    sums.add_to(c, stride, rows, columns, accumulate);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tonfall_blocks::{Format, quantize_nf4};

    use super::super::super::dequantize::Stored;
    use super::super::super::gemm::parallel;
    use super::super::super::pack::{Left, Right};
    use super::super::super::testing::{assert_close, naive, values};
    use super::*;

    fn has_amx() -> bool {
        Level::best() == Level::Amx
    }

    /// `C (+)= Σ_t alpha_t · A_t · B_t` on AMX for any size, split as for `threads` threads.
    fn product(terms: &[Term<'_>], (m, n): (usize, usize), c: &mut [f32], accumulate: bool, threads: usize) {
        let output = Output::new(c, n);
        let gemm = Gemm { level: Level::Amx, terms, rows: m, columns: n, output, accumulate };
        run(&gemm, threads, |tasks, task| (0..tasks).for_each(task));
    }

    #[test]
    fn products_of_any_size_equal_the_naive_ones() {
        if !has_amx() {
            return;
        }
        for (m, n, k) in
            [(1, 1, 1), (32, 32, 32), (31, 33, 65), (100, 17, 40), (64, 300, 576), (257, 70, 1100), (5, 1100, 33)]
        {
            let (a, b) = (values(m * k, 1), values(k * n, 2));
            let rows = Right::Rows { values: &b, stride: n };
            let columns = Right::Columns { values: &b, stride: k };
            let left = Left::rows(&a, k);
            for threads in [1, 3] {
                let term = Term { left, right: rows, depth: k, alpha: 1.0 };
                let want = naive(m, n, k, |i, l| a[i * k + l], |l, j| b[l * n + j]);
                let mut c = vec![f32::NAN; m * n];
                product(&[term], (m, n), &mut c, false, threads);
                assert_close(&c, &want, &format!("{m}x{n}x{k}"));
                let half = Term { alpha: -0.5, ..term };
                product(&[half, half], (m, n), &mut c, true, threads);
                assert!(c.iter().zip(&want).all(|(c, (_, size))| f64::from(c.abs()) <= 2e-6 * size + 1e-7));
                let want = naive(m, n, k, |i, l| a[i * k + l], |l, j| b[j * k + l]);
                product(&[Term { right: columns, ..term }], (m, n), &mut c, false, threads);
                assert_close(&c, &want, &format!("{m}x{n}x{k}, columns"));
            }
        }
    }

    #[test]
    fn matrices_stored_in_every_format_equal_dense_ones() {
        if !has_amx() {
            return;
        }
        let (rows, cols) = (300, 768);
        for format in Format::ALL {
            let bytes = match format {
                Format::Nf4 => quantize_nf4(&values(rows * cols, 3)),
                Format::F32 => values(rows * cols, 3).iter().flat_map(|v| v.to_le_bytes()).collect(),
                _ => (0..tonfall_blocks::byte_len(format, rows, cols)).map(|i| (i * 29 % 251) as u8 & 0x3b).collect(),
            };
            let mut w = vec![0.0; rows * cols];
            tonfall_blocks::dequantize(format, &bytes, rows, cols, 0, &mut w);
            let stored = Stored::new(&bytes, format, rows, cols);
            let m = 50;
            let (x, dy) = (values(m * cols, 4), values(m * rows, 5));
            let right = Right::stored_transposed(stored);
            let mut y = vec![f32::NAN; m * rows];
            product(
                &[Term { left: Left::rows(&x, cols), right, depth: cols, alpha: 1.0 }],
                (m, rows),
                &mut y,
                false,
                2,
            );
            assert_close(
                &y,
                &naive(m, rows, cols, |i, l| x[i * cols + l], |l, j| w[j * cols + l]),
                &format!("{format} y"),
            );
            let right = Right::stored(stored);
            let mut dx = vec![f32::NAN; m * cols];
            product(
                &[Term { left: Left::rows(&dy, rows), right, depth: rows, alpha: 1.0 }],
                (m, cols),
                &mut dx,
                false,
                2,
            );
            assert_close(
                &dx,
                &naive(m, cols, rows, |i, l| dy[i * rows + l], |l, j| w[l * cols + j]),
                &format!("{format} dx"),
            );
        }
    }

    #[test]
    fn about_as_accurate_as_f32_arithmetic() {
        if !has_amx() {
            return;
        }
        let (m, n, k) = (128, 192, 1200);
        // Magnitudes over thirty powers of two, so that low parts of some numbers are multiplied by high parts of others.
        let wide = |len: usize, seed: u64| -> Vec<f32> {
            let (numbers, exponents) = (values(len, seed), values(len, seed + 1));
            numbers
                .into_iter()
                .zip(exponents)
                .map(|(number, exponent)| number * (15.0 * exponent).floor().exp2())
                .collect()
        };
        let positive = |len: usize, seed: u64| values(len, seed).into_iter().map(f32::abs).collect();
        type Numbers<'a> = &'a dyn Fn(usize, u64) -> Vec<f32>;
        let kinds: [(&str, Numbers<'_>); 3] = [("of both signs", &values), ("wide", &wide), ("positive", &positive)];
        for (kind, numbers) in kinds {
            let (a, b) = (numbers(m * k, 6), numbers(k * n, 8));
            let want = naive(m, n, k, |i, l| a[i * k + l], |l, j| b[l * n + j]);
            let term =
                Term { left: Left::rows(&a, k), right: Right::Rows { values: &b, stride: n }, depth: k, alpha: 1.0 };
            let error = |level: Level| {
                let mut c = vec![0.0; m * n];
                parallel(level, &[term], m, n, &mut c, false);
                let squares = c.iter().zip(&want).map(|(c, (want, size))| ((f64::from(*c) - want) / size).powi(2));
                (squares.sum::<f64>() / (m * n) as f64).sqrt()
            };
            let (amx, fused) = (error(Level::Amx), error(Level::Avx512));
            assert!(amx < 1.25 * fused, "{kind}: root mean square error {amx:e}, of fused multiply-adds {fused:e}");
        }
    }

    #[test]
    fn nan_and_infinity_reach_their_output_row_only() {
        if !has_amx() {
            return;
        }
        for bad in [f32::NAN, f32::from_bits(0x7f80_0001), f32::INFINITY, f32::NEG_INFINITY] {
            let (mut a, b) = (values(32 * 64, 1), values(64 * 32, 2));
            a[3 * 64 + 40] = bad;
            let term =
                Term { left: Left::rows(&a, 64), right: Right::Rows { values: &b, stride: 32 }, depth: 64, alpha: 1.0 };
            let mut c = vec![0.0; 32 * 32];
            product(&[term], (32, 32), &mut c, false, 1);
            for (i, row) in c.chunks_exact(32).enumerate() {
                assert!(row.iter().all(|c| c.is_finite() == (i != 3)), "row {i} with {bad}");
            }
        }
    }
}

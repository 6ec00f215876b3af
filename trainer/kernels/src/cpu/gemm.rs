//! GEMM: `C (+)= Σ_t alpha_t · A_t · B_t`.
//!
//! Responsible for: splitting the output into blocks, panels and tiles, and dispatching them to threads. The order follows
//! Goto and van de Geijn, "Anatomy of high-performance matrix multiplication" (2008). A block of the left operand is packed
//! once per strip of columns and stays in the L2 cache. A panel of the right operand is packed immediately before its use
//! and stays in the L1 cache, so dequantizing a stored weight costs as much as copying it.
//!
//! Several products with one output are one call: `x·Wᵀ + s·u·Bᵀ` passes over its output once.

use super::level::Level;
use super::memory::{Shared, with_scratch};
use super::pack::{Left, Right};
use super::threads;
use super::tile::{self, LANES, Tiles};

/// Most steps of `k` for which operands are packed at once.
const PACKED_DEPTH: usize = 320;
/// Rows of the output that use a packed panel before the next panel is packed. Their part of the left operand fits in an L2
/// cache.
const BLOCK_ROWS: usize = 256;
/// Columns of the right operand that are packed at once. A format with longer blocks may exceed it.
const PACKED_COLUMNS: usize = 64;
/// Least and most columns that use one packing of the left operand, if the output has that many.
const STRIP_COLUMNS: (usize, usize) = (128, 1024);
/// Most rows of the output for which a right operand with contiguous rows is read in place, without packing.
const UNPACKED_ROWS: usize = 32;

/// One product of the sum.
#[derive(Clone, Copy)]
pub(crate) struct Term<'a> {
    pub(crate) left: Left<'a>,
    pub(crate) right: Right<'a>,
    /// Columns of `A`, rows of `B`.
    pub(crate) depth: usize,
    pub(crate) alpha: f32,
}

/// The output: `C[m, n] = values[start + m * stride + n]`.
#[derive(Clone, Copy)]
pub(crate) struct Output<'a> {
    pub(crate) values: Shared<'a, f32>,
    pub(crate) start: usize,
    pub(crate) stride: usize,
}

impl<'a> Output<'a> {
    /// A whole row-major matrix.
    pub(crate) fn new(values: &'a mut [f32], stride: usize) -> Self {
        Self { values: Shared::new(values), start: 0, stride }
    }
}

/// `C (+)= Σ_t alpha_t · A_t · B_t` with `C` `[rows, columns]`.
#[derive(Clone, Copy)]
pub(crate) struct Gemm<'a> {
    pub(crate) level: Level,
    pub(crate) terms: &'a [Term<'a>],
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) output: Output<'a>,
    pub(crate) accumulate: bool,
}

/// Splits `depth` steps of `k` into blocks `(first, number)` of at most `most`. They have about equal sizes, and none splits a
/// block of a format or 64 numbers of NF4.
pub(super) fn depth_blocks(depth: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let unit = if depth.is_multiple_of(256) { 256 } else { 64 };
    let pieces = depth.div_ceil(most / unit * unit).max(1);
    let piece = depth.div_ceil(pieces).next_multiple_of(unit).max(unit);
    (0..depth).step_by(piece).map(move |k| (k, (depth - k).min(piece)))
}

/// How the output is split: strips of `strip` columns by blocks of `block_rows` rows.
struct Blocking {
    /// Columns of a panel of the right operand.
    width: usize,
    /// Columns that are packed at once.
    packed: usize,
    strip: usize,
    block_rows: usize,
    blocks: usize,
}

impl Blocking {
    fn of(level: Level, terms: &[Term<'_>], rows: usize, columns: usize, threads: usize) -> Self {
        let unit = terms.iter().map(|term| term.right.column_unit()).max().unwrap_or(1);
        // Choose the width that gives the busiest thread the fewest columns.
        let busiest = |width: usize| columns.div_ceil(width).div_ceil(threads) * width;
        let widths = tile::widths(level).iter().copied();
        let fitting = widths.filter(|width| width.is_multiple_of(unit) || unit.is_multiple_of(*width));
        let width = fitting.min_by_key(|width| busiest(*width)).unwrap_or(LANES).min(columns.next_multiple_of(LANES));
        let (least, most) = STRIP_COLUMNS;
        let wanted = (threads * columns.div_ceil(threads * most)).min(columns.div_ceil(least));
        let strip = columns.div_ceil(wanted).next_multiple_of(width.max(unit));
        let wanted = rows.div_ceil(BLOCK_ROWS).max(threads.div_ceil(columns.div_ceil(strip)));
        let block_rows = rows.div_ceil(wanted).next_multiple_of(24);
        let packed = PACKED_COLUMNS.max(unit).next_multiple_of(width).min(strip);
        Self { width, packed, strip, block_rows, blocks: rows.div_ceil(block_rows) }
    }
}

/// `C (+)= Σ_t alpha_t · A_t · B_t` with `C` `[rows, columns]`, on all threads.
pub(crate) fn parallel(
    level: Level,
    terms: &[Term<'_>],
    rows: usize,
    columns: usize,
    output: &mut [f32],
    accumulate: bool,
) {
    let output = Output::new(output, columns);
    let gemm = Gemm { level, terms, rows, columns, output, accumulate };
    run(&gemm, threads::count(), |tasks, task| threads::each(tasks, task));
}

/// As [`parallel`], with part of a matrix as output, which is overwritten.
pub(crate) fn parallel_into(level: Level, terms: &[Term<'_>], rows: usize, columns: usize, output: Output<'_>) {
    let gemm = Gemm { level, terms, rows, columns, output, accumulate: false };
    run(&gemm, threads::count(), |tasks, task| threads::each(tasks, task));
}

/// As [`parallel`], on the calling thread, with part of a matrix as output.
pub(crate) fn serial<'a>(
    level: Level,
    terms: &'a [Term<'a>],
    rows: usize,
    columns: usize,
    output: Output<'a>,
    accumulate: bool,
) {
    let gemm = Gemm { level, terms, rows, columns, output, accumulate };
    run(&gemm, 1, |tasks, task| (0..tasks).for_each(task));
}

/// `each` runs the tasks on `threads` threads.
fn run(gemm: &Gemm<'_>, threads: usize, each: impl FnOnce(usize, &(dyn Fn(usize) + Sync + Send))) {
    let Gemm { level, terms, rows, columns, output, accumulate } = *gemm;
    if rows == 0 || columns == 0 {
        return;
    }
    for term in terms {
        assert!(term.left.holds(rows, term.depth), "the left operand is smaller than {rows} x {}", term.depth);
        assert!(term.right.holds(term.depth, columns), "the right operand is not {} x {columns}", term.depth);
    }
    assert!(columns <= output.stride || rows == 1, "rows of the output overlap");
    assert!(output.start + (rows - 1) * output.stride + columns <= output.values.len(), "the output is too small");
    #[cfg(target_arch = "x86_64")]
    if level == Level::Amx && super::amx::gemm::pays(terms, rows, columns) {
        return super::amx::gemm::run(gemm, threads, each);
    }
    let blocking = Blocking::of(level, terms, rows, columns, threads);
    each(columns.div_ceil(blocking.strip) * blocking.blocks, &|task| {
        let (n0, m0) = (task / blocking.blocks * blocking.strip, task % blocking.blocks * blocking.block_rows);
        let part = Part {
            level,
            blocking: &blocking,
            columns: (n0, (columns - n0).min(blocking.strip)),
            rows: (m0, (rows - m0).min(blocking.block_rows)),
            output,
        };
        part.compute(terms, accumulate);
    });
}

/// One task: a rectangle of the output.
struct Part<'a> {
    level: Level,
    blocking: &'a Blocking,
    /// First column and number of columns; rows alike.
    columns: (usize, usize),
    rows: (usize, usize),
    output: Output<'a>,
}

impl Part<'_> {
    fn compute(&self, terms: &[Term<'_>], mut accumulate: bool) {
        let Blocking { width, packed, .. } = *self.blocking;
        let ((n0, columns), rows) = (self.columns, self.rows.1);
        let panel_len = PACKED_DEPTH * width;
        with_scratch(rows * PACKED_DEPTH + packed.div_ceil(width) * panel_len, |space| {
            let (left, panels) = space.split_at_mut(rows * PACKED_DEPTH);
            for term in terms {
                for (k0, depth) in depth_blocks(term.depth, PACKED_DEPTH) {
                    term.left.pack(self.tile_heights(), self.rows.0, (k0, depth), left);
                    for n in (0..columns).step_by(packed) {
                        let columns = (n0 + n, (columns - n).min(packed));
                        let in_place = self.in_place(term);
                        if in_place.is_none() {
                            term.right.pack(self.level, (k0, depth), columns, term.alpha, panels, width, panel_len);
                        }
                        for (panel, n) in panels.chunks(panel_len).zip((0..columns.1).step_by(width)) {
                            let columns = (columns.0 + n, (columns.1 - n).min(width));
                            let (b, b_depth) = match in_place {
                                Some((values, stride)) => (&values[k0 * stride + columns.0..], stride),
                                None => (panel, width),
                            };
                            self.tiles(left, depth, b, b_depth, columns, accumulate);
                        }
                    }
                    accumulate = true;
                }
            }
        });
        if !accumulate {
            self.clear();
        }
    }

    /// Heights and numbers of the part's tiles, and of the left operand's panels.
    fn tile_heights(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        tile::tile_heights(self.level, self.blocking.width, self.rows.1)
    }

    /// The right operand and its stride, if it can be read in place and packing doesn't pay.
    fn in_place<'a>(&self, term: &Term<'a>) -> Option<(&'a [f32], usize)> {
        let Right::Rows { values, stride } = term.right else { return None };
        let whole = self.columns.1.is_multiple_of(LANES);
        (term.alpha == 1.0 && self.rows.1 <= UNPACKED_ROWS && whole).then_some((values, stride))
    }

    /// Multiplies all rows of the part, packed in `left` with `depth` steps of `k`, by the panel `b`. `(n, columns)` are the first
    /// column of the output and their number.
    #[expect(unsafe_code, reason = "tiles take raw addresses")]
    fn tiles(
        &self,
        left: &[f32],
        depth: usize,
        b: &[f32],
        b_depth: usize,
        (n, columns): (usize, usize),
        accumulate: bool,
    ) {
        let units = columns.div_ceil(LANES);
        assert!(self.rows.1 * depth <= left.len(), "the packed left operand is too short");
        assert!((depth - 1) * b_depth + units * LANES <= b.len(), "the panel is too short");
        for k in (0..depth).step_by(tile::depth(self.level)) {
            let mut m = 0;
            for (height, count) in self.tile_heights().filter(|(_, count)| *count > 0) {
                let operands = Tiles {
                    count,
                    depth: (depth - k).min(tile::depth(self.level)),
                    a: left[m * depth + k * height..].as_ptr(),
                    a_panel: depth * height,
                    b: b[k * b_depth..].as_ptr(),
                    b_depth,
                    c: self.output.values.at(self.output.start + (self.rows.0 + m) * self.output.stride + n),
                    c_row: self.output.stride,
                    last: columns - (units - 1) * LANES,
                    accumulate: accumulate || k > 0,
                };
                // SAFETY: the assertions above check the reads from both operands; `run` checked the output. Parts are
                // disjoint rectangles of the output.
                unsafe { tile::compute(self.level, height, units, &operands) };
                m += count * height;
            }
        }
    }

    /// Fills the output of a GEMM without terms with zeros.
    #[expect(unsafe_code, reason = "tasks write disjoint parts of one buffer")]
    fn clear(&self) {
        for m in self.rows.0..self.rows.0 + self.rows.1 {
            let start = self.output.start + m * self.output.stride + self.columns.0;
            // SAFETY: parts are disjoint rectangles of the output.
            unsafe { self.output.values.part(start, self.columns.1) }.fill(0.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tonfall_blocks::{Format, byte_len, quantize_nf4};

    use super::super::dequantize::Stored;
    use super::super::testing::{assert_close, naive, values};
    use super::*;

    const SHAPES: [(usize, usize, usize); 25] = [
        (1, 1, 1),
        (1, 64, 64),
        (2, 3, 5),
        (3, 17, 2),
        (5, 48, 16),
        (6, 64, 128),
        (7, 65, 129),
        (8, 16, 300),
        (13, 100, 257),
        (16, 192, 64),
        (24, 33, 31),
        (31, 64, 1),
        (32, 80, 40),
        (33, 63, 65),
        (40, 200, 20),
        (64, 16, 64),
        (65, 8, 96),
        (97, 130, 70),
        (128, 48, 256),
        (130, 96, 130),
        (260, 70, 33),
        (600, 50, 17),
        (9, 150, 4099),
        (97, 200, 65),
        (300, 233, 576),
    ];

    #[test]
    fn dense_products_in_every_orientation() {
        for level in Level::available() {
            for (m, n, k) in SHAPES {
                let (a, b) = (values(m * k, 1), values(k * n, 2));
                let lefts = [
                    (
                        Left::rows(&a, k),
                        Box::new(|i: usize, l: usize| a[i * k + l]) as Box<dyn Fn(usize, usize) -> f32>,
                    ),
                    (Left::columns(&a, m), Box::new(|i: usize, l: usize| a[l * m + i])),
                ];
                for (left, a_at) in &lefts {
                    let rights = [
                        (
                            Right::Rows { values: &b, stride: n },
                            Box::new(|l: usize, j: usize| b[l * n + j]) as Box<dyn Fn(usize, usize) -> f32>,
                        ),
                        (Right::Columns { values: &b, stride: k }, Box::new(|l: usize, j: usize| b[j * k + l])),
                    ];
                    for (right, b_at) in &rights {
                        let want = naive(m, n, k, a_at, b_at);
                        let term = Term { left: *left, right: *right, depth: k, alpha: 1.0 };
                        let mut c = vec![f32::NAN; m * n];
                        parallel(level, &[term], m, n, &mut c, false);
                        assert_close(&c, &want, &format!("{level:?} {m}x{n}x{k}"));
                        let half = Term { alpha: -0.5, ..term };
                        parallel(level, &[half, half], m, n, &mut c, true);
                        assert!(c.iter().zip(&want).all(|(c, (_, size))| f64::from(c.abs()) <= 2e-6 * size + 1e-7));
                        let mut part = vec![7.0; m * (n + 3) + 2];
                        let output = Output { values: Shared::new(&mut part), start: 2, stride: n + 3 };
                        serial(level, &[term], m, n, output, false);
                        for i in 0..m {
                            assert_close(&part[2 + i * (n + 3)..][..n], &want[i * n..][..n], "serial");
                            assert_eq!(part[2 + i * (n + 3) + n..][..3], [7.0; 3], "wrote beyond a row");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn stored_products_in_every_format_and_both_orientations() {
        for format in Format::ALL {
            let shapes: &[(usize, usize)] = match format.block_len() {
                256 => &[(70, 256), (17, 512), (300, 256), (1, 1024)],
                32 => &[(70, 96), (17, 352), (300, 64), (1, 1024)],
                _ => &[(70, 96), (17, 100), (300, 64), (1, 1024), (33, 33), (64, 320), (5, 7), (48, 577)],
            };
            for &(rows, cols) in shapes {
                let bytes = match format {
                    Format::Nf4 => quantize_nf4(&values(rows * cols, 3)),
                    Format::F32 => values(rows * cols, 3).iter().flat_map(|v| v.to_le_bytes()).collect(),
                    _ => (0..byte_len(format, rows, cols)).map(|i| (i * 29 % 251) as u8 & 0x3b).collect(),
                };
                let mut dense = vec![0.0; rows * cols];
                tonfall_blocks::dequantize(format, &bytes, rows, cols, 0, &mut dense);
                let stored = Stored::new(&bytes, format, rows, cols);
                for level in Level::available() {
                    for m in [1, 5, 40, 131] {
                        let what = format!("{format} {rows}x{cols} {level:?} m {m}");
                        let x = values(m * cols, 4);
                        let mut y = vec![f32::NAN; m * rows];
                        let right = Right::stored_transposed(stored);
                        let term = Term { left: Left::rows(&x, cols), right, depth: cols, alpha: 1.0 };
                        parallel(level, &[term], m, rows, &mut y, false);
                        assert_close(
                            &y,
                            &naive(m, rows, cols, |i, l| x[i * cols + l], |l, j| dense[j * cols + l]),
                            &what,
                        );
                        let dy = values(m * rows, 5);
                        let mut dx = vec![f32::NAN; m * cols];
                        let right = Right::stored(stored);
                        let term = Term { left: Left::rows(&dy, rows), right, depth: rows, alpha: 1.0 };
                        parallel(level, &[term], m, cols, &mut dx, false);
                        assert_close(
                            &dx,
                            &naive(m, cols, rows, |i, l| dy[i * rows + l], |l, j| dense[l * cols + j]),
                            &what,
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn depth_blocks_cover_each_step_of_k_once() {
        for most in [256, 320, 512] {
            for depth in [1, 16, 63, 64, 65, 511, 512, 513, 576, 1024, 1280, 1536, 2304, 14_336, 4099] {
                let mut next = 0;
                for (first, number) in depth_blocks(depth, most) {
                    assert!(first == next && first.is_multiple_of(64) && (1..=most).contains(&number), "{depth}");
                    assert!(!depth.is_multiple_of(256) || first.is_multiple_of(256), "{depth} is split at {first}");
                    next = first + number;
                }
                assert_eq!(next, depth);
            }
            assert_eq!(depth_blocks(0, most).count(), 0);
        }
    }

    #[test]
    fn a_gemm_without_terms_is_zero() {
        let mut c = vec![f32::NAN; 12];
        parallel(Level::best(), &[], 3, 4, &mut c, false);
        assert_eq!(c, [0.0; 12]);
    }

    proptest! {
        #[test]
        fn results_do_not_depend_on_the_number_of_threads(m in 1usize..130, n in 1usize..16, odd in 0usize..16, k in 1usize..300) {
            // Often a multiple of 16 columns, which needs no packing.
            let n = 16 * n + odd % 2 * odd;
            let (a, b) = (values(m * k, 6), values(k * n, 7));
            for right in [Right::Columns { values: &b, stride: k }, Right::Rows { values: &b, stride: n }] {
                let term = Term { left: Left::rows(&a, k), right, depth: k, alpha: 1.0 };
                let product = |threads: usize| {
                    let mut c = vec![0.0; m * n];
                    let output = Output::new(&mut c, n);
                    let gemm = Gemm { level: Level::best(), terms: &[term], rows: m, columns: n, output, accumulate: false };
                    run(&gemm, threads, |tasks, task| (0..tasks).for_each(task));
                    c
                };
                let one = product(1);
                prop_assert!([2, 3, 7].into_iter().all(|threads| product(threads) == one));
            }
        }
    }
}

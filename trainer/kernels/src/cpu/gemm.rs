//! Matrix products: `C (+)= Σ_t alpha_t · A_t · B_t`.
//!
//! Responsible for: cutting a product into panels, blocks and tiles, and spreading them over threads. The order follows
//! Goto and van de Geijn, "Anatomy of high-performance matrix multiplication" (2008): a block of the left operand is packed
//! once for a strip of columns and stays in the second-level cache, panels of the right operand are packed right before
//! their use and never leave the first, so that decoding a stored weight costs what copying it would.
//!
//! Several terms with one output are one call: `x·Wᵀ + s·u·Bᵀ` passes over its output once.

use super::level::Level;
use super::memory::{Shared, with_scratch};
use super::pack::{Left, Right};
use super::threads;
use super::tile::{self, LANES, Tiles};

/// Most terms of the sum for which operands are packed at once.
const PACKED_DEPTH: usize = 320;
/// Rows of the output that use a packed panel before the next one is packed: their part of the left operand stays in a
/// second-level cache.
const BLOCK_ROWS: usize = 256;
/// Columns of the right operand that are packed at once, as far as no format is read more columns at a time.
const PACKED_COLUMNS: usize = 64;
/// Least and most columns that are computed with one packing of the left operand, as far as there are so many.
const STRIP_COLUMNS: (usize, usize) = (128, 1024);
/// Up to so many rows of the output, a right operand whose rows are contiguous is read where it lies.
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

/// What is computed, and where to: `C (+)= Σ_t alpha_t · A_t · B_t` for `C` of `rows` by `columns`.
#[derive(Clone, Copy)]
pub(crate) struct Gemm<'a> {
    pub(crate) level: Level,
    pub(crate) terms: &'a [Term<'a>],
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) output: Output<'a>,
    pub(crate) accumulate: bool,
}

/// The pieces `(first term, number)` of at most `most` terms in which a sum of `depth` terms is computed: about equal, and no
/// block of a format, nor 64 numbers of NF4, is in two of them.
pub(super) fn pieces(depth: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let unit = if depth.is_multiple_of(256) { 256 } else { 64 };
    let pieces = depth.div_ceil(most / unit * unit).max(1);
    let piece = depth.div_ceil(pieces).next_multiple_of(unit).max(unit);
    (0..depth).step_by(piece).map(move |k| (k, (depth - k).min(piece)))
}

/// How one product is cut: strips of `strip` columns by blocks of `block_rows` rows.
struct Cut {
    /// Columns of a panel of the right operand, and of those that are packed at once.
    width: usize,
    packed: usize,
    strip: usize,
    block_rows: usize,
    blocks: usize,
}

impl Cut {
    fn of(level: Level, terms: &[Term<'_>], rows: usize, columns: usize, threads: usize) -> Self {
        let unit = terms.iter().map(|term| term.right.column_unit()).max().unwrap_or(1);
        // The width that leaves the busiest thread the fewest columns.
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

/// `C (+)= Σ_t alpha_t · A_t · B_t` for `C` of `rows` by `columns`, on all threads.
pub(crate) fn parallel(
    level: Level,
    terms: &[Term<'_>],
    rows: usize,
    columns: usize,
    output: &mut [f32],
    accumulate: bool,
) {
    let output = Output::new(output, columns);
    let sum = Gemm { level, terms, rows, columns, output, accumulate };
    run(&sum, threads::count(), |tasks, task| threads::each(tasks, task));
}

/// As [`parallel`], on the calling thread and into part of a matrix.
pub(crate) fn serial<'a>(
    level: Level,
    terms: &'a [Term<'a>],
    rows: usize,
    columns: usize,
    output: Output<'a>,
    accumulate: bool,
) {
    let sum = Gemm { level, terms, rows, columns, output, accumulate };
    run(&sum, 1, |tasks, task| (0..tasks).for_each(task));
}

/// `each` runs the tasks on `threads` threads.
fn run(sum: &Gemm<'_>, threads: usize, each: impl FnOnce(usize, &(dyn Fn(usize) + Sync + Send))) {
    let Gemm { level, terms, rows, columns, output, accumulate } = *sum;
    if rows == 0 || columns == 0 {
        return;
    }
    for term in terms {
        assert!(term.left.holds(rows, term.depth), "the left operand is smaller than {rows} x {}", term.depth);
        assert!(term.right.holds(term.depth, columns), "the right operand isn't {} x {columns}", term.depth);
    }
    assert!(columns <= output.stride || rows == 1, "rows of the output overlap");
    assert!(output.start + (rows - 1) * output.stride + columns <= output.values.len(), "the output is too small");
    #[cfg(target_arch = "x86_64")]
    if level == Level::Amx && super::amx::gemm::pays(terms, rows, columns) {
        return super::amx::gemm::run(sum, threads, each);
    }
    let cut = Cut::of(level, terms, rows, columns, threads);
    each(columns.div_ceil(cut.strip) * cut.blocks, &|task| {
        let (n0, m0) = (task / cut.blocks * cut.strip, task % cut.blocks * cut.block_rows);
        let part = Part {
            level,
            cut: &cut,
            columns: (n0, (columns - n0).min(cut.strip)),
            rows: (m0, (rows - m0).min(cut.block_rows)),
            output,
        };
        part.compute(terms, accumulate);
    });
}

/// One task: a rectangle of the output.
struct Part<'a> {
    level: Level,
    cut: &'a Cut,
    /// First and number.
    columns: (usize, usize),
    rows: (usize, usize),
    output: Output<'a>,
}

impl Part<'_> {
    fn compute(&self, terms: &[Term<'_>], mut accumulate: bool) {
        let Cut { width, packed, .. } = *self.cut;
        let ((n0, columns), rows) = (self.columns, self.rows.1);
        let panel_len = PACKED_DEPTH * width;
        with_scratch(rows * PACKED_DEPTH + packed.div_ceil(width) * panel_len, |space| {
            let (left, panels) = space.split_at_mut(rows * PACKED_DEPTH);
            for term in terms {
                for (k0, depth) in pieces(term.depth, PACKED_DEPTH) {
                    term.left.pack(self.stacks(), self.rows.0, (k0, depth), left);
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

    /// The tiles of the part, and the panels of its left operands.
    fn stacks(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        tile::stacks(self.level, self.cut.width, self.rows.1)
    }

    /// The right operand and its stride, where packing doesn't pay and can be left out.
    fn in_place<'a>(&self, term: &Term<'a>) -> Option<(&'a [f32], usize)> {
        let Right::Rows { values, stride } = term.right else { return None };
        let whole = self.columns.1.is_multiple_of(LANES);
        (term.alpha == 1.0 && self.rows.1 <= UNPACKED_ROWS && whole).then_some((values, stride))
    }

    /// All rows of the part, packed in `left` with `depth` terms, against the panel `b`, which is so many `columns` of the
    /// output.
    #[expect(unsafe_code, reason = "tiles take addresses")]
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
        assert!(self.rows.1 * depth <= left.len(), "a left operand is too short");
        assert!((depth - 1) * b_depth + units * LANES <= b.len(), "a panel is too short");
        for k in (0..depth).step_by(tile::depth(self.level)) {
            let mut m = 0;
            for (height, count) in self.stacks().filter(|(_, count)| *count > 0) {
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
                // SAFETY: the assertions above say that both operands hold what the tiles read, `run` checked the output;
                // parts are disjoint rectangles of it.
                unsafe { tile::compute(self.level, height, units, &operands) };
                m += count * height;
            }
        }
    }

    /// The output of a sum without terms.
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
    fn every_term_is_in_one_piece() {
        for most in [256, 320, 512] {
            for depth in [1, 16, 63, 64, 65, 511, 512, 513, 576, 1024, 1280, 1536, 2304, 14_336, 4099] {
                let mut next = 0;
                for (first, number) in pieces(depth, most) {
                    assert!(first == next && first.is_multiple_of(64) && (1..=most).contains(&number), "{depth}");
                    assert!(!depth.is_multiple_of(256) || first.is_multiple_of(256), "{depth} is cut at {first}");
                    next = first + number;
                }
                assert_eq!(next, depth);
            }
            assert_eq!(pieces(0, most).count(), 0);
        }
    }

    #[test]
    fn a_sum_without_terms_is_zero() {
        let mut c = vec![f32::NAN; 12];
        parallel(Level::best(), &[], 3, 4, &mut c, false);
        assert_eq!(c, [0.0; 12]);
    }

    proptest! {
        #[test]
        fn results_do_not_depend_on_the_number_of_threads(m in 1usize..130, n in 1usize..16, odd in 0usize..16, k in 1usize..300) {
            // Often whole vectors of columns, which need no packing.
            let n = 16 * n + odd % 2 * odd;
            let (a, b) = (values(m * k, 6), values(k * n, 7));
            for right in [Right::Columns { values: &b, stride: k }, Right::Rows { values: &b, stride: n }] {
                let term = Term { left: Left::rows(&a, k), right, depth: k, alpha: 1.0 };
                let product = |threads: usize| {
                    let mut c = vec![0.0; m * n];
                    let output = Output::new(&mut c, n);
                    let sum = Gemm { level: Level::best(), terms: &[term], rows: m, columns: n, output, accumulate: false };
                    run(&sum, threads, |tasks, task| (0..tasks).for_each(task));
                    c
                };
                let one = product(1);
                prop_assert!([2, 3, 7].into_iter().all(|threads| product(threads) == one));
            }
        }
    }
}

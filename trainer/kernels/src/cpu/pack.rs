//! Packing: copies parts of a GEMM's operands into panels, in the order in which tiles read them.
//!
//! Responsible for: packing left operands, and right operands in any number format and either orientation. Stored weights are
//! dequantized here, a few panels at a time.

use tonfall_blocks::Format;

use super::dequantize::Stored;
use super::level::Level;
use super::memory::{prefetch, with_scratch};
use super::tile::LANES;
use super::transpose::{block4, block16};

/// The left operand: `A[m, k] = values[m * row + k * depth]`.
#[derive(Clone, Copy)]
pub(crate) struct Left<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) row: usize,
    pub(crate) depth: usize,
}

impl<'a> Left<'a> {
    /// `A` is a row-major matrix.
    pub(crate) fn rows(values: &'a [f32], stride: usize) -> Self {
        Self { values, row: stride, depth: 1 }
    }

    /// `A` is the transpose of a row-major matrix.
    pub(crate) fn columns(values: &'a [f32], stride: usize) -> Self {
        Self { values, row: 1, depth: stride }
    }

    /// Whether `values` is long enough for `rows` rows and `depth` columns.
    pub(crate) fn holds(&self, rows: usize, depth: usize) -> bool {
        rows == 0 || depth == 0 || (rows - 1) * self.row + (depth - 1) * self.depth < self.values.len()
    }

    /// Copies `A[m0 .. m0 + rows, k0 .. k0 + depth]` into one panel per tile; `tile_heights` lists the tiles of these rows
    /// ([`super::tile::tile_heights`]). In a panel of `R` rows from row `m` on, element `[m + r, k]` goes to
    /// `to[m * depth + k * R + r]`.
    pub(crate) fn pack(
        &self,
        tile_heights: impl Iterator<Item = (usize, usize)>,
        mut m0: usize,
        k: (usize, usize),
        mut to: &mut [f32],
    ) {
        for (height, count) in tile_heights {
            let panels;
            (panels, to) = to.split_at_mut(count * height * k.1);
            match height {
                12 => self.interleave::<12>(m0, k, panels),
                8 => self.interleave::<8>(m0, k, panels),
                6 => self.interleave::<6>(m0, k, panels),
                4 => self.interleave::<4>(m0, k, panels),
                2 => self.interleave::<2>(m0, k, panels),
                1 => self.interleave::<1>(m0, k, panels),
                _ => panic!("no tile has {height} rows"),
            }
            m0 += count * height;
        }
    }

    /// Fills panels of `R` rows each, from row `m0` on.
    fn interleave<const R: usize>(&self, m0: usize, (k0, depth): (usize, usize), panels: &mut [f32]) {
        for (index, panel) in panels.chunks_exact_mut(R * depth).enumerate() {
            let from = &self.values[(m0 + index * R) * self.row + k0 * self.depth..];
            let lines = panel.as_chunks_mut::<R>().0;
            if self.depth != 1 {
                for (k, line) in lines.iter_mut().enumerate() {
                    *line = std::array::from_fn(|r| from[k * self.depth + r * self.row]);
                }
                continue;
            }
            let rows: [&[f32]; R] = std::array::from_fn(|r| &from[r * self.row..][..depth]);
            let (blocks, rest) = lines.as_chunks_mut::<4>();
            let done = blocks.len() * 4;
            for (block, lines) in blocks.iter_mut().enumerate() {
                if block % 4 == 0 {
                    // The hardware prefetchers don't find the next panel's rows.
                    for row in rows {
                        prefetch(row.as_ptr().wrapping_add(R * self.row + block * 4));
                    }
                }
                for first in (0..R).step_by(4) {
                    let quarter = |r: usize| rows[(first + r).min(R - 1)].as_chunks::<4>().0[block];
                    let columns = block4(std::array::from_fn(quarter));
                    for (line, column) in lines.iter_mut().zip(columns) {
                        let line = &mut line[first..];
                        let len = line.len().min(4);
                        line[..len].copy_from_slice(&column[..len]);
                    }
                }
            }
            for (k, line) in rest.iter_mut().enumerate() {
                *line = std::array::from_fn(|r| rows[r][done + k]);
            }
        }
    }
}

/// The right operand `B[k, n]` of a product.
#[derive(Clone, Copy)]
pub(crate) enum Right<'a> {
    /// `B[k, n] = values[k * stride + n]`.
    Rows { values: &'a [f32], stride: usize },
    /// `B[k, n] = values[n * stride + k]`.
    Columns { values: &'a [f32], stride: usize },
    /// `B[k, n] = W[k, n]`.
    StoredRows(Stored<'a>),
    /// `B[k, n] = W[n, k]`.
    StoredColumns(Stored<'a>),
}

impl<'a> Right<'a> {
    /// `B = W`.
    pub(crate) fn stored(matrix: Stored<'a>) -> Self {
        match matrix.as_f32() {
            Some(values) => Self::Rows { values, stride: matrix.cols },
            None => Self::StoredRows(matrix),
        }
    }

    /// `B = Wᵀ`.
    pub(crate) fn stored_transposed(matrix: Stored<'a>) -> Self {
        match matrix.as_f32() {
            Some(values) => Self::Columns { values, stride: matrix.cols },
            None => Self::StoredColumns(matrix),
        }
    }

    /// Whether the operand has `depth` rows and `columns` columns.
    pub(crate) fn holds(&self, depth: usize, columns: usize) -> bool {
        let strided = |len: usize, stride: usize, lines: usize, line: usize| {
            lines == 0 || line <= stride && (lines - 1) * stride + line <= len
        };
        match self {
            Self::Rows { values, stride } => strided(values.len(), *stride, depth, columns),
            Self::Columns { values, stride } => strided(values.len(), *stride, columns, depth),
            Self::StoredRows(matrix) => (matrix.rows, matrix.cols) == (depth, columns),
            Self::StoredColumns(matrix) => (matrix.cols, matrix.rows) == (depth, columns),
        }
    }

    /// Columns that should be packed together, so that no block of a format is dequantized twice.
    pub(crate) fn column_unit(&self) -> usize {
        match self {
            // NF4 can be read in any multiple of 16.
            Self::StoredRows(matrix) if matrix.format == Format::Nf4 => 1,
            Self::StoredRows(matrix) => matrix.format.block_len(),
            _ => 1,
        }
    }

    /// Copies `B[k0 .. k0 + depth, n0 .. n0 + columns] * alpha` into panels of `width` columns, a multiple of 16. Panels begin
    /// `panel_stride` apart. Element `[k, n]` goes to panel `n / width`, index `k * width + n % width`. Columns up to the next
    /// multiple of `width` become zeros.
    #[expect(clippy::too_many_arguments, reason = "a rectangle, its factor and its destination")]
    pub(crate) fn pack(
        &self,
        level: Level,
        (k0, depth): (usize, usize),
        (n0, columns): (usize, usize),
        alpha: f32,
        panels: &mut [f32],
        width: usize,
        panel_stride: usize,
    ) {
        match self {
            Self::Rows { values, stride } => {
                for (panel, n) in panels.chunks_mut(panel_stride).zip((0..columns).step_by(width)) {
                    let present = (columns - n).min(width);
                    for (k, line) in panel.chunks_exact_mut(width).take(depth).enumerate() {
                        fill_line(line, &values[(k0 + k) * stride + n0 + n..][..present]);
                    }
                }
            }
            Self::StoredRows(matrix) => with_scratch(columns, |row| {
                for k in 0..depth {
                    let start = (k0 + k) * matrix.cols + n0;
                    if columns == width {
                        matrix.read(level, start, &mut panels[k * width..][..width]);
                        continue;
                    }
                    matrix.read(level, start, row);
                    for (panel, row) in panels.chunks_mut(panel_stride).zip(row.chunks(width)) {
                        fill_line(&mut panel[k * width..][..width], row);
                    }
                }
            }),
            Self::Columns { values, stride } => {
                each_strip(columns, width, panel_stride, panels, |n, present, strip| {
                    let from = &values[(n0 + n) * stride + k0..];
                    transpose_strip(level, from, *stride, present, depth, strip, width);
                });
            }
            Self::StoredColumns(matrix) => with_scratch(LANES * depth, |rows| {
                each_strip(columns, width, panel_stride, panels, |n, present, strip| {
                    if matrix.read_transposed(level, n0 + n, k0, depth, strip, width) {
                        return;
                    }
                    for (r, row) in rows.chunks_exact_mut(depth).take(present).enumerate() {
                        matrix.read(level, (n0 + n + r) * matrix.cols + k0, row);
                    }
                    transpose_strip(level, rows, depth, present, depth, strip, width);
                });
            }),
        }
        if alpha != 1.0 {
            for panel in panels.chunks_mut(panel_stride).take(columns.div_ceil(width)) {
                panel[..depth * width].iter_mut().for_each(|value| *value *= alpha);
            }
        }
    }
}

/// Copies a row of a panel and fills the rest with zeros. It copies vectors of 16, since a call of `memcpy` takes longer.
fn fill_line(line: &mut [f32], row: &[f32]) {
    let (to, _) = line.as_chunks_mut::<LANES>();
    let (from, rest) = row.as_chunks::<LANES>();
    to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
    let line = &mut line[row.len() - rest.len()..];
    if !line.is_empty() {
        line[..rest.len()].copy_from_slice(rest);
        line[rest.len()..].fill(0.0);
    }
}

/// Calls `fill(n, present, strip)` for every strip of 16 columns of the panels. `n` is its first column, `present` the number
/// of its columns that exist, and `strip` begins at that column in the panel's first row.
fn each_strip(
    columns: usize,
    width: usize,
    panel_stride: usize,
    panels: &mut [f32],
    mut fill: impl FnMut(usize, usize, &mut [f32]),
) {
    for n in (0..columns.next_multiple_of(LANES)).step_by(LANES) {
        let start = n / width * panel_stride + n % width;
        let end = ((n / width + 1) * panel_stride).min(panels.len());
        fill(n, columns.saturating_sub(n).min(LANES), &mut panels[start..end]);
    }
}

/// `to[k * to_stride + r] = from[r * from_stride + k]` for `depth` columns of 16 rows. Rows from `present` on are zeros.
fn transpose_strip(
    level: Level,
    from: &[f32],
    from_stride: usize,
    present: usize,
    depth: usize,
    to: &mut [f32],
    to_stride: usize,
) {
    let whole = if present == LANES { depth / LANES * LANES } else { 0 };
    for k in (0..whole).step_by(LANES) {
        block16(level, &from[k..], from_stride, &mut to[k * to_stride..], to_stride);
    }
    for k in whole..depth {
        let line = &mut to[k * to_stride..][..LANES];
        for (r, value) in line.iter_mut().enumerate() {
            *value = if r < present { from[r * from_stride + k] } else { 0.0 };
        }
    }
}

//! Drawing dots with characters.
//!
//! Responsible for: reducing points to the minimum, maximum, first and last of each column of dots, so that no spike is
//! lost; lines between points; dots as braille, half blocks or ASCII.
//! Must not depend on: colours, labels.

use super::Scale;
use crate::theme::Symbols;

/// A value, or the range of several values, at a position. A non-finite value is a gap.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Point {
    pub(crate) x: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// One column of dots.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Column {
    pub(super) x: u16,
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) first: f64,
    pub(super) last: f64,
    /// Whether there is a gap before this column.
    pub(super) after_gap: bool,
}

/// Reduces points to columns. `points` are sorted by `x`.
pub(super) fn columns(points: &[Point], scale: &Scale, width: u16) -> Vec<Column> {
    let mut columns: Vec<Column> = Vec::with_capacity(usize::from(width));
    let mut gap = true;
    for point in points {
        let Some(position) = scale.inside(point.x) else { continue };
        if !(point.low.is_finite() && point.high.is_finite()) {
            gap = true;
            continue;
        }
        let x = (position * f64::from(width.saturating_sub(1))).round() as u16;
        let middle = point.low + (point.high - point.low) / 2.0;
        match columns.last_mut().filter(|column| column.x == x) {
            Some(column) => {
                column.low = column.low.min(point.low);
                column.high = column.high.max(point.high);
                column.last = middle;
            }
            None => columns.push(Column {
                x,
                low: point.low,
                high: point.high,
                first: middle,
                last: middle,
                after_gap: gap,
            }),
        }
        gap = false;
    }
    columns
}

/// Dots in layers. If a character has dots of two layers, the higher layer is drawn.
pub(super) struct Grid {
    width: u16,
    height: u16,
    symbols: Symbols,
    cells: Vec<Cell>,
}

#[derive(Clone, Copy, Default)]
struct Cell {
    dots: u8,
    layer: u8,
}

impl Grid {
    /// An empty grid of `width` × `height` characters.
    pub(super) fn new(width: u16, height: u16, symbols: Symbols) -> Self {
        Self { width, height, symbols, cells: vec![Cell::default(); usize::from(width) * usize::from(height)] }
    }

    /// Dots per character, across and down.
    fn fine(&self) -> (u16, u16) {
        match self.symbols {
            Symbols::Braille => (2, 4),
            Symbols::Block => (1, 2),
            Symbols::Ascii => (1, 1),
        }
    }

    /// Dots of the grid, across and down.
    pub(super) fn dots(&self) -> (u16, u16) {
        let (across, down) = self.fine();
        (self.width.saturating_mul(across), self.height.saturating_mul(down))
    }

    fn set(&mut self, x: i32, y: i32, layer: u8) {
        let (across, down) = self.fine();
        let (Ok(x), Ok(y)) = (u16::try_from(x), u16::try_from(y)) else { return };
        if x / across >= self.width || y / down >= self.height {
            return;
        }
        let bit = match self.symbols {
            // Bit numbers in U+2800: the first three rows of the left column, then of the right column, then the fourth
            // row.
            Symbols::Braille => [[0, 3], [1, 4], [2, 5], [6, 7]][usize::from(y % 4)][usize::from(x % 2)],
            Symbols::Block | Symbols::Ascii => y % down,
        };
        let index = usize::from(y / down) * usize::from(self.width) + usize::from(x / across);
        let Some(cell) = self.cells.get_mut(index) else { return };
        if layer > cell.layer {
            *cell = Cell { dots: 0, layer };
        }
        if layer == cell.layer {
            cell.dots |= 1 << bit;
        }
    }

    /// A line of dots, including both ends (Bresenham 1965).
    pub(super) fn line(&mut self, from: (i32, i32), to: (i32, i32), layer: u8) {
        let (mut x, mut y) = from;
        let (across, down) = ((to.0 - x).abs(), -(to.1 - y).abs());
        let (right, below) = ((to.0 - x).signum(), (to.1 - y).signum());
        let mut error = across + down;
        loop {
            self.set(x, y, layer);
            if (x, y) == to {
                return;
            }
            let doubled = 2 * error;
            if doubled >= down {
                error += down;
                x += right;
            }
            if doubled <= across {
                error += across;
                y += below;
            }
        }
    }

    /// Characters with dots: column, row, character to draw (`None`: the curve's own ASCII character), layer.
    pub(super) fn glyphs(&self) -> impl Iterator<Item = (u16, u16, Option<char>, u8)> {
        let width = usize::from(self.width.max(1));
        self.cells.iter().enumerate().filter(|(_, cell)| cell.dots != 0).map(move |(index, cell)| {
            let glyph = match self.symbols {
                Symbols::Braille => char::from_u32(0x2800 + u32::from(cell.dots)),
                Symbols::Block => Some(match cell.dots {
                    1 => '▀',
                    2 => '▄',
                    _ => '█',
                }),
                Symbols::Ascii => None,
            };
            ((index % width) as u16, (index / width) as u16, glyph, cell.layer)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Labels;
    use super::*;

    fn point(x: f64, y: f64) -> Point {
        Point { x, low: y, high: y }
    }

    fn text(grid: &Grid) -> String {
        let mut rows = vec![vec![' '; usize::from(grid.width)]; usize::from(grid.height)];
        for (x, y, glyph, _) in grid.glyphs() {
            rows[usize::from(y)][usize::from(x)] = glyph.unwrap_or('*');
        }
        rows.into_iter().map(|row| row.into_iter().collect::<String>()).collect::<Vec<_>>().join("|")
    }

    #[test]
    fn a_diagonal_in_braille_blocks_and_ascii() {
        let drawn = |symbols| {
            let mut grid = Grid::new(4, 2, symbols);
            let (width, height) = grid.dots();
            grid.line((0, i32::from(height) - 1), (i32::from(width) - 1, 0), 1);
            text(&grid)
        };
        assert_eq!(drawn(Symbols::Braille), "  ⡠⠊|⡠⠊  ");
        assert_eq!(drawn(Symbols::Block), "  ▄▀|▄▀  ");
        assert_eq!(drawn(Symbols::Ascii), "  **|**  ");
    }

    #[test]
    fn a_higher_layer_wins_its_character() {
        let mut grid = Grid::new(1, 1, Symbols::Braille);
        grid.line((0, 0), (1, 3), 1);
        grid.line((0, 0), (0, 0), 2);
        grid.line((1, 1), (1, 1), 1);
        assert_eq!(grid.glyphs().collect::<Vec<_>>(), [(0, 0, Some('⠁'), 2)]);
    }

    #[test]
    fn columns_keep_spikes_and_gaps() {
        let scale = Scale::new(0.0, 100.0, false, Labels::Count);
        let mut points: Vec<Point> = (0..=100).map(|x| point(f64::from(x), 1.0)).collect();
        points[37] = point(37.0, 50.0);
        points[70] = point(70.0, f64::NAN);
        let columns = columns(&points, &scale, 11);
        assert_eq!(columns.len(), 11);
        assert_eq!(columns.iter().map(|column| column.high).fold(0.0, f64::max), 50.0);
        assert_eq!(
            columns.iter().filter(|column| column.after_gap).count(),
            1,
            "only the begin; the gap is inside one"
        );
        let sparse = [point(0.0, 1.0), point(50.0, f64::NAN), point(100.0, 2.0)];
        assert!(super::columns(&sparse, &scale, 11)[1].after_gap);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn lines_stay_inside(
            width in 0u16..40,
            height in 0u16..20,
            ends in proptest::array::uniform4(-100i32..200),
        ) {
            for symbols in [Symbols::Braille, Symbols::Block, Symbols::Ascii] {
                let mut grid = Grid::new(width, height, symbols);
                grid.line((ends[0], ends[1]), (ends[2], ends[3]), 1);
                prop_assert!(grid.glyphs().all(|(x, y, ..)| x < width && y < height));
            }
        }
    }
}

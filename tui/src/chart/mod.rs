//! A chart made of characters.
//!
//! Responsible for: axes, curves and marks of one chart in one rectangle.
//! Must not depend on: the meaning of values, runs, panels, keys.

mod raster;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::Line;
use ratatui::widgets::Widget;
pub(crate) use tonfall_runs::scale::{Labels, Scale};

pub(crate) use self::raster::Point;
use self::raster::{Grid, columns};
use crate::theme::{Look, Role};

/// Maximum width of the labels of the vertical axis.
const LABEL_WIDTH: u16 = 8;
/// Narrower charts have no labels at the side, lower charts have none below.
const SMALLEST: (u16, u16) = (20, 4);

/// A line through points.
pub(crate) struct Curve {
    pub(crate) points: Vec<Point>,
    pub(crate) role: Role,
    /// The character in ASCII mode.
    pub(crate) ascii: char,
    /// A character at its end, so that curves can be distinguished without colours.
    pub(crate) tag: Option<char>,
}

/// Single points on top of all curves.
pub(crate) struct Marks {
    pub(crate) points: Vec<Point>,
    pub(crate) role: Role,
    pub(crate) symbol: &'static str,
}

/// The content of a chart. Later curves are drawn on top of earlier ones.
pub(crate) struct Chart {
    pub(crate) x: Scale,
    pub(crate) y: Scale,
    pub(crate) curves: Vec<Curve>,
    pub(crate) marks: Vec<Marks>,
    pub(crate) look: Look,
}

impl Widget for Chart {
    fn render(self, area: Rect, buffer: &mut Buffer) {
        let area = area.intersection(buffer.area);
        if area.is_empty() {
            return;
        }
        let faint = self.look.style(Role::Faint);
        if self.curves.iter().all(|curve| curve.points.is_empty())
            && self.marks.iter().all(|marks| marks.points.is_empty())
        {
            let middle = Rect { y: area.y + area.height / 2, height: 1, ..area };
            return Line::styled("nothing measured yet", faint).centered().render(middle, buffer);
        }
        let has_rows = area.height >= SMALLEST.1;
        let plot_height = area.height - u16::from(has_rows);
        let ticks = match area.width >= SMALLEST.0 {
            true => self.y.ticks(usize::from(plot_height / 4).clamp(2, 8)),
            false => Vec::new(),
        };
        let widest = ticks.iter().map(|tick| tick.label.chars().count()).max().unwrap_or(0) as u16;
        let side = if widest == 0 { 0 } else { widest.min(LABEL_WIDTH) + 1 };
        let plot = Rect { x: area.x + side, y: area.y, width: area.width - side, height: plot_height };
        let mut taken = None;
        for tick in &ticks {
            let row = plot.y + ((1.0 - tick.position) * f64::from(plot.height.saturating_sub(1))).round() as u16;
            if taken.replace(row) != Some(row) {
                let label = format!("{:>width$}", tick.label, width = usize::from(side - 1));
                buffer.set_stringn(area.x, row, label, usize::from(side), faint);
            }
        }
        if has_rows {
            self.x_labels(plot, buffer);
        }
        self.draw(plot, buffer);
    }
}

impl Chart {
    fn x_labels(&self, plot: Rect, buffer: &mut Buffer) {
        let (row, faint) = (plot.bottom(), self.look.style(Role::Faint));
        let mut free = plot.x;
        for tick in self.x.ticks(usize::from(plot.width / 12).clamp(2, 10)) {
            let width = Line::from(tick.label.as_str()).width() as u16;
            let middle = plot.x + (tick.position * f64::from(plot.width.saturating_sub(1))).round() as u16;
            let start = middle.saturating_sub(width / 2).clamp(plot.x, plot.right().saturating_sub(width).max(plot.x));
            if start >= free && start + width <= plot.right() {
                buffer.set_string(start, row, tick.label, faint);
                free = start + width + 1;
            }
        }
    }

    fn draw(&self, plot: Rect, buffer: &mut Buffer) {
        let mut grid = Grid::new(plot.width, plot.height, self.look.symbols);
        let (width, height) = grid.dots();
        let end = f64::from(height.saturating_sub(1));
        let row = |value: f64| self.y.position(value).map(|position| ((1.0 - position) * end).round() as i32);
        for (layer, curve) in (1u8..).zip(&self.curves) {
            let mut before: Option<(i32, i32)> = None;
            for column in columns(&curve.points, &self.x, width) {
                let x = column.x as i32;
                let (Some(low), Some(high)) = (row(column.low), row(column.high)) else { continue };
                if let (Some(from), Some(first), false) = (before, row(column.first), column.after_gap) {
                    grid.line(from, (x, first), layer);
                }
                grid.line((x, high), (x, low), layer);
                before = row(column.last).map(|last| (x, last));
            }
        }
        let cell = |x: u16, y: u16| (plot.x + x, plot.y + y);
        for (x, y, glyph, layer) in grid.glyphs() {
            let curve = &self.curves[usize::from(layer) - 1];
            let glyph = glyph.unwrap_or(curve.ascii);
            if let Some(cell) = buffer.cell_mut(cell(x, y)) {
                cell.set_char(glyph).set_style(self.look.style(curve.role));
            }
        }
        for marks in &self.marks {
            for point in &marks.points {
                if let Some(at) = self.place(point, plot)
                    && let Some(cell) = buffer.cell_mut(at)
                {
                    cell.set_symbol(marks.symbol).set_style(self.look.style(marks.role));
                }
            }
        }
        for curve in &self.curves {
            let last = curve.points.iter().rev().find_map(|point| self.place(point, plot));
            if let (Some(tag), Some(at)) = (curve.tag, last)
                && let Some(cell) = buffer.cell_mut(at)
            {
                cell.set_char(tag).set_style(self.look.style(curve.role).add_modifier(ratatui::style::Modifier::BOLD));
            }
        }
    }

    /// The character position of a point.
    fn place(&self, point: &Point, plot: Rect) -> Option<(u16, u16)> {
        let (x, y) = (self.x.inside(point.x)?, self.y.position(point.high)?);
        let across = (x * f64::from(plot.width.saturating_sub(1))).round() as u16;
        let down = ((1.0 - y) * f64::from(plot.height.saturating_sub(1))).round() as u16;
        (plot.width > 0 && plot.height > 0).then_some((plot.x + across, plot.y + down))
    }
}

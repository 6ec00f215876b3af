//! A chart as inline SVG.
//!
//! Responsible for: axes, lines and points of one chart. Its width follows the page, its text keeps its size: lines are
//! in a stretched inner picture, labels and points are placed by percentages.
//! Must not depend on: the meaning of the values, runs.

use std::fmt::{self, Display};

use tonfall_runs::curve::Piece;
use tonfall_runs::scale::Scale;

use crate::html::{Html, html};

/// Width and height of the inner picture, in its own units.
const WIDTH: f64 = 2000.0;
const HEIGHT: f64 = 1000.0;
/// Labels on each axis, about.
const TICKS: usize = 5;

/// One chart.
pub(crate) struct Chart {
    /// Prefix of its ids, unique on the page.
    pub(crate) id: &'static str,
    pub(crate) title: String,
    /// The values in words, for people who can't see the chart.
    pub(crate) description: String,
    pub(crate) x_name: &'static str,
    pub(crate) x: Scale,
    pub(crate) y: Scale,
    /// Height in CSS pixels.
    pub(crate) height: u32,
    pub(crate) lines: Vec<Line>,
    /// Marked points, drawn above the lines.
    pub(crate) points: Vec<(f64, f64)>,
}

/// A curve with a class of the style sheet.
pub(crate) struct Line {
    pub(crate) class: &'static str,
    pub(crate) pieces: Vec<Piece>,
}

/// The path of a curve.
struct Path<'a> {
    chart: &'a Chart,
    pieces: &'a [Piece],
}

impl Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for piece in self.pieces {
            for (index, (x, y)) in piece.iter().enumerate() {
                let (Some(x), Some(y)) = (self.chart.x.position(*x), self.chart.y.position(*y)) else { continue };
                let command = if index == 0 { 'M' } else { 'L' };
                write!(f, "{command}{:.0} {:.0}", x * WIDTH, (1.0 - y) * HEIGHT)?;
            }
            // A line without length has round ends: a single value between two gaps is a dot.
            if piece.len() == 1 {
                f.write_str("h0")?;
            }
        }
        Ok(())
    }
}

impl Chart {
    pub(crate) fn write(&self, page: &mut Html) {
        let height = f64::from(self.height);
        html!(
            page,
            "<div class=\"plot\"><svg class=\"chart\" role=\"img\" aria-labelledby=\"{}-title {}-desc\" width=\"100%\" height=\"{}\">\n",
            self.id,
            self.id,
            self.height
        );
        html!(page, "<title id=\"{}-title\">{}</title>\n", self.id, self.title);
        html!(page, "<desc id=\"{}-desc\">{}</desc>\n", self.id, self.description);
        for tick in self.y.ticks(TICKS) {
            let y = format!("{:.1}", (1.0 - tick.position) * height);
            html!(page, "<line class=\"grid\" x1=\"0\" x2=\"100%\" y1=\"{}\" y2=\"{}\"/>", y, y);
            html!(page, "<text class=\"y\" x=\"-8\" y=\"{}\" dy=\"0.35em\">{}</text>\n", y, tick.label);
        }
        html!(page, "<line class=\"axis\" x1=\"0\" x2=\"100%\" y1=\"{}\" y2=\"{}\"/>\n", self.height, self.height);
        for tick in self.x.ticks(TICKS) {
            let anchor = match tick.position {
                position if position < 0.02 => "start",
                position if position > 0.95 => "end",
                _ => "middle",
            };
            let x = format!("{:.2}%", tick.position * 100.0);
            html!(
                page,
                "<text class=\"x\" x=\"{}\" y=\"{}\" dy=\"1.4em\" text-anchor=\"{}\">{}</text>\n",
                x,
                self.height,
                anchor,
                tick.label
            );
        }
        html!(
            page,
            "<svg width=\"100%\" height=\"{}\" viewBox=\"0 0 2000 1000\" preserveAspectRatio=\"none\">\n",
            self.height
        );
        for line in &self.lines {
            let path = Path { chart: self, pieces: &line.pieces };
            html!(page, "<path class=\"{}\" vector-effect=\"non-scaling-stroke\" d=\"{}\"/>\n", line.class, path);
        }
        html!(page, "</svg>\n");
        for (x, y) in &self.points {
            let (Some(x), Some(y)) = (self.x.position(*x), self.y.position(*y)) else { continue };
            let (x, y) = (format!("{:.2}%", x * 100.0), format!("{:.1}", (1.0 - y) * height));
            html!(
                page,
                "<svg class=\"point\" x=\"{}\" y=\"{}\" width=\"1\" height=\"1\"><path d=\"M-5.5 0L0-5.5 5.5 0 0 5.5z\"/></svg>\n",
                x,
                y
            );
        }
        html!(page, "</svg><p class=\"x-name\" aria-hidden=\"true\">{}</p></div>\n", self.x_name);
    }
}

#[cfg(test)]
mod tests {
    use tonfall_runs::scale::Labels;

    use super::*;

    #[test]
    fn gaps_split_the_path_and_single_values_stay_visible() {
        let chart = Chart {
            id: "t",
            title: "a < b".to_owned(),
            description: String::new(),
            x_name: "step",
            x: Scale::new(0.0, 10.0, false, Labels::Count),
            y: Scale::new(0.0, 1.0, false, Labels::Measure),
            height: 100,
            lines: vec![Line { class: "raw", pieces: vec![vec![(0.0, 1.0), (5.0, 0.5)], vec![(10.0, 0.0)]] }],
            points: vec![(5.0, 0.5), (1.0, f64::NAN)],
        };
        let mut page = Html::default();
        chart.write(&mut page);
        let page = page.into_string();
        assert!(page.contains("d=\"M0 0L1000 500M2000 1000h0\""), "{page}");
        assert!(page.contains("a &lt; b") && page.matches("class=\"point\"").count() == 1, "{page}");
        assert!(page.contains("x=\"50.00%\" y=\"50.0\""), "{page}");
    }
}

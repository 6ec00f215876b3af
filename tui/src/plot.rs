//! Settings of charts.
//!
//! Responsible for: smoothing, axes, and the visible part of a run.
//! Must not depend on: terminals, curves.

use tonfall_runs::series::Axis;

/// Decay factors of the moving average of the loss; the first is the default.
const SMOOTHINGS: [f64; 5] = [0.9, 0.95, 0.99, 0.0, 0.6];
/// The smallest visible fraction.
const NARROWEST: f64 = 1e-4;

/// The settings of all charts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Plot {
    smoothing: usize,
    pub(crate) log: bool,
    pub(crate) axis: Axis,
    pub(crate) raw: bool,
    pub(crate) cut_outliers: bool,
    /// Visible fraction of the run.
    span: f64,
    /// Right end of the visible part as a fraction of the run; `None` follows the newest step.
    end: Option<f64>,
}

impl Default for Plot {
    fn default() -> Self {
        Self { smoothing: 0, log: false, axis: Axis::Step, raw: true, cut_outliers: false, span: 1.0, end: None }
    }
}

impl Plot {
    /// The decay factor of the moving average.
    pub(crate) fn past(&self) -> f64 {
        SMOOTHINGS[self.smoothing]
    }

    pub(crate) fn next_smoothing(&mut self) {
        self.smoothing = (self.smoothing + 1) % SMOOTHINGS.len();
    }

    /// Switches to the next axis and shows the whole run, because a range of one axis has no meaning on another.
    pub(crate) fn next_axis(&mut self) {
        let at = Axis::ALL.iter().position(|axis| *axis == self.axis).unwrap_or(0);
        self.axis = Axis::ALL[(at + 1) % Axis::ALL.len()];
        self.show_whole();
    }

    /// The visible part as fractions of the run.
    pub(crate) fn window(&self) -> (f64, f64) {
        let end = self.end.unwrap_or(1.0).clamp(self.span, 1.0);
        (end - self.span, end)
    }

    pub(crate) fn is_zoomed(&self) -> bool {
        self.span < 1.0
    }

    /// The zoom factor.
    pub(crate) fn magnification(&self) -> f64 {
        1.0 / self.span
    }

    /// Whether the newest step stays visible.
    pub(crate) fn follows(&self) -> bool {
        self.end.is_none()
    }

    pub(crate) fn follow(&mut self) {
        self.end = None;
    }

    pub(crate) fn show_whole(&mut self) {
        (self.span, self.end) = (1.0, None);
    }

    /// Zooms around `around`, a fraction of the visible part. If the right edge is visible, the newest step stays
    /// visible.
    pub(crate) fn zoom(&mut self, factor: f64, around: f64) {
        let (start, end) = self.window();
        let fixed = start + (end - start) * around;
        self.span = (self.span * factor).clamp(NARROWEST, 1.0);
        self.end = match self.end {
            None if around >= 1.0 => None,
            _ if !self.is_zoomed() => None,
            _ => Some((fixed + self.span * (1.0 - around)).clamp(self.span, 1.0)),
        };
    }

    /// Moves the visible part by a fraction of its width.
    pub(crate) fn pan(&mut self, by: f64) {
        if self.is_zoomed() {
            let (_, end) = self.window();
            self.end = Some((end + by * self.span).clamp(self.span, 1.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zoom_keeps_its_place_and_ends_at_the_whole() {
        let mut plot = Plot::default();
        plot.zoom(0.5, 1.0);
        assert_eq!((plot.window(), plot.follows()), ((0.5, 1.0), true));
        plot.zoom(0.5, 0.5);
        assert_eq!((plot.window(), plot.follows()), ((0.625, 0.875), false));
        plot.pan(-1.0);
        assert_eq!(plot.window(), (0.375, 0.625));
        plot.zoom(100.0, 0.5);
        assert_eq!((plot.window(), plot.follows()), ((0.0, 1.0), true));
        plot.pan(-1.0);
        assert_eq!(plot.window(), (0.0, 1.0), "the whole has no other place");
    }
}

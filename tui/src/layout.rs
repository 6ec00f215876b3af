//! Positions of panels.
//!
//! Responsible for: the rectangle of each panel for a given terminal size, for drawing and for the mouse.
//! Must not depend on: the content of panels.
//!
//! ```text
//! below 60×16   one line
//! up to 119×39  loss above events, now to the right; other panels replace loss when selected
//! from 120×40   loss and now; learning rate, gradient norm, throughput, memory; events and samples
//! from 200×40   also runs and data
//! ```

use ratatui::layout::{Constraint, Layout, Rect};

/// A panel of the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Panel {
    Loss,
    Now,
    Events,
    Runs,
    Samples,
    LearningRate,
    GradNorm,
    Throughput,
    Memory,
    Data,
}

impl Panel {
    pub(crate) const ALL: [Self; 10] = [
        Self::Loss,
        Self::Now,
        Self::Events,
        Self::Runs,
        Self::Samples,
        Self::LearningRate,
        Self::GradNorm,
        Self::Throughput,
        Self::Memory,
        Self::Data,
    ];

    pub(crate) fn index(self) -> usize {
        self as usize
    }

    /// Whether the panel is a chart. Charts can be zoomed.
    pub(crate) fn is_chart(self) -> bool {
        matches!(self, Self::Loss | Self::LearningRate | Self::GradNorm | Self::Throughput | Self::Memory)
    }
}

/// Minimum width and height for panels; smaller terminals get one line.
const SMALLEST: (u16, u16) = (60, 16);
const MEDIUM: (u16, u16) = (120, 40);
const LARGE: (u16, u16) = (200, 40);
const NOW_WIDTH: u16 = 32;
const RUNS_WIDTH: u16 = 64;

/// The panels of a screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Screen {
    OneLine(Rect),
    Panels { head: Rect, panels: Vec<(Panel, Rect)>, foot: Rect },
}

/// Divides a screen. If `alone`, the panel `focus` fills it.
pub(crate) fn divide(area: Rect, focus: Panel, alone: bool) -> Screen {
    let fits = |size: (u16, u16)| area.width >= size.0 && area.height >= size.1;
    if !fits(SMALLEST) {
        return Screen::OneLine(area);
    }
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(3), Constraint::Length(1)]).areas(area);
    let panels = match () {
        () if alone => vec![(focus, body)],
        () if fits(LARGE) => large(body),
        () if fits(MEDIUM) => medium(body),
        () => small(body, focus),
    };
    Screen::Panels { head, panels, foot }
}

fn small(body: Rect, focus: Panel) -> Vec<(Panel, Rect)> {
    let [left, now] = Layout::horizontal([Constraint::Min(20), Constraint::Length(NOW_WIDTH)]).areas(body);
    let [main, events] = Layout::vertical([Constraint::Fill(3), Constraint::Fill(1)]).areas(left);
    let shown = if matches!(focus, Panel::Now | Panel::Events) { Panel::Loss } else { focus };
    vec![(shown, main), (Panel::Now, now), (Panel::Events, events)]
}

fn medium(body: Rect) -> Vec<(Panel, Rect)> {
    let rows = [Constraint::Fill(4), Constraint::Fill(2), Constraint::Fill(3)];
    let [top, middle, bottom] = Layout::vertical(rows).areas(body);
    let [loss, now] = Layout::horizontal([Constraint::Min(20), Constraint::Length(NOW_WIDTH)]).areas(top);
    let quarters: [Rect; 4] = Layout::horizontal([Constraint::Fill(1); 4]).areas(middle);
    let [events, samples] = Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).areas(bottom);
    let mut panels = vec![(Panel::Loss, loss), (Panel::Now, now), (Panel::Events, events), (Panel::Samples, samples)];
    let charts = [Panel::LearningRate, Panel::GradNorm, Panel::Throughput, Panel::Memory];
    panels.extend(charts.into_iter().zip(quarters));
    panels
}

fn large(body: Rect) -> Vec<(Panel, Rect)> {
    let [left, right] = Layout::horizontal([Constraint::Length(RUNS_WIDTH), Constraint::Min(20)]).areas(body);
    let [runs, data] = Layout::vertical([Constraint::Fill(3), Constraint::Length(16)]).areas(left);
    let mut panels = medium(right);
    panels.extend([(Panel::Runs, runs), (Panel::Data, data)]);
    panels
}

impl Screen {
    /// The panels; none in the one-line layout.
    pub(crate) fn panels(&self) -> &[(Panel, Rect)] {
        match self {
            Self::OneLine(_) => &[],
            Self::Panels { panels, .. } => panels,
        }
    }

    /// The panel under a character.
    pub(crate) fn at(&self, column: u16, row: u16) -> Option<(Panel, Rect)> {
        self.panels().iter().copied().find(|(_, area)| area.contains((column, row).into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_fill_the_screen_without_overlapping() {
        for (width, height, count) in [(60, 16, 3), (80, 24, 3), (120, 40, 8), (200, 50, 10), (300, 100, 10)] {
            let area = Rect::new(0, 0, width, height);
            let screen = divide(area, Panel::Loss, false);
            assert_eq!(screen.panels().len(), count, "{width}×{height}");
            let cells: u32 = screen.panels().iter().map(|(_, rect)| rect.area()).sum();
            assert_eq!(cells, u32::from(width) * u32::from(height - 2), "{width}×{height}");
            for (index, (_, one)) in screen.panels().iter().enumerate() {
                assert!(screen.panels()[..index].iter().all(|(_, other)| !one.intersects(*other)));
            }
        }
        assert!(divide(Rect::new(0, 0, 59, 40), Panel::Loss, false).panels().is_empty());
    }

    #[test]
    fn a_hidden_panel_is_shown_when_selected() {
        let area = Rect::new(0, 0, 80, 24);
        for panel in Panel::ALL {
            let screen = divide(area, panel, false);
            assert!(screen.panels().iter().any(|(shown, _)| *shown == panel), "{panel:?}");
            assert_eq!(divide(area, panel, true).panels().len(), 1);
        }
    }
}

//! The state of a dashboard.
//!
//! Responsible for: the data to draw, and values derived from it: rows of the table, compared runs, remaining time.
//! Must not depend on: updates, drawing.

use ratatui::layout::Rect;
use tonfall_runs::follow::ReadProgress;
use tonfall_runs::history::RunData;
use tonfall_runs::{Status, Summary};

use crate::layout::{Panel, Screen, divide};
use crate::plot::Plot;
use crate::theme::Look;

/// The word that confirms a stop request.
pub(crate) const STOP_WORD: &str = "stop";

/// A run on the dashboard.
#[derive(Debug, Default)]
pub(crate) struct Run {
    pub(crate) id: String,
    pub(crate) created: String,
    /// Whether a process holds the lock of the run, and whether a stop was requested.
    pub(crate) held: bool,
    pub(crate) stop_requested: bool,
    pub(crate) summary: Summary,
    /// The full history, for runs that are displayed or compared.
    pub(crate) data: Option<Box<RunData>>,
    pub(crate) marked: bool,
    /// Clock time when the newest event arrived.
    pub(crate) heard: f64,
    pub(crate) read: ReadProgress,
    /// Why the run can't be read.
    pub(crate) fault: Option<String>,
}

impl Run {
    pub(crate) fn status(&self) -> Status {
        self.summary.status(self.held)
    }
}

/// The receiver of key presses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Panels,
    Help,
    /// The text field of the filter.
    Filter,
    /// The text field that confirms a stop request.
    Stop {
        run: usize,
        typed: String,
    },
}

/// The state of a dashboard.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) look: Look,
    pub(crate) runs: Vec<Run>,
    pub(crate) selected: usize,
    pub(crate) focus: Panel,
    /// Whether the focused panel fills the screen.
    pub(crate) alone: bool,
    pub(crate) mode: Mode,
    pub(crate) filter: String,
    pub(crate) plot: Plot,
    pub(crate) compare: bool,
    /// Clock time when the screen was frozen.
    pub(crate) frozen: Option<f64>,
    /// A message and the clock time when it arrived.
    pub(crate) notice: Option<(f64, String)>,
    /// Scroll position of each panel in lines or samples; in the list of events from the newest line.
    pub(crate) scroll: [usize; Panel::ALL.len()],
    pub(crate) help_scroll: usize,
    pub(crate) clock: f64,
    pub(crate) size: Rect,
}

impl App {
    pub(crate) fn new(look: Look) -> Self {
        Self {
            look,
            runs: Vec::new(),
            selected: 0,
            focus: Panel::Loss,
            alone: false,
            mode: Mode::Panels,
            filter: String::new(),
            plot: Plot::default(),
            compare: false,
            frozen: None,
            notice: None,
            scroll: [0; Panel::ALL.len()],
            help_scroll: 0,
            clock: 0.0,
            size: Rect::new(0, 0, 80, 24),
        }
    }

    /// The selected run.
    pub(crate) fn run(&self) -> Option<&Run> {
        self.runs.get(self.selected)
    }

    /// The history of the selected run, if it was read.
    pub(crate) fn data(&self) -> Option<&RunData> {
        self.run()?.data.as_deref()
    }

    /// Whether the full history of a run is needed.
    pub(crate) fn wants(&self, run: usize) -> bool {
        run == self.selected || self.runs.get(run).is_some_and(|run| run.marked)
    }

    /// The runs of the table, newest first.
    pub(crate) fn rows(&self) -> Vec<usize> {
        let words: Vec<String> = self.filter.split_whitespace().map(str::to_lowercase).collect();
        let passes = |run: &Run| {
            let text = format!("{} {}", run.id, run.status().name()).to_lowercase();
            words.iter().all(|word| text.contains(word))
        };
        let mut rows: Vec<usize> = (0..self.runs.len()).filter(|index| passes(&self.runs[*index])).collect();
        // A run without a start time counts as the newest.
        let key = |index: &usize| (self.runs[*index].created.is_empty(), &self.runs[*index].created);
        rows.sort_by(|a, b| key(b).cmp(&key(a)).then(a.cmp(b)));
        rows
    }

    /// The runs whose curves are drawn, the selected one first.
    pub(crate) fn compared(&self) -> Vec<usize> {
        let others = (0..self.runs.len()).filter(|run| self.compare && *run != self.selected && self.runs[*run].marked);
        std::iter::once(self.selected).filter(|run| *run < self.runs.len()).chain(others).collect()
    }

    pub(crate) fn screen(&self) -> Screen {
        divide(self.size, self.focus, self.alone)
    }

    /// Remaining seconds while the run trains and its speed is known. Counts down between steps.
    pub(crate) fn eta(&self) -> Option<f64> {
        let run = self.run().filter(|run| run.status().is_alive() && run.summary.step > 0)?;
        let each = run.data.as_ref()?.seconds_per_step()?;
        let left = run.summary.total_steps.saturating_sub(run.summary.step);
        Some((each * left as f64 - self.silence(run).min(each)).max(0.0))
    }

    /// Seconds since the newest event arrived, at the time of the freeze if the screen is frozen.
    pub(crate) fn silence(&self, run: &Run) -> f64 {
        (self.frozen.unwrap_or(self.clock) - run.heard).max(0.0)
    }
}

//! The state of a dashboard.
//!
//! Responsible for: what there is to be drawn, and what follows from it: which runs the table shows, which are compared,
//! how long a run still takes.
//! Must not depend on: how the state changes or is drawn.

use ratatui::layout::Rect;
use tonfall_runs::follow::Read;
use tonfall_runs::history::RunData;
use tonfall_runs::{Status, Summary};

use crate::layout::{Panel, Screen, divide};
use crate::plot::Plot;
use crate::theme::Look;

/// What has to be typed before a run is asked to stop.
pub(crate) const STOP_WORD: &str = "stop";

/// What is known about a run.
#[derive(Debug, Default)]
pub(crate) struct Run {
    pub(crate) id: String,
    pub(crate) created: String,
    /// Whether a process works on the run, and whether somebody asked it to stop.
    pub(crate) held: bool,
    pub(crate) stop_requested: bool,
    pub(crate) summary: Summary,
    /// Everything, for runs that are shown or compared.
    pub(crate) data: Option<Box<RunData>>,
    pub(crate) marked: bool,
    /// When the newest event arrived here.
    pub(crate) heard: f64,
    pub(crate) read: Read,
    /// Why the run can't be read at the moment.
    pub(crate) fault: Option<String>,
}

impl Run {
    pub(crate) fn status(&self) -> Status {
        self.summary.status(self.held)
    }
}

/// Where the keys go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Panels,
    Help,
    /// The filter is being typed.
    Filter,
    /// The confirmation of a stop is being typed.
    Stop {
        run: usize,
        typed: String,
    },
}

/// The whole state.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) look: Look,
    pub(crate) runs: Vec<Run>,
    pub(crate) selected: usize,
    pub(crate) focus: Panel,
    /// Whether the panel in focus has all the room.
    pub(crate) alone: bool,
    pub(crate) mode: Mode,
    pub(crate) filter: String,
    pub(crate) plot: Plot,
    pub(crate) compare: bool,
    /// Since when the screen is held still.
    pub(crate) frozen: Option<f64>,
    /// A message, and when it came.
    pub(crate) notice: Option<(f64, String)>,
    /// Lines or samples scrolled by, for each panel; counted from the newest line in the list of events.
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

    /// The run that is shown.
    pub(crate) fn run(&self) -> Option<&Run> {
        self.runs.get(self.selected)
    }

    /// Everything of the run that is shown.
    pub(crate) fn data(&self) -> Option<&RunData> {
        self.run()?.data.as_deref()
    }

    /// Whether everything of a run is needed, not only its line.
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
        // What has not begun yet is the newest of all.
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

    /// Seconds to go, while the run trains and its speed is known. Counts down between steps.
    pub(crate) fn eta(&self) -> Option<f64> {
        let run = self.run().filter(|run| run.status().is_alive() && run.summary.step > 0)?;
        let each = run.data.as_ref()?.seconds_per_step()?;
        let left = run.summary.total_steps.saturating_sub(run.summary.step);
        Some((each * left as f64 - self.silence(run).min(each)).max(0.0))
    }

    /// Seconds since the newest event arrived. On a screen that is held still no time passes.
    pub(crate) fn silence(&self, run: &Run) -> f64 {
        (self.frozen.unwrap_or(self.clock) - run.heard).max(0.0)
    }
}

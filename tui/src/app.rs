//! The state of a dashboard.
//!
//! Responsible for: `update`, which turns news, keys and the mouse into a new state. Pure: no clock, no files, no terminal.
//! Must not depend on: how things are drawn.

use ratatui::crossterm::event::{
    KeyCode, KeyEvent, KeyEventKind, KeyModifiers, MouseButton, MouseEvent, MouseEventKind,
};
use ratatui::layout::Rect;
use tonfall_recipes::Event;

use crate::keys::{self, Action};
use crate::layout::{Panel, Screen, divide};
use crate::run::RunData;
use crate::series::Axis;
use crate::summary::{Status, Summary};
use crate::theme::Look;

/// Shares of the past in the smoothed loss; the first is the one to begin with.
pub(crate) const SMOOTHINGS: [f64; 5] = [0.95, 0.99, 0.0, 0.6, 0.9];
/// What has to be typed before a run is asked to stop.
pub(crate) const STOP_WORD: &str = "stop";
/// Seconds for which a message stays.
const NOTICE_SECONDS: f64 = 8.0;
/// The narrowest zoom.
const NARROWEST: f64 = 1e-4;
/// Lines of one wheel step, and of one page.
const WHEEL: usize = 3;
const PAGE: usize = 10;

/// News.
#[derive(Debug)]
pub(crate) enum Message {
    /// The time in seconds; only differences count.
    Tick(f64),
    /// A run was found; its number is how many there were.
    Found {
        id: String,
    },
    /// The directory of a run is there.
    Opened {
        run: usize,
        created: String,
    },
    /// A run is read from its beginning; with everything, or only for its line in the table.
    Restart {
        run: usize,
        whole: bool,
    },
    /// A run is from now on only a line in the table.
    Forget {
        run: usize,
    },
    Events {
        run: usize,
        events: Vec<Event>,
    },
    /// Bytes of the log that were read and that there are, and lines that were not understood.
    Read {
        run: usize,
        bytes: u64,
        of: u64,
        damaged: u64,
        unknown: u64,
    },
    /// Whether a process works on the run, and whether somebody asked it to stop.
    Held {
        run: usize,
        held: bool,
        stop_requested: bool,
    },
    /// The run can't be read at the moment.
    Fault {
        run: usize,
        fault: Option<String>,
    },
    /// Something to say for a while.
    Notice(String),
    Key(KeyEvent),
    Mouse(MouseEvent),
    Resize(u16, u16),
}

/// What the outside has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Quit,
    RequestStop { run: usize },
}

/// What is known about a run.
#[derive(Debug, Default)]
pub(crate) struct Run {
    pub(crate) id: String,
    pub(crate) created: String,
    pub(crate) held: bool,
    pub(crate) stop_requested: bool,
    pub(crate) summary: Summary,
    /// Everything, for runs that are shown or compared.
    pub(crate) data: Option<Box<RunData>>,
    pub(crate) marked: bool,
    /// When the newest event arrived here.
    pub(crate) heard: f64,
    pub(crate) read: (u64, u64),
    pub(crate) damaged: u64,
    pub(crate) unknown: u64,
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

/// How charts are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Charts {
    pub(crate) smoothing: usize,
    pub(crate) log: bool,
    pub(crate) axis: Axis,
    pub(crate) raw: bool,
    pub(crate) cut_outliers: bool,
    /// Share of the whole that is seen.
    pub(crate) span: f64,
    /// Right end of what is seen, as a share of the whole; `None` follows the newest step.
    pub(crate) end: Option<f64>,
}

impl Charts {
    pub(crate) fn past(&self) -> f64 {
        SMOOTHINGS[self.smoothing % SMOOTHINGS.len()]
    }

    /// What is seen, as shares of the whole.
    pub(crate) fn window(&self) -> (f64, f64) {
        let end = self.end.unwrap_or(1.0).clamp(self.span, 1.0);
        (end - self.span, end)
    }

    /// Zooms so that the place `around`, a share of what is seen, stays where it is.
    fn zoom(&mut self, factor: f64, around: f64) {
        let (start, end) = self.window();
        let fixed = start + (end - start) * around;
        self.span = (self.span * factor).clamp(NARROWEST, 1.0);
        self.end = match self.end {
            None if around >= 1.0 => None,
            _ => Some((fixed + self.span * (1.0 - around)).clamp(self.span, 1.0)),
        };
        if self.span >= 1.0 {
            self.end = None;
        }
    }

    fn pan(&mut self, by: f64) {
        if self.span < 1.0 {
            let (_, end) = self.window();
            self.end = Some((end + by * self.span).clamp(self.span, 1.0));
        }
    }
}

/// The whole state.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) look: Look,
    pub(crate) runs: Vec<Run>,
    pub(crate) selected: usize,
    pub(crate) focus: Panel,
    pub(crate) alone: bool,
    pub(crate) mode: Mode,
    pub(crate) filter: String,
    pub(crate) charts: Charts,
    pub(crate) compare: bool,
    pub(crate) frozen: bool,
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
            charts: Charts {
                smoothing: 0,
                log: false,
                axis: Axis::Step,
                raw: true,
                cut_outliers: false,
                span: 1.0,
                end: None,
            },
            compare: false,
            frozen: false,
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

    /// Seconds since the newest event arrived.
    pub(crate) fn silence(&self, run: &Run) -> f64 {
        (self.clock - run.heard).max(0.0)
    }
}

/// The next state, and what the outside has to do.
pub(crate) fn update(app: &mut App, message: Message) -> Option<Effect> {
    match message {
        Message::Tick(clock) => {
            app.clock = clock;
            app.notice = app.notice.take().filter(|(since, _)| clock - since < NOTICE_SECONDS);
        }
        Message::Found { id } => app.runs.push(Run { id, heard: app.clock, ..Run::default() }),
        Message::Opened { run, created } => {
            if let Some(run) = app.runs.get_mut(run) {
                run.created = created;
            }
        }
        Message::Forget { run } => {
            if let Some(run) = app.runs.get_mut(run) {
                run.data = None;
            }
        }
        Message::Restart { run, whole } => {
            if let Some(run) = app.runs.get_mut(run) {
                (run.summary, run.read) = (Summary::default(), (0, 0));
                run.data = whole.then(Box::default);
            }
        }
        Message::Events { run, events } => {
            let clock = app.clock;
            if let Some(run) = app.runs.get_mut(run).filter(|_| !events.is_empty()) {
                run.heard = clock;
                for event in events {
                    run.summary.observe(&event);
                    if let Some(data) = &mut run.data {
                        data.observe(event);
                    }
                }
            }
        }
        Message::Read { run, bytes, of, damaged, unknown } => {
            if let Some(run) = app.runs.get_mut(run) {
                (run.read, run.damaged, run.unknown) = ((bytes, of), damaged, unknown);
            }
        }
        Message::Held { run, held, stop_requested } => {
            if let Some(run) = app.runs.get_mut(run) {
                (run.held, run.stop_requested) = (held, stop_requested);
            }
        }
        Message::Fault { run, fault } => {
            if let Some(run) = app.runs.get_mut(run) {
                run.fault = fault;
            }
        }
        Message::Notice(text) => app.notice = Some((app.clock, text)),
        Message::Resize(width, height) => app.size = Rect::new(0, 0, width, height),
        Message::Key(key) if key.kind == KeyEventKind::Release => {}
        Message::Key(key) => return press(app, key),
        Message::Mouse(event) => mouse(app, event),
    }
    None
}

fn press(app: &mut App, key: KeyEvent) -> Option<Effect> {
    if keys::action(key) == Some(Action::Quit) && key.modifiers.contains(KeyModifiers::CONTROL) {
        return Some(Effect::Quit);
    }
    match &mut app.mode {
        Mode::Filter => {
            match key.code {
                KeyCode::Enter => app.mode = Mode::Panels,
                KeyCode::Esc => {
                    app.filter.clear();
                    app.mode = Mode::Panels;
                }
                KeyCode::Backspace => drop(app.filter.pop()),
                KeyCode::Char(char) => app.filter.push(char),
                _ => {}
            }
            keep_selection_visible(app);
            None
        }
        Mode::Stop { run, typed } => {
            match key.code {
                KeyCode::Enter if typed.trim() == STOP_WORD => {
                    let run = *run;
                    app.mode = Mode::Panels;
                    return Some(Effect::RequestStop { run });
                }
                KeyCode::Enter | KeyCode::Esc => {
                    app.mode = Mode::Panels;
                    app.notice = Some((app.clock, "the run was not asked to stop".to_owned()));
                }
                KeyCode::Backspace => drop(typed.pop()),
                KeyCode::Char(char) if typed.len() < 40 => typed.push(char),
                _ => {}
            }
            None
        }
        Mode::Help => {
            match keys::action(key) {
                Some(Action::Quit) => return Some(Effect::Quit),
                Some(Action::Down) => app.help_scroll = app.help_scroll.saturating_add(1),
                Some(Action::Up) => app.help_scroll = app.help_scroll.saturating_sub(1),
                Some(Action::PageDown) => app.help_scroll = app.help_scroll.saturating_add(PAGE),
                Some(Action::PageUp) => app.help_scroll = app.help_scroll.saturating_sub(PAGE),
                _ => app.mode = Mode::Panels,
            }
            None
        }
        Mode::Panels => keys::action(key).and_then(|action| act(app, action)),
    }
}

fn act(app: &mut App, action: Action) -> Option<Effect> {
    match action {
        Action::Quit => return Some(Effect::Quit),
        Action::Help => (app.mode, app.help_scroll) = (Mode::Help, 0),
        Action::Back => back(app),
        Action::NextPanel => turn_focus(app, 1),
        Action::PreviousPanel => turn_focus(app, -1),
        Action::Panel(panel) => app.focus = panel,
        Action::Maximise => app.alone = !app.alone,
        Action::Up => scroll(app, app.focus, -1),
        Action::Down => scroll(app, app.focus, 1),
        Action::PageUp => scroll(app, app.focus, -(PAGE as isize)),
        Action::PageDown => scroll(app, app.focus, PAGE as isize),
        Action::NextRun => select(app, 1),
        Action::PreviousRun => select(app, -1),
        Action::Mark => {
            if let Some(run) = app.runs.get_mut(app.selected) {
                run.marked = !run.marked;
            }
        }
        Action::Compare => {
            app.compare = !app.compare;
            if app.compare && app.compared().len() < 2 {
                let text = "nothing to compare with: mark runs with Space in the table (4)";
                app.notice = Some((app.clock, text.to_owned()));
            }
        }
        Action::Filter => app.mode = Mode::Filter,
        Action::Smooth => app.charts.smoothing = (app.charts.smoothing + 1) % SMOOTHINGS.len(),
        Action::LogScale => app.charts.log = !app.charts.log,
        Action::Axis => {
            let at = Axis::ALL.iter().position(|axis| *axis == app.charts.axis).unwrap_or(0);
            app.charts.axis = Axis::ALL[(at + 1) % Axis::ALL.len()];
            (app.charts.span, app.charts.end) = (1.0, None);
        }
        Action::Raw => app.charts.raw = !app.charts.raw,
        Action::Outliers => app.charts.cut_outliers = !app.charts.cut_outliers,
        Action::ZoomIn => app.charts.zoom(0.5, if app.charts.end.is_none() { 1.0 } else { 0.5 }),
        Action::ZoomOut => app.charts.zoom(2.0, if app.charts.end.is_none() { 1.0 } else { 0.5 }),
        Action::Left => app.charts.pan(-0.25),
        Action::Right => app.charts.pan(0.25),
        Action::Whole => (app.charts.span, app.charts.end) = (1.0, None),
        Action::Follow => app.charts.end = None,
        Action::Freeze => app.frozen = !app.frozen,
        Action::Stop => match app.run() {
            Some(run) if run.held => app.mode = Mode::Stop { run: app.selected, typed: String::new() },
            _ => app.notice = Some((app.clock, "no process works on this run; there is nothing to stop".to_owned())),
        },
    }
    None
}

/// One step back: what was opened last is closed first.
fn back(app: &mut App) {
    if app.alone {
        app.alone = false;
    } else if app.charts.span < 1.0 {
        (app.charts.span, app.charts.end) = (1.0, None);
    } else if !app.filter.is_empty() {
        app.filter.clear();
    } else {
        app.focus = Panel::Loss;
    }
}

fn turn_focus(app: &mut App, by: isize) {
    let panels: Vec<Panel> = match app.alone {
        true => Panel::ALL.to_vec(),
        false => {
            let screen = app.screen();
            Panel::ALL.into_iter().filter(|panel| screen.panels().iter().any(|(shown, _)| shown == panel)).collect()
        }
    };
    let count = panels.len() as isize;
    if count > 0 {
        let at = panels.iter().position(|panel| *panel == app.focus).unwrap_or(0) as isize;
        app.focus = panels[(at + by).rem_euclid(count) as usize];
    }
}

fn scroll(app: &mut App, panel: Panel, by: isize) {
    let data = app.run().and_then(|run| run.data.as_ref());
    let longest = match panel {
        Panel::Runs => return select(app, by),
        Panel::Events => data.map_or(0, |data| data.lines.len()),
        Panel::Samples => data.map_or(0, |data| data.before.answers.len().max(data.after.answers.len())),
        Panel::Data => 40,
        _ => 0,
    };
    // The newest event stands at the end, so that up is away from it.
    let by = if panel == Panel::Events { -by } else { by };
    let place = &mut app.scroll[panel.index()];
    *place = place.saturating_add_signed(by).min(longest.saturating_sub(1));
}

fn select(app: &mut App, by: isize) {
    let rows = app.rows();
    let Some(last) = rows.len().checked_sub(1) else { return };
    let at = rows.iter().position(|row| *row == app.selected).unwrap_or(0);
    show(app, rows[at.saturating_add_signed(by).min(last)]);
}

fn show(app: &mut App, run: usize) {
    if run != app.selected {
        app.selected = run;
        app.scroll = [0; Panel::ALL.len()];
    }
}

fn keep_selection_visible(app: &mut App) {
    let rows = app.rows();
    if let Some(first) = rows.first().filter(|_| !rows.contains(&app.selected)) {
        show(app, *first);
    }
}

fn mouse(app: &mut App, event: MouseEvent) {
    if app.mode != Mode::Panels {
        if matches!(event.kind, MouseEventKind::Down(_)) && app.mode == Mode::Help {
            app.mode = Mode::Panels;
        }
        return;
    }
    let Some((panel, area)) = app.screen().at(event.column, event.row) else { return };
    match event.kind {
        MouseEventKind::Down(MouseButton::Left) => {
            app.focus = panel;
            if panel == Panel::Runs {
                // Below the frame and the table's head.
                let row = usize::from(event.row.saturating_sub(area.y + 2));
                let first = first_row(app, area);
                if event.row >= area.y + 2
                    && event.row + 1 < area.bottom()
                    && let Some(run) = app.rows().get(first + row)
                {
                    show(app, *run);
                }
            }
        }
        MouseEventKind::ScrollUp | MouseEventKind::ScrollDown => {
            let up = event.kind == MouseEventKind::ScrollUp;
            if panel.is_chart() {
                let place = f64::from(event.column - area.x) / f64::from(area.width.max(2) - 1);
                // At the right edge the newest step stays in view.
                let around = if app.charts.end.is_none() && place > 0.9 { 1.0 } else { place };
                app.charts.zoom(if up { 0.8 } else { 1.25 }, around);
            } else {
                scroll(app, panel, if up { -(WHEEL as isize) } else { WHEEL as isize });
            }
        }
        _ => {}
    }
}

/// The first row of the table that is shown in `area`, so that the selected run is among them.
pub(crate) fn first_row(app: &App, area: Rect) -> usize {
    let room = usize::from(area.height.saturating_sub(3)).max(1);
    let at = app.rows().iter().position(|row| *row == app.selected).unwrap_or(0);
    (at + 1).saturating_sub(room)
}

//! Keyboard and mouse input.
//!
//! Responsible for: applying actions to the state, and typing into text fields.
//! Must not depend on: the bindings of keys (that is the table in [`keys`]).

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers, MouseButton, MouseEvent, MouseEventKind};
use ratatui::layout::Rect;

use tonfall_runs::printable::is_unsafe;

use crate::app::{App, Mode, STOP_WORD};
use crate::keys::{self, Action};
use crate::layout::Panel;

/// A request to the caller of [`crate::update::update`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Quit,
    RequestStop { run: usize },
}

/// Lines per wheel step and per page.
const WHEEL: isize = 3;
const PAGE: isize = 10;
/// Maximum characters of a text field.
const LONGEST: usize = 60;

pub(crate) fn key(app: &mut App, key: KeyEvent) -> Option<Effect> {
    let action = keys::action(key);
    if action == Some(Action::Quit) && key.modifiers.contains(KeyModifiers::CONTROL) {
        return Some(Effect::Quit);
    }
    match &mut app.mode {
        Mode::Panels => return act(app, action?),
        Mode::Help => return help(app, action),
        Mode::Filter => {
            match key.code {
                KeyCode::Enter => app.mode = Mode::Panels,
                KeyCode::Esc => (app.mode, app.filter) = (Mode::Panels, String::new()),
                _ => edit(&mut app.filter, key),
            }
            keep_selection_visible(app);
        }
        Mode::Stop { run, typed } => match key.code {
            KeyCode::Enter if typed.trim() == STOP_WORD => {
                let run = *run;
                app.mode = Mode::Panels;
                return Some(Effect::RequestStop { run });
            }
            KeyCode::Enter | KeyCode::Esc => {
                app.mode = Mode::Panels;
                say(app, "the run was not asked to stop");
            }
            _ => edit(typed, key),
        },
    }
    None
}

/// Adds or removes a character of a text field.
fn edit(text: &mut String, key: KeyEvent) {
    match key.code {
        KeyCode::Backspace => drop(text.pop()),
        KeyCode::Char(char) if accepts(text, char) && !key.modifiers.contains(KeyModifiers::CONTROL) => {
            text.push(char);
        }
        _ => {}
    }
}

/// Whether a character may be added: no control character, and the text is not at its maximum length.
fn accepts(text: &str, char: char) -> bool {
    text.len() < LONGEST && !is_unsafe(char)
}

fn help(app: &mut App, action: Option<Action>) -> Option<Effect> {
    let by = match action {
        Some(Action::Quit) => return Some(Effect::Quit),
        Some(Action::Down) => 1,
        Some(Action::Up) => -1,
        Some(Action::PageDown) => PAGE,
        Some(Action::PageUp) => -PAGE,
        _ => {
            app.mode = Mode::Panels;
            return None;
        }
    };
    app.help_scroll = app.help_scroll.saturating_add_signed(by);
    None
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
        Action::PageUp => scroll(app, app.focus, -PAGE),
        Action::PageDown => scroll(app, app.focus, PAGE),
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
                say(app, "nothing to compare with: mark runs with Space in the table (4)");
            }
        }
        Action::Filter => app.mode = Mode::Filter,
        Action::Smooth => app.plot.next_smoothing(),
        Action::LogScale => app.plot.log = !app.plot.log,
        Action::Axis => app.plot.next_axis(),
        Action::Raw => app.plot.raw = !app.plot.raw,
        Action::Outliers => app.plot.cut_outliers = !app.plot.cut_outliers,
        Action::ZoomIn | Action::ZoomOut => {
            let factor = if action == Action::ZoomIn { 0.5 } else { 2.0 };
            app.plot.zoom(factor, if app.plot.follows() { 1.0 } else { 0.5 });
        }
        Action::Left => app.plot.pan(-0.25),
        Action::Right => app.plot.pan(0.25),
        Action::Whole => app.plot.show_whole(),
        Action::Follow => app.plot.follow(),
        Action::Freeze => app.frozen = if app.frozen.is_some() { None } else { Some(app.clock) },
        Action::Background => app.look.light = !app.look.light,
        Action::Stop => match app.run() {
            Some(run) if run.held => app.mode = Mode::Stop { run: app.selected, typed: String::new() },
            _ => say(app, "no process works on this run; there is nothing to stop"),
        },
    }
    None
}

fn say(app: &mut App, text: &str) {
    app.notice = Some((app.clock, text.to_owned()));
}

/// One step back: leaves the full-screen panel, else the zoom, else the filter, else focuses the loss.
fn back(app: &mut App) {
    if app.alone {
        app.alone = false;
    } else if app.plot.is_zoomed() {
        app.plot.show_whole();
    } else if !app.filter.is_empty() {
        app.filter.clear();
    } else {
        app.focus = Panel::Loss;
    }
}

fn turn_focus(app: &mut App, by: isize) {
    let shown = app.screen();
    let panels: Vec<Panel> = match app.alone {
        true => Panel::ALL.to_vec(),
        false => {
            Panel::ALL.into_iter().filter(|panel| shown.panels().iter().any(|(shown, _)| shown == panel)).collect()
        }
    };
    if panels.is_empty() {
        return;
    }
    let at = panels.iter().position(|panel| *panel == app.focus).unwrap_or(0);
    app.focus = panels[(at as isize + by).rem_euclid(panels.len() as isize) as usize];
}

fn scroll(app: &mut App, panel: Panel, by: isize) {
    let longest = match panel {
        Panel::Runs => return select(app, by),
        Panel::Events => app.data().map_or(0, |data| data.lines.len()),
        Panel::Samples => app.data().map_or(0, |data| data.before.answers.len().max(data.after.answers.len())),
        Panel::Data | Panel::Now => 40,
        _ => 0,
    };
    // The newest event is at the bottom, so scrolling up leaves it.
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

/// Selects a run. Its current state is shown, so the screen is no longer frozen.
fn show(app: &mut App, run: usize) {
    if run != app.selected {
        (app.selected, app.frozen) = (run, None);
        app.scroll = [0; Panel::ALL.len()];
    }
}

fn keep_selection_visible(app: &mut App) {
    let rows = app.rows();
    if let Some(first) = rows.first().filter(|_| !rows.contains(&app.selected)) {
        show(app, *first);
    }
}

pub(crate) fn mouse(app: &mut App, event: MouseEvent) {
    let pressed = matches!(event.kind, MouseEventKind::Down(_));
    match app.mode {
        Mode::Panels => {}
        Mode::Help if pressed => return app.mode = Mode::Panels,
        Mode::Help | Mode::Filter | Mode::Stop { .. } => return,
    }
    let Some((panel, area)) = app.screen().at(event.column, event.row) else { return };
    match event.kind {
        MouseEventKind::Down(MouseButton::Left) => {
            app.focus = panel;
            if panel == Panel::Runs
                && let Some(run) = run_at(app, area, event.row)
            {
                show(app, run);
            }
        }
        MouseEventKind::ScrollUp | MouseEventKind::ScrollDown => {
            let up = event.kind == MouseEventKind::ScrollUp;
            if panel.is_chart() {
                let place = f64::from(event.column - area.x) / f64::from(area.width.max(2) - 1);
                // At the right edge the newest step stays visible.
                let around = if app.plot.follows() && place > 0.9 { 1.0 } else { place };
                app.plot.zoom(if up { 0.8 } else { 1.25 }, around);
            } else {
                scroll(app, panel, if up { -WHEEL } else { WHEEL });
            }
        }
        _ => {}
    }
}

/// The run in row `row` of the terminal.
fn run_at(app: &App, area: Rect, row: u16) -> Option<usize> {
    // The first run is below the border and the header of the table.
    let line = row.checked_sub(area.y + 2).filter(|_| row + 1 < area.bottom())?;
    app.rows().get(first_row(app, area) + usize::from(line)).copied()
}

/// The first visible row of the table in `area`, chosen so that the selected run is visible.
pub(crate) fn first_row(app: &App, area: Rect) -> usize {
    let room = usize::from(area.height.saturating_sub(3)).max(1);
    let at = app.rows().iter().position(|row| *row == app.selected).unwrap_or(0);
    (at + 1).saturating_sub(room)
}

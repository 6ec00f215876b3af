//! Drawing.
//!
//! Responsible for: drawing a frame from the state. This module changes, reads and measures nothing else.
//! Must not depend on: the source of the state.

mod charts;
mod dialogs;
mod facts;
mod lists;
mod status;
mod words;

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::Line;
use ratatui::widgets::{Block, Clear, Paragraph};

use crate::app::{App, Mode};
use crate::layout::{Panel, Screen};
use crate::theme::Role;

/// Draws the whole dashboard.
pub(crate) fn view(app: &App, frame: &mut Frame<'_>) {
    let area = frame.area();
    match crate::layout::divide(area, app.focus, app.alone) {
        Screen::OneLine(area) => frame.render_widget(Paragraph::new(dialogs::or_line(app)), area),
        Screen::Panels { head, panels, foot } => {
            frame.render_widget(Paragraph::new(status::header(app, head.width)), head);
            for (panel, area) in panels {
                draw(app, panel, frame, area);
            }
            frame.render_widget(Paragraph::new(dialogs::foot(app, foot.width)), foot);
            match &app.mode {
                Mode::Help => dialogs::help(app, frame, area),
                Mode::Stop { run, typed } => dialogs::stop(app, *run, typed, frame, area),
                Mode::Panels | Mode::Filter => {}
            }
        }
    }
}

fn draw(app: &App, panel: Panel, frame: &mut Frame<'_>, area: Rect) {
    match panel {
        Panel::Loss => charts::loss(app, frame, area),
        Panel::LearningRate | Panel::GradNorm | Panel::Throughput | Panel::Memory => {
            charts::metric(app, panel, frame, area);
        }
        Panel::Now => facts::now(app, frame, area),
        Panel::Data => facts::data(app, frame, area),
        Panel::Events => lists::events(app, frame, area),
        Panel::Samples => lists::samples(app, frame, area),
        Panel::Runs => lists::runs(app, frame, area),
    }
}

/// The area inside the border of a panel.
fn inside(area: Rect) -> Rect {
    Block::bordered().inner(area)
}

/// The border of a panel, brighter if it has the focus.
fn block<'a>(app: &App, panel: Panel, title: impl Into<Line<'a>>) -> Block<'a> {
    let role = if app.focus == panel { Role::Focus } else { Role::Border };
    framed(app, role, title)
}

fn framed<'a>(app: &App, role: Role, title: impl Into<Line<'a>>) -> Block<'a> {
    Block::bordered()
        .border_set(app.look.border())
        .border_style(app.look.style(role))
        .title(title)
        .title_style(Style::new())
}

/// Clears a centred rectangle of the given size, limited by the screen, and returns it.
fn popup(frame: &mut Frame<'_>, area: Rect, width: u16, height: u16) -> Rect {
    let (width, height) = (width.min(area.width), height.min(area.height));
    let place = Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height };
    frame.render_widget(Clear, place);
    place
}

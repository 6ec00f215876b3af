//! Footer, help page and dialogs.
//!
//! Responsible for: the footer, the help page and the confirmation of a stop request.
//! Must not depend on: the content of panels.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Wrap};
use tonfall_runs::numbers::counted;

use super::words::{fitted, wrapped};
use super::{framed, popup, status};
use crate::app::{App, Mode, STOP_WORD};
use crate::keys::BINDINGS;
use crate::theme::Role;

/// The definition of MFU for the help page.
const MFU: &str = "MFU is FLOP a token x tokens a second / what the device can do. A frozen weight costs 4 FLOP a token \
                   (2 forward, 2 backward towards the input), 6 where activations are computed again, not the 6 or 8 of \
                   full training; a trained weight costs 2 more. Products of attention are not counted. Where the \
                   device's peak is not known, only the rate is shown.";

/// The footer: keys, a text field, or a message.
pub(super) fn foot(app: &App, width: u16) -> Line<'static> {
    if app.mode == Mode::Filter {
        let shown = app.rows().len();
        let cursor = app.look.symbol("▏", "_");
        return Line::from(format!(
            " filter: {}{cursor}  {shown} of {}  Enter keeps  Esc clears",
            app.filter,
            counted(app.runs.len() as u64, "run")
        ));
    }
    if let Some((_, notice)) = &app.notice {
        let notice = fitted(&format!(" {notice}"), usize::from(width), app.look);
        return Line::styled(notice, app.look.style(Role::Strong));
    }
    let mut line = Line::default();
    for binding in BINDINGS {
        let Some(word) = binding.foot else { continue };
        let key = Span::styled(format!(" {}", binding.shown), app.look.style(Role::Strong));
        let word = Span::raw(format!(" {word} "));
        if line.width() + key.width() + word.width() > usize::from(width) {
            break;
        }
        line.push_span(key);
        line.push_span(word);
    }
    line
}

/// The footer of a one-line terminal.
pub(super) fn or_line(app: &App) -> Line<'static> {
    match &app.mode {
        Mode::Stop { typed, .. } => Line::from(format!("type {STOP_WORD} and Enter: {typed}")),
        Mode::Filter => Line::from(format!("filter: {}", app.filter)),
        Mode::Help => Line::from("q leaves; the other keys need 60x16"),
        Mode::Panels => match &app.notice {
            Some((_, notice)) => Line::from(notice.clone()),
            None => status::one_line(app),
        },
    }
}

pub(super) fn help(app: &App, frame: &mut Frame<'_>, area: Rect) {
    let mut lines: Vec<Line<'_>> = BINDINGS
        .iter()
        .map(|binding| {
            let key = Span::styled(format!(" {:<10}", binding.shown), app.look.style(Role::Strong));
            Line::from(vec![key, Span::raw(binding.help)])
        })
        .collect();
    lines.extend(["", " Mouse: click a panel or a run; the wheel zooms charts and scrolls lists.", ""].map(Line::from));
    let place = popup(frame, area, 76, lines.len() as u16 + 10);
    let text_width = usize::from(place.width.saturating_sub(3)).max(1);
    lines.extend(wrapped(MFU, text_width).into_iter().map(|line| Line::from(format!(" {line}"))));
    let hidden = (lines.len() as u16).saturating_sub(place.height.saturating_sub(2));
    let scroll = (app.help_scroll.min(usize::from(u16::MAX)) as u16).min(hidden);
    let more = if hidden > scroll { " help   j k scroll, other keys close " } else { " help   any key closes " };
    let block = framed(app, Role::Focus, more);
    frame.render_widget(Paragraph::new(lines).scroll((scroll, 0)).block(block), place);
}

pub(super) fn stop(app: &App, run: usize, typed: &str, frame: &mut Frame<'_>, area: Rect) {
    let id = app.runs.get(run).map_or("", |run| run.id.as_str());
    let place = popup(frame, area, 64, 8);
    let cursor = app.look.symbol("▏", "_");
    let lines = vec![
        Line::from(format!("{id} is asked to finish its step, save and stop.")),
        Line::from("`tonfall resume` goes on later."),
        Line::default(),
        Line::from(vec![
            Span::raw(format!("Type {STOP_WORD} and press Enter: ")),
            Span::styled(format!("{typed}{cursor}"), app.look.style(Role::Strong)),
        ]),
        Line::from("Esc leaves it running."),
    ];
    let block = framed(app, Role::Bad, " stop the run? ");
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }).block(block), place);
}

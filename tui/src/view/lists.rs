//! Panels with lists.
//!
//! Responsible for: events, samples before and after training with their terms marked, and the table of runs.
//! Must not depend on: charts.

use std::collections::VecDeque;

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Wrap};
use tonfall_runs::history::{Answer, Line as Event, Weight};
use tonfall_runs::numbers::{clock, measure};
use tonfall_terms::{Hit, Matcher, Term, text_language};

use super::words::{fitted, wrapped};
use super::{block, inside, status};
use crate::app::App;
use crate::input::first_row;
use crate::layout::Panel;
use crate::theme::{Look, Role};

/// Width of the time before an event, in characters.
const TIME: usize = 6;

pub(super) fn events(app: &App, frame: &mut Frame<'_>, area: Rect) {
    let inner = inside(area);
    let (room, text_room) = (usize::from(inner.height), usize::from(inner.width).saturating_sub(TIME));
    let empty = VecDeque::new();
    let all = app.data().map_or(&empty, |data| &data.lines);
    // The position counts from the newest event, at the bottom. At the top end, the oldest events fill the panel.
    let first_page = fitting(all.iter(), text_room, room);
    let below = app.scroll[Panel::Events.index()].min(all.len() - first_page);
    let end = all.len() - below;
    let start = end - fitting(all.range(..end).rev(), text_room, room);
    let mut lines = Vec::with_capacity(room);
    for event in all.range(start..end) {
        let role = match event.weight {
            Weight::Plain => Role::Plain,
            Weight::Good => Role::Good,
            Weight::Bad => Role::Bad,
        };
        for (index, text) in wrapped(&event.text, text_room).into_iter().enumerate() {
            let time = if index == 0 { clock(event.t) } else { String::new() };
            let time = Span::styled(format!("{time:<TIME$}"), app.look.style(Role::Faint));
            lines.push(Line::from(vec![time, Span::styled(text, app.look.style(role))]));
        }
    }
    let mut title = " events (UTC) ".to_owned();
    let above = start as u64 + app.data().map_or(0, |data| data.lines_left_out);
    for (count, place) in [(above, "above"), (below as u64, "below")] {
        if count > 0 {
            title += &format!(" {count} {place} ");
        }
    }
    if lines.len() > room {
        title += " Enter shows all of it ";
    }
    frame.render_widget(Paragraph::new(lines).block(block(app, Panel::Events, title)), area);
}

/// Number of complete events that fit; at least one if there is an event.
fn fitting<'a>(events: impl Iterator<Item = &'a Event>, width: usize, room: usize) -> usize {
    let mut used = 0;
    let fits = |event: &&Event| {
        used += wrapped(&event.text, width).len();
        used <= room
    };
    let mut events = events.peekable();
    let least = usize::from(events.peek().is_some());
    events.take_while(fits).count().max(least)
}

pub(super) fn samples(app: &App, frame: &mut Frame<'_>, area: Rect) {
    let mut lines = Vec::new();
    let mut title = " samples ".to_owned();
    if let Some(data) = app.data() {
        let (before, after) = (&data.before, &data.after);
        let count = before.answers.len().max(after.answers.len());
        let at = app.scroll[Panel::Samples.index()].min(count.saturating_sub(1));
        let answers = [(before.step, before.answers.get(at)), (after.step, after.answers.get(at))];
        if let Some(answer) = answers.iter().find_map(|(_, answer)| *answer) {
            title = format!(" samples {}/{count} ", at + 1);
            let left_out = before.left_out.max(after.left_out);
            if left_out > 0 {
                title += &format!(" {left_out} more are not kept ");
            }
            lines.push(labelled(app.look, "prompt", vec![Span::raw(flat(&answer.prompt))]));
        }
        for (step, answer) in answers {
            let Some(answer) = answer else { continue };
            let mut spans = marked(answer, app.look);
            for (what, terms) in [("missing", &answer.missing), ("to avoid", &answer.violations)] {
                if !terms.is_empty() {
                    let note = format!("  ({what}: {})", terms.join(", "));
                    spans.push(Span::styled(note, app.look.style(Role::Faint)));
                }
            }
            lines.push(labelled(app.look, &format!("@{step}"), spans));
        }
    }
    if lines.is_empty() {
        lines.push(Line::styled("no generations for held-out prompts yet", app.look.style(Role::Faint)));
    }
    let block = block(app, Panel::Samples, title);
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }).block(block), area);
}

fn labelled(look: Look, label: &str, rest: Vec<Span<'static>>) -> Line<'static> {
    let mut spans = vec![Span::styled(format!("{label:<8}"), look.style(Role::Faint))];
    spans.extend(rest);
    Line::from(spans)
}

/// Text in one line.
fn flat(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A generation with its terms marked: expected terms are underlined, forbidden terms are struck out.
fn marked(answer: &Answer, look: Look) -> Vec<Span<'static>> {
    let text = flat(&answer.text);
    let hits = answer.expected.iter().filter(|term| !answer.missing.contains(term)).map(|term| (term, Role::Hit));
    let violations = answer.violations.iter().map(|term| (term, Role::Violation));
    let (terms, roles): (Vec<&String>, Vec<Role>) = hits.chain(violations).unzip();
    // Finds terms like the evaluation. The few terms of a prompt always fit in a matcher.
    let language = text_language::of_text(&text);
    let matcher = Matcher::in_prose(terms.iter().map(|text| Term { text, language }));
    let (mut spans, mut done) = (Vec::new(), 0);
    for Hit { term, range, .. } in matcher.map(|matcher| matcher.hits(&text)).unwrap_or_default() {
        if range.start < done {
            continue;
        }
        spans.push(Span::raw(text[done..range.start].to_owned()));
        spans.push(Span::styled(text[range.clone()].to_owned(), look.style(roles[term])));
        done = range.end;
    }
    spans.push(Span::raw(text[done..].to_owned()));
    spans
}

pub(super) fn runs(app: &App, frame: &mut Frame<'_>, area: Rect) {
    let rows = app.rows();
    let first = first_row(app, area);
    let room = usize::from(area.height.saturating_sub(3)).max(1);
    let width = usize::from(area.width.saturating_sub(2));
    // Widths of state, step, loss and eval. The name gets the remaining width.
    let name_width = width.saturating_sub(2 + 14 + 12 + 8 + 8).clamp(8, 40);
    let head = format!("  {:<name_width$} {:<13} {:>11} {:>7} {:>7}", "run", "state", "step", "loss", "best");
    let mut lines = vec![Line::styled(head, app.look.style(Role::Faint))];
    for index in rows.iter().skip(first).take(room) {
        let run = &app.runs[*index];
        let mark = if run.marked { app.look.symbol("✓", "x") } else { " " };
        let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), measure);
        let name = fitted(&run.id, name_width, app.look);
        let badge = status::badge(run.status(), app.look);
        let padding = " ".repeat(14usize.saturating_sub(Line::from(badge.clone()).width()));
        let numbers = format!(
            "{padding}{:>11} {:>7} {:>7}",
            format!("{}/{}", run.summary.step, run.summary.total_steps),
            number(run.summary.now.map(|now| now.loss)),
            number(run.summary.best().map(|(_, loss)| loss)),
        );
        let mut line = Line::from(vec![Span::raw(format!("{mark} {name:<name_width$} ")), badge, Span::raw(numbers)]);
        if *index == app.selected {
            line = line.style(app.look.style(Role::Selected));
        }
        lines.push(line);
    }
    let title = match app.filter.is_empty() {
        true => format!(" runs {} ", rows.len()),
        false => format!(" runs {} of {}: {} ", rows.len(), app.runs.len(), app.filter),
    };
    frame.render_widget(Paragraph::new(lines).block(block(app, Panel::Runs, title)), area);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::theme::{Depth, Symbols};

    #[test]
    fn terms_are_marked_as_the_evaluation_counts_them() {
        let look = Look { depth: Depth::Rgb, light: false, symbols: Symbols::Braille };
        let marked = |text: &str, expected: &str, violation: &str| {
            let answer = Answer {
                text: text.to_owned(),
                expected: vec![expected.to_owned()],
                violations: vec![violation.to_owned()],
                ..Answer::default()
            };
            let spans = marked(&answer, look);
            assert_eq!(spans.iter().map(|span| span.content.as_ref()).collect::<String>(), text);
            let is_marked = |span: &&Span<'_>| span.style != Span::raw("").style;
            spans.iter().filter(is_marked).map(|span| span.content.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(marked("The Guest and the guest", "guest", "client"), ["Guest", "guest"]);
        assert_eq!(marked("A guest in the guesthouse", "guest", "house"), ["guest"]);
        assert_eq!(marked("Gru\u{308}ße, GRÜSSE", "grüße", ""), ["Gru\u{308}ße"]);
        assert_eq!(marked("our key account", "key account", "account"), ["key account"]);
    }
}

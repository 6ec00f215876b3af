//! The status of a run in one line.
//!
//! Responsible for: the header, the line of a small terminal, and the style of each status.
//! Must not depend on: panels.

use ratatui::text::{Line, Span};
use tonfall_runs::Status;
use tonfall_runs::follow::ReadProgress;
use tonfall_runs::numbers::{duration, grouped, measure};

use super::words::fitted;
use crate::app::{App, Run};
use crate::theme::{Look, Role};

/// A live run is reported as silent after this many seconds, and this many times its step time, without an event.
const SILENCE_SECONDS: f64 = 30.0;
const SILENCE_STEPS: f64 = 10.0;

/// Mark, word and style of a status. Statuses differ in mark and word, not only in colour.
pub(super) fn badge(status: Status, look: Look) -> Span<'static> {
    let (symbol, ascii, role) = match status {
        Status::Waiting => ("○", "o", Role::Faint),
        Status::Preparing | Status::Loading | Status::Quantizing => ("◔", "~", Role::Plain),
        Status::Running => ("●", "*", Role::Strong),
        Status::Evaluating | Status::Saving | Status::Exporting => ("◐", "%", Role::Strong),
        Status::Interrupted => ("■", "#", Role::Bad),
        Status::Diverged => ("▲", "!", Role::Bad),
        Status::Failed => ("✗", "x", Role::Bad),
        Status::GateFailed => ("◇", "/", Role::Bad),
        Status::Published => ("★", "+", Role::Good),
        Status::Finished => ("✓", "=", Role::Good),
    };
    Span::styled(format!("{} {}", look.symbol(symbol, ascii), status.name().to_uppercase()), look.style(role))
}

/// Details of the status: progress of a phase, reason of the end, or silence.
pub(super) fn remark(app: &App, run: &Run) -> Option<String> {
    if let Some(fault) = &run.fault {
        return Some(fault.clone());
    }
    let status = run.status();
    if !status.is_alive() {
        let verdict = run.summary.verdict.as_ref().filter(|verdict| !verdict.passed);
        return match status {
            Status::Published => run.summary.published.as_ref().map(|name| format!("as {name}")),
            Status::GateFailed => verdict.map(|verdict| verdict.reasons.join("; ")),
            Status::Interrupted => Some(run.summary.end.clone().unwrap_or_else(|| "killed, no end logged".to_owned())),
            Status::Diverged | Status::Failed => run.summary.end.clone(),
            _ => None,
        };
    }
    if run.stop_requested && run.held {
        return Some("stop requested; saves after this step".to_owned());
    }
    if let Some((phase, done, total)) = run.summary.phase.filter(|_| run.held) {
        return Some(match total {
            0 => phase.name().to_owned(),
            _ => format!("{}, {} of {}", phase.name(), grouped(done), grouped(total)),
        });
    }
    let silence = app.silence(run);
    let expected = run.data.as_ref().and_then(|data| data.seconds_per_step()).unwrap_or(0.0);
    let long = silence > SILENCE_SECONDS.max(SILENCE_STEPS * expected);
    (run.held && long).then(|| format!("no news for {}", duration(silence)))
}

pub(super) fn header(app: &App, width: u16) -> Line<'static> {
    let Some(run) = app.run() else {
        return Line::from(" tonfall: no run yet");
    };
    let mut text = String::new();
    if run.summary.total_steps > 0 {
        text += &format!("  step {}/{}", run.summary.step, run.summary.total_steps);
    }
    if let Some(now) = run.summary.now {
        text += &format!("  epoch {:.1}", now.epoch);
    }
    if let Some(eta) = app.eta() {
        text += &format!("  eta {}", duration(eta));
    }
    let mut right = String::new();
    let ReadProgress { bytes, of, .. } = run.read;
    if of > bytes && of - bytes > 1 << 20 {
        right += &format!("  reading {}%", bytes.saturating_mul(100) / of.max(1));
    }
    if app.frozen.is_some() {
        right += "  FROZEN";
    }
    if run.summary.attempt > 0 {
        right += &format!("  attempt {} ", run.summary.attempt);
    }
    let name = Span::styled(format!(" {}  ", run.id), app.look.style(Role::Strong));
    let mut line = Line::from(vec![name, badge(run.status(), app.look), Span::raw(text)]);
    let free = usize::from(width).saturating_sub(line.width() + right.chars().count());
    if let Some(remark) = remark(app, run).filter(|_| free > 3) {
        let role = if run.status().is_alive() { Role::Faint } else { Role::Plain };
        line.push_span(Span::styled(format!("  {}", fitted(&remark, free - 2, app.look)), app.look.style(role)));
    }
    let free = usize::from(width).saturating_sub(line.width());
    line.push_span(Span::raw(format!("{right:>free$}")));
    line
}

/// The most important values in one line.
pub(super) fn one_line(app: &App) -> Line<'static> {
    let Some(run) = app.run() else {
        return Line::from("tonfall: no run yet");
    };
    let mut text = String::new();
    if let Some((_, done, total)) = run.summary.phase.filter(|(_, _, total)| run.held && *total > 0) {
        text += &format!(" {:.0}%", done as f64 / total as f64 * 100.0);
    }
    if run.summary.total_steps > 0 {
        text += &format!(" {}/{}", run.summary.step, run.summary.total_steps);
    }
    if let Some(now) = run.summary.now {
        text += &format!(" loss {}", measure(now.loss));
    }
    if let Some((_, loss)) = run.summary.eval {
        text += &format!(" eval {}", measure(loss));
    }
    if let Some(eta) = app.eta() {
        text += &format!(" eta {}", duration(eta));
    }
    Line::from(vec![badge(run.status(), app.look), Span::raw(text), Span::raw(format!("  {}", run.id))])
}

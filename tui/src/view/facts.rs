//! The panels that are numbers.
//!
//! Responsible for: "now" (the latest step, evaluation, memory, speed, verdict) and "data" (examples, lengths, packing).
//! Must not depend on: charts, lists.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Wrap};

use super::block;
use crate::app::{App, Run};
use crate::layout::Panel;
use crate::numbers::{bytes, duration, grouped, measure, scientific, short};
use crate::run::{DataFacts, Metric, RunData};
use crate::theme::Role;

/// Characters of a name in front of its value.
const NAME: usize = 8;
/// Characters of a bar.
const BAR: usize = 10;

pub(super) fn now(app: &App, frame: &mut Frame<'_>, area: Rect) {
    let block = block(app, Panel::Now, " now ");
    let mut rows: Vec<Line<'_>> = Vec::new();
    if let Some(run) = app.run() {
        training(app, run, &mut rows);
        memory(app, run, &mut rows);
        judgement(app, run, &mut rows);
        reading(app, run, &mut rows);
    }
    if rows.is_empty() {
        rows.push(Line::styled("no step yet", app.look.style(Role::Faint)));
    }
    let scroll = app.scroll[Panel::Now.index()].min(rows.len()) as u16;
    frame.render_widget(Paragraph::new(rows).scroll((scroll, 0)).block(block), area);
}

fn row(app: &App, name: &str, value: String) -> Line<'static> {
    Line::from(vec![Span::styled(format!("{name:<NAME$}"), app.look.style(Role::Faint)), Span::raw(value)])
}

fn training(app: &App, run: &Run, rows: &mut Vec<Line<'_>>) {
    let data = run.data.as_deref();
    if let Some(now) = run.summary.now {
        let past = app.charts.past();
        let smooth = data.and_then(|data| data.steps.smoothed(Metric::Loss.index(), past).last().copied());
        let smooth =
            smooth.filter(|_| past > 0.0).map_or_else(String::new, |ema| format!("  ema {}", measure(f64::from(ema))));
        rows.push(row(app, "loss", format!("{}{smooth}", measure(now.loss))));
    }
    if let Some((step, loss)) = run.summary.eval {
        let best = run.summary.best();
        let is_best = best.is_some_and(|(at, _)| at == step);
        let best =
            best.filter(|_| !is_best).map_or_else(String::new, |(at, loss)| format!("best {} @{at}", measure(loss)));
        let here = if is_best { format!("@{step}, the best") } else { format!("@{step}") };
        rows.push(row(app, "eval", format!("{} {here}", measure(loss))));
        if !best.is_empty() {
            rows.push(row(app, "", best));
        }
    }
    if let Some(now) = run.summary.now {
        rows.push(row(app, "lr", scientific(now.lr)));
        rows.push(row(app, "|g|", measure(now.grad_norm)));
        rows.push(row(app, "speed", format!("{} tok/s", short(now.tokens_per_second))));
        if let Some(data) = data {
            match data.flops(now.tokens_per_second) {
                (_, Some(share)) => rows.push(row(app, "MFU", format!("{:.1}%", share * 100.0))),
                (Some(rate), None) => rows.push(row(app, "compute", format!("{}FLOP/s", short(rate)))),
                (None, None) => {}
            }
        }
    }
    if let Some(seconds) = data.and_then(RunData::seconds_per_step) {
        let each = if seconds < 1.0 { format!("{:.0} ms", seconds * 1e3) } else { format!("{seconds:.2} s") };
        rows.push(row(app, "step", each));
    }
}

fn memory(app: &App, run: &Run, rows: &mut Vec<Line<'_>>) {
    let Some(now) = run.summary.now else { return };
    let device = run.data.as_deref().and_then(|data| data.device.as_ref());
    let of = [device.and_then(|device| device.memory_bytes), device.and_then(|device| device.host_memory_bytes)];
    for ((name, used), all) in [("vram", now.accelerator_bytes), ("memory", now.peak_rss_bytes)].into_iter().zip(of) {
        let Some(used) = used.map(|used| used as f64) else { continue };
        match all.filter(|all| *all > 0).map(|all| all as f64) {
            Some(all) => {
                rows.push(row(app, name, format!("{} of {}", bytes(used), bytes(all))));
                rows.push(row(app, "", bar(app, used / all)));
            }
            None => rows.push(row(app, name, bytes(used))),
        }
    }
    if let Some(predicted) = run.data.as_deref().and_then(|data| data.predicted_bytes) {
        rows.push(row(app, "", format!("{} predicted", bytes(predicted as f64))));
    }
}

/// A share as a bar: `▇▇▇▇▇▇╌╌╌╌  61%`
fn bar(app: &App, share: f64) -> String {
    let share = share.clamp(0.0, 1.0);
    let full = (share * BAR as f64).round() as usize;
    let (on, off) = (app.look.symbol("▇", "#"), app.look.symbol("╌", "."));
    format!("{}{} {:.0}%", on.repeat(full), off.repeat(BAR - full), share * 100.0)
}

fn judgement(app: &App, run: &Run, rows: &mut Vec<Line<'_>>) {
    if let Some(verdict) = &run.summary.verdict {
        let (word, role) = if verdict.passed { ("passed", Role::Good) } else { ("failed", Role::Bad) };
        let name = Span::styled(format!("{:<NAME$}", "gate"), app.look.style(Role::Faint));
        rows.push(Line::from(vec![name, Span::styled(word, app.look.style(role))]));
    }
    if let Some(name) = &run.summary.published {
        rows.push(row(app, "current", name.clone()));
    }
    if let Some(t) = run.data.as_deref().and_then(|data| data.steps.last()) {
        rows.push(row(app, "trained", duration(t.x(crate::series::Axis::Time))));
    }
}

/// What the log holds that could not be shown.
fn reading(app: &App, run: &Run, rows: &mut Vec<Line<'_>>) {
    if run.damaged > 0 {
        rows.push(Line::styled(format!("{} damaged lines skipped", run.damaged), app.look.style(Role::Bad)));
    }
    if run.unknown > 0 {
        rows.push(Line::styled(format!("{} lines of a newer tonfall", run.unknown), app.look.style(Role::Faint)));
    }
}

pub(super) fn data(app: &App, frame: &mut Frame<'_>, area: Rect) {
    let block = block(app, Panel::Data, " data and gate ");
    let run = app.run();
    let mut rows = Vec::new();
    if let Some(data) = run.and_then(|run| run.data.as_deref()) {
        if let Some(facts) = &data.data {
            examples(app, facts, &mut rows);
        }
        if let Some((tokens, trained)) = data.step_tokens {
            rows.push(row(app, "step", format!("{} tokens, {} trained", grouped(tokens), percent(trained, tokens))));
        }
        if let Some(parameters) = data.trainable_parameters {
            rows.push(row(app, "trained", format!("{} parameters", short(parameters as f64))));
        }
        if let Some(device) = &data.device {
            rows.push(row(app, "device", device.name.clone()));
        }
    }
    match run.and_then(|run| run.summary.verdict.as_ref()) {
        Some(verdict) => {
            let (word, role) = if verdict.passed { ("passed", Role::Good) } else { ("failed", Role::Bad) };
            let name = Span::styled(format!("{:<NAME$}", "gate"), app.look.style(Role::Faint));
            rows.push(Line::from(vec![name, Span::styled(word, app.look.style(role))]));
            rows.extend(verdict.reasons.iter().map(|reason| row(app, "", reason.clone())));
        }
        None => rows.push(row(app, "gate", "no verdict".to_owned())),
    }
    let scroll = app.scroll[Panel::Data.index()].min(rows.len().saturating_sub(1)) as u16;
    frame.render_widget(Paragraph::new(rows).wrap(Wrap { trim: false }).scroll((scroll, 0)).block(block), area);
}

fn examples(app: &App, facts: &DataFacts, rows: &mut Vec<Line<'_>>) {
    let DataFacts { train_examples, eval_examples, dropped, tokens, trained_tokens, lengths } = facts;
    rows.push(row(app, "train", format!("{} examples", grouped(*train_examples))));
    rows.push(row(app, "eval", format!("{} held out", grouped(*eval_examples))));
    rows.push(row(app, "tokens", format!("{}, {} trained", grouped(*tokens), percent(*trained_tokens, *tokens))));
    if let Some(lengths) = lengths {
        let text = format!("half up to {}, 90% {}, 99% {}", lengths.median, lengths.p90, lengths.p99);
        rows.push(row(app, "lengths", text));
        rows.push(row(app, "", format!("longest {}", grouped(lengths.max))));
    }
    for (reason, count) in dropped {
        let name = Span::styled(format!("{:<NAME$}", "dropped"), app.look.style(Role::Bad));
        rows.push(Line::from(vec![name, Span::raw(format!("{count}: {reason}"))]));
    }
}

fn percent(part: u64, whole: u64) -> String {
    match whole {
        0 => "-".to_owned(),
        _ => format!("{:.0}%", part as f64 / whole as f64 * 100.0),
    }
}

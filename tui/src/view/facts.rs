//! Panels with numbers.
//!
//! Responsible for: "now" (the newest step, evaluation, memory, speed, end of the run) and "data" (examples, lengths,
//! packing, the gate's verdict).
//! Must not depend on: charts, lists.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;
use tonfall_runs::Status;
use tonfall_runs::history::{DataFacts, Metric, RunData};
use tonfall_runs::numbers::counted;
use tonfall_runs::numbers::{bytes, duration, flops, grouped, measure, scientific, short};
use tonfall_runs::series::Axis;

use super::words::{bar, wrapped};
use super::{block, status};
use crate::app::{App, Run};
use crate::layout::Panel;
use crate::theme::Role;

/// Width of the name before a value, in characters.
const NAME: usize = 8;

/// Rows of names and values. Long values are wrapped.
struct Rows<'a> {
    app: &'a App,
    room: usize,
    lines: Vec<Line<'static>>,
}

impl<'a> Rows<'a> {
    fn new(app: &'a App, area: Rect) -> Self {
        Self { app, room: usize::from(area.width).saturating_sub(NAME), lines: Vec::new() }
    }

    fn row(&mut self, name: &str, value: impl AsRef<str>) {
        self.styled(name, value.as_ref(), Role::Plain);
    }

    fn styled(&mut self, name: &str, value: &str, role: Role) {
        for (index, part) in wrapped(value, self.room).into_iter().enumerate() {
            let name = if index == 0 { name } else { "" };
            let name = Span::styled(format!("{name:<NAME$}"), self.app.look.style(Role::Faint));
            self.lines.push(Line::from(vec![name, Span::styled(part, self.app.look.style(role))]));
        }
    }

    fn draw(self, panel: Panel, title: &str, frame: &mut Frame<'_>, area: Rect) {
        let block = block(self.app, panel, title);
        let scroll = self.app.scroll[panel.index()].min(self.lines.len().saturating_sub(1)) as u16;
        frame.render_widget(Paragraph::new(self.lines).scroll((scroll, 0)).block(block), area);
    }
}

pub(super) fn now(app: &App, frame: &mut Frame<'_>, area: Rect) {
    let mut rows = Rows::new(app, super::inside(area));
    if let Some(run) = app.run() {
        training(run, &mut rows);
        memory(run, &mut rows);
        end(run, &mut rows);
        reading(run, &mut rows);
    }
    if rows.lines.is_empty() {
        rows.lines.push(Line::styled("no step yet", app.look.style(Role::Faint)));
    }
    rows.draw(Panel::Now, " now ", frame, area);
}

fn training(run: &Run, rows: &mut Rows<'_>) {
    let data = run.data.as_deref();
    if let Some(now) = run.summary.now {
        let past = rows.app.plot.past();
        let smooth = data.and_then(|data| data.steps.smoothed(Metric::Loss.index(), past).last().copied());
        let smooth = smooth.filter(|_| past > 0.0).map(|ema| format!(", ema {}", measure(f64::from(ema))));
        rows.row("loss", format!("{}{}", measure(now.loss), smooth.unwrap_or_default()));
    }
    if let Some((step, loss)) = run.summary.eval {
        let best = run.summary.best();
        let is_best = best.is_some_and(|(at, _)| at == step);
        rows.row("eval", format!("{} @{step}{}", measure(loss), if is_best { ", the best" } else { "" }));
        if let Some((at, best)) = best.filter(|_| !is_best) {
            rows.row("", format!("best {} @{at}", measure(best)));
        }
    }
    if let Some(now) = run.summary.now {
        rows.row("lr", scientific(now.lr));
        rows.row("|g|", measure(now.grad_norm));
        rows.row("speed", format!("{} tok/s", short(now.tokens_per_second)));
        match data.map(|data| data.flops(now.tokens_per_second)) {
            Some((_, Some(share))) => rows.row("MFU", format!("{:.1}%", share * 100.0)),
            Some((Some(rate), None)) => rows.row("compute", flops(rate)),
            _ => {}
        }
    }
    if let Some(seconds) = data.and_then(RunData::seconds_per_step) {
        let each = if seconds < 1.0 { format!("{:.0} ms", seconds * 1e3) } else { format!("{seconds:.2} s") };
        rows.row("step", each);
    }
    if let Some(last) = data.and_then(|data| data.steps.last()) {
        rows.row("trained", duration(last.x(Axis::Time)));
    }
}

fn memory(run: &Run, rows: &mut Rows<'_>) {
    let Some(now) = run.summary.now else { return };
    let device = run.data.as_deref().and_then(|data| data.device.as_ref());
    let of = [device.and_then(|device| device.memory_bytes), device.and_then(|device| device.host_memory_bytes)];
    for ((name, used), all) in [("vram", now.accelerator_bytes), ("memory", now.peak_rss_bytes)].into_iter().zip(of) {
        let Some(used) = used.map(|used| used as f64) else { continue };
        match all.filter(|all| *all > 0).map(|all| all as f64) {
            Some(all) => {
                rows.row(name, format!("{} of {}", bytes(used), bytes(all)));
                rows.row("", bar(used / all, rows.app.look));
            }
            None => rows.row(name, bytes(used)),
        }
    }
    if let Some(predicted) = run.data.as_deref().and_then(|data| data.predicted_bytes) {
        rows.row("", format!("{} predicted", bytes(predicted as f64)));
    }
}

/// Verdict of the gate, end of the run, and a hint how to continue.
fn end(run: &Run, rows: &mut Rows<'_>) {
    verdict(run, rows);
    if let Some(name) = &run.summary.published {
        rows.styled("current", name, Role::Good);
    }
    let status = run.status();
    if matches!(status, Status::Interrupted | Status::Diverged | Status::Failed) {
        rows.styled("ended", &status::remark(rows.app, run).unwrap_or_default(), Role::Bad);
    }
    if status == Status::Interrupted {
        rows.row("resume", format!("tonfall resume {}", run.id));
    }
}

fn verdict(run: &Run, rows: &mut Rows<'_>) {
    let Some(verdict) = &run.summary.verdict else { return };
    let (word, role) = if verdict.passed { ("passed", Role::Good) } else { ("failed", Role::Bad) };
    rows.styled("gate", word, role);
    verdict.reasons.iter().for_each(|reason| rows.row("", reason));
}

/// Lines of the log that can't be read.
fn reading(run: &Run, rows: &mut Rows<'_>) {
    if run.read.damaged > 0 {
        rows.styled("log", &format!("{} skipped", counted(run.read.damaged, "damaged line")), Role::Bad);
    }
    if run.read.unknown > 0 {
        rows.row("log", format!("{} of a newer tonfall", counted(run.read.unknown, "line")));
    }
}

pub(super) fn data(app: &App, frame: &mut Frame<'_>, area: Rect) {
    let mut rows = Rows::new(app, super::inside(area));
    if let Some(data) = app.data() {
        if let Some(facts) = &data.data {
            examples(facts, &mut rows);
        }
        if let Some((tokens, trained)) = data.step_tokens {
            rows.row("step", format!("{}, {} with loss", counted(tokens, "token"), percent(trained, tokens)));
        }
        if let Some(parameters) = data.trainable_parameters {
            rows.row("trains", format!("{} parameters", short(parameters as f64)));
        }
        if let Some(device) = &data.device {
            rows.row("device", &device.name);
        }
    }
    match app.run().filter(|run| run.summary.verdict.is_some()) {
        Some(run) => verdict(run, &mut rows),
        None => rows.row("gate", "no verdict"),
    }
    rows.draw(Panel::Data, " data and gate ", frame, area);
}

fn examples(facts: &DataFacts, rows: &mut Rows<'_>) {
    let DataFacts { train_examples, eval_examples, dropped, tokens, trained_tokens, lengths, packing } = facts;
    rows.row("train", counted(*train_examples, "example"));
    rows.row("eval", format!("{} held out", grouped(*eval_examples)));
    rows.row("tokens", format!("{}, {} with loss", grouped(*tokens), percent(*trained_tokens, *tokens)));
    if let Some(lengths) = lengths {
        let [median, p90, p99, max] = [lengths.median, lengths.p90, lengths.p99, lengths.max].map(grouped);
        rows.row("lengths", format!("median {median}, 90% {p90}, 99% {p99}, max {max}"));
    }
    if let Some(packing) = packing {
        let sequences = counted(packing.sequences, "sequence");
        rows.row("packed", format!("{sequences}, {:.1}% filled", 100.0 * packing.filled));
    }
    for (reason, count) in dropped {
        rows.styled("dropped", &format!("{count}: {reason}"), Role::Bad);
    }
}

fn percent(part: u64, whole: u64) -> String {
    match whole {
        0 => "-".to_owned(),
        _ => format!("{:.0}%", part as f64 / whole as f64 * 100.0),
    }
}

//! Panels with charts.
//!
//! Responsible for: the curves and bounds of each chart.
//! Must not depend on: drawing dots and characters.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;
use tonfall_runs::Status;
use tonfall_runs::history::{Metric, RunData};
use tonfall_runs::numbers::{flops, short};
use tonfall_runs::series::{Axis, Series};

use super::block;
use super::status::remark;
use super::words::{bar, fitted, wrapped};
use crate::app::{App, Run};
use crate::chart::{Chart, Curve, Labels, Marks, Point, Scale};
use crate::layout::Panel;
use crate::theme::Role;

/// Fraction of the values at each end that is cut as outliers.
const OUTLIERS: f64 = 0.01;
/// Letters that identify curves.
const TAGS: &str = "abcdefghijklmnopqrstuvwxyz";

pub(super) fn loss(app: &App, frame: &mut Frame<'_>, area: Rect) {
    let runs = followed(app);
    let x = horizontal(app, &runs);
    let (mut curves, mut marks) = (Vec::new(), Vec::new());
    let past = app.plot.past();
    let alone = runs.len() < 2;
    let loss = Metric::Loss.index();
    for (number, (_, data)) in runs.iter().enumerate() {
        let raw = points(&data.steps, loss, app.plot.axis, &x);
        if past == 0.0 || (number == 0 && app.plot.raw) {
            let role = if past == 0.0 { Role::Curve(number) } else { Role::Faint };
            let tag = if past == 0.0 { tag(number, alone) } else { None };
            curves.push(Curve { points: raw, role, ascii: '.', tag });
        }
        if past > 0.0 {
            let points = smoothed(&data.steps, loss, past, app.plot.axis, &x);
            let ascii = if alone { '*' } else { tag(number, alone).unwrap_or('*') };
            curves.push(Curve { points, role: Role::Curve(number), ascii, tag: tag(number, alone) });
        }
        let points = points(&data.evals, 0, app.plot.axis, &x);
        let role = if alone { Role::Eval } else { Role::Curve(number) };
        marks.push(Marks { points, role, symbol: app.look.symbol("◆", "E") });
    }
    let block = block(app, Panel::Loss, title(app, &runs, area.width));
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let is_empty =
        curves.iter().all(|curve| curve.points.is_empty()) && marks.iter().all(|marks| marks.points.is_empty());
    match app.run().filter(|_| is_empty) {
        Some(run) => waiting(app, run, frame, inner),
        None => {
            let y = vertical(app, &curves, &marks, Labels::Measure);
            frame.render_widget(Chart { x, y, curves, marks, look: app.look }, inner);
        }
    }
}

/// The status of the run, or the reason of its end, if it has no curve.
fn waiting(app: &App, run: &Run, frame: &mut Frame<'_>, area: Rect) {
    let status = run.status();
    let nothing = match status {
        Status::Waiting => "waiting for the run to begin",
        _ => "nothing measured yet",
    };
    let text = remark(app, run).unwrap_or_else(|| nothing.to_owned());
    let room = usize::from(area.width.min(60)).saturating_sub(2);
    let mut lines: Vec<Line<'_>> = wrapped(&text, room).into_iter().map(Line::from).collect();
    if let Some((_, done, total)) = run.summary.phase.filter(|(_, _, total)| status.is_alive() && *total > 0) {
        lines.extend([Line::default(), Line::from(bar(done as f64 / total as f64, app.look))]);
    }
    let above = area.height.saturating_sub(lines.len() as u16) / 2;
    let middle = Rect { y: area.y + above, height: area.height - above, ..area };
    let role = if status.is_alive() { Role::Faint } else { Role::Plain };
    frame.render_widget(Paragraph::new(lines).centered().style(app.look.style(role)), middle);
}

/// One of the smaller charts.
pub(super) fn metric(app: &App, panel: Panel, frame: &mut Frame<'_>, area: Rect) {
    let (metric, name, labels) = match panel {
        Panel::LearningRate => (Metric::LearningRate, "learning rate", Labels::Measure),
        Panel::GradNorm => (Metric::GradNorm, "gradient norm", Labels::Measure),
        Panel::Throughput => (Metric::Throughput, "tokens/s", Labels::Count),
        _ => (Metric::HostMemory, "memory", Labels::Bytes),
    };
    let runs = followed(app);
    let x = horizontal(app, &runs);
    let alone = runs.len() < 2;
    let mut curves = Vec::new();
    for (number, (_, data)) in runs.iter().enumerate() {
        let points = points(&data.steps, metric.index(), app.plot.axis, &x);
        let ascii = if alone { '*' } else { tag(number, alone).unwrap_or('*') };
        curves.push(Curve { points, role: Role::Curve(number), ascii, tag: tag(number, alone) });
    }
    let mut text = format!(" {name} ");
    if let Some((run, data)) = runs.first() {
        let now = run.summary.now;
        match panel {
            Panel::Throughput => {
                let (rate, share) = now.map_or((None, None), |now| data.flops(now.tokens_per_second));
                match (rate, share) {
                    (_, Some(share)) => text = format!(" {name}  MFU {:.0}% ", share * 100.0),
                    (Some(rate), None) => text = format!(" {name}  {} ", flops(rate)),
                    (None, None) => {}
                }
            }
            Panel::Memory => {
                // Accelerator memory is more important than host memory.
                let has_accelerator = now.is_some_and(|now| now.accelerator_bytes.is_some());
                if has_accelerator {
                    let points = points(&data.steps, Metric::AcceleratorMemory.index(), app.plot.axis, &x);
                    curves.push(Curve { points, role: Role::Eval, ascii: 'v', tag: None });
                    text = format!(" memory  host {}  vram {} ", line_symbol(app), app.look.symbol("═", "v"));
                } else {
                    text = " memory  host, peak ".to_owned();
                }
            }
            _ => {}
        }
    }
    // The axis starts at zero, so that small changes look small.
    let y = vertical(app, &curves, &[], labels).down_to_zero();
    let block = block(app, panel, text);
    let inner = block.inner(area);
    frame.render_widget(block, area);
    frame.render_widget(Chart { x, y, curves, marks: Vec::new(), look: app.look }, inner);
}

/// The runs whose curves are drawn, if their histories were read.
fn followed(app: &App) -> Vec<(&Run, &RunData)> {
    let runs = app.compared().into_iter().filter_map(|run| app.runs.get(run));
    runs.filter_map(|run| Some((run, run.data.as_deref()?))).collect()
}

fn tag(number: usize, alone: bool) -> Option<char> {
    TAGS.chars().nth(number).filter(|_| !alone)
}

fn line_symbol(app: &App) -> &'static str {
    app.look.symbol("─", "*")
}

fn title(app: &App, runs: &[(&Run, &RunData)], width: u16) -> Line<'static> {
    let style = |role| app.look.style(role);
    let mut spans = vec![Span::raw(" loss ")];
    let past = app.plot.past();
    if runs.len() < 2 {
        match past {
            0.0 => spans.push(Span::styled(format!(" raw {}", app.look.symbol("─", ".")), style(Role::Curve(0)))),
            _ => {
                if app.plot.raw {
                    spans.push(Span::styled(format!(" raw {}", app.look.symbol("·", ".")), style(Role::Faint)));
                }
                spans.push(Span::styled(format!("  ema {past} {}", line_symbol(app)), style(Role::Curve(0))));
            }
        }
        spans.push(Span::styled(format!("  eval {}", app.look.symbol("◆", "E")), style(Role::Eval)));
    } else {
        // Border and title need space too, and names are more important than notes.
        let each = usize::from(width).saturating_sub(8) / runs.len();
        for (number, (run, _)) in runs.iter().enumerate() {
            let name = fitted(&run.id, each.saturating_sub(4), app.look);
            let name = format!(" {} {name} ", tag(number, false).unwrap_or('?'));
            spans.push(Span::styled(name, style(Role::Curve(number))));
        }
    }
    let mut notes = Vec::new();
    let gaps: u64 = runs.first().map_or(0, |(_, data)| data.steps.gaps(Metric::Loss.index()));
    if gaps > 0 {
        notes.push(format!("{gaps} not finite"));
    }
    if app.plot.log {
        notes.push("log".to_owned());
    }
    if app.plot.axis != Axis::Step {
        notes.push(format!("by {}", app.plot.axis.name()));
    }
    if app.plot.cut_outliers {
        notes.push("98%".to_owned());
    }
    if app.plot.is_zoomed() {
        let follows = if app.plot.follows() { ", follows" } else { "" };
        notes.push(format!("zoom {}x{follows}", short(app.plot.magnification())));
    }
    spans.push(Span::raw(if notes.is_empty() { " ".to_owned() } else { format!("  {} ", notes.join(", ")) }));
    Line::from(spans)
}

/// The horizontal axis: the visible part of the range from 0 to the newest point of all runs.
fn horizontal(app: &App, runs: &[(&Run, &RunData)]) -> Scale {
    let axis = app.plot.axis;
    let ends = runs.iter().flat_map(|(_, data)| {
        let steps = data.steps.last().map(|bucket| bucket.x(axis));
        steps.into_iter().chain(data.evals.last().map(|bucket| bucket.x(axis)))
    });
    let whole = ends.filter(|end| end.is_finite()).fold(0.0, f64::max);
    let (start, end) = app.plot.window();
    let labels = if axis == Axis::Time { Labels::Time } else { Labels::Count };
    Scale::new(start * whole, end * whole, false, labels)
}

fn points<const N: usize>(series: &Series<N>, index: usize, axis: Axis, x: &Scale) -> Vec<Point> {
    let visible = visible(series, axis, x);
    let point = |bucket: &tonfall_runs::series::Bucket<N>| {
        let span = bucket.values[index];
        Point { x: bucket.x(axis), low: f64::from(span.low), high: f64::from(span.high) }
    };
    visible.iter().map(point).collect()
}

fn smoothed<const N: usize>(series: &Series<N>, index: usize, past: f64, axis: Axis, x: &Scale) -> Vec<Point> {
    let values = series.smoothed(index, past);
    let point = |(bucket, value): (&tonfall_runs::series::Bucket<N>, f32)| {
        let value = f64::from(value);
        Point { x: bucket.x(axis), low: value, high: value }
    };
    let inside = |point: &Point| (x.low()..=x.high()).contains(&point.x);
    series.buckets().iter().zip(values).map(point).filter(inside).collect()
}

fn visible<'a, const N: usize>(series: &'a Series<N>, axis: Axis, x: &Scale) -> &'a [tonfall_runs::series::Bucket<N>] {
    let buckets = series.buckets();
    let start = buckets.partition_point(|bucket| bucket.x(axis) < x.low());
    let end = buckets.partition_point(|bucket| bucket.x(axis) <= x.high());
    &buckets[start.min(end)..end]
}

/// The vertical axis: the bounds of all curves.
fn vertical(app: &App, curves: &[Curve], marks: &[Marks], labels: Labels) -> Scale {
    let log = app.plot.log;
    let usable = |value: &f64| value.is_finite() && value.abs() < 1e30 && !(log && *value <= 0.0);
    let of_curves = curves.iter().flat_map(|curve| &curve.points);
    let all = || of_curves.clone().chain(marks.iter().flat_map(|marks| &marks.points));
    let (mut low, mut high) = all()
        .flat_map(|point| [point.low, point.high])
        .filter(usable)
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    if app.plot.cut_outliers {
        let mut values: Vec<f64> = all().flat_map(|point| [point.low, point.high]).filter(usable).collect();
        let last = values.len().saturating_sub(1);
        let place = (values.len() as f64 * OUTLIERS) as usize;
        if last > 0 {
            low = *values.select_nth_unstable_by(place, f64::total_cmp).1;
            high = *values.select_nth_unstable_by(last - place, f64::total_cmp).1;
        }
    }
    Scale::new(low, high, log, labels)
}

//! Drawing what is known about a run.
//!
//! Responsible for: layout and looks. Only draws.
//! Must not depend on: where the numbers come from.
//!
//! ```text
//!  header
//! ┌ loss ──────────────────────┐┌ now ───────┐
//! │ raw and smoothed, eval     ││            │
//! └────────────────────────────┘│            │
//! ┌ events ────────────────────┐│            │
//! └────────────────────────────┘└────────────┘
//!  q leave
//! ```

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::Marker;
use ratatui::text::Line;
use ratatui::widgets::{Axis, Block, Chart, Dataset, GraphType, Paragraph};
use tonfall_recipes::RunState;

use crate::app::App;

/// Below this size there is one line.
const SMALLEST: (u16, u16) = (60, 16);
const NOW_WIDTH: u16 = 28;

pub(crate) fn draw(app: &App, frame: &mut Frame<'_>) {
    let area = frame.area();
    if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
        frame.render_widget(Paragraph::new(one_line(app)), area);
        return;
    }
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(3), Constraint::Length(1)]).areas(area);
    let [left, right] = Layout::horizontal([Constraint::Min(20), Constraint::Length(NOW_WIDTH)]).areas(body);
    let [loss, events] = Layout::vertical([Constraint::Fill(2), Constraint::Fill(1)]).areas(left);
    frame.render_widget(Paragraph::new(header(app)).style(Modifier::BOLD), head);
    chart(app, frame, loss);
    frame.render_widget(now(app), right);
    lines(app, frame, events);
    frame.render_widget(Paragraph::new(" q leave"), foot);
}

fn one_line(app: &App) -> String {
    let mut text = format!("{} {}", app.id, state(app.state));
    if let Some(now) = app.now {
        text += &format!(" step {}/{} loss {:.4}", now.step, app.total_steps, now.loss);
    }
    if let Some((_, loss)) = app.evals.last() {
        text += &format!(" eval {loss:.3}");
    }
    text
}

fn header(app: &App) -> String {
    let mut text = format!(" {}  {}", app.id, state(app.state));
    if let Some(now) = app.now {
        text += &format!("  step {}/{}  epoch {:.1}", now.step, app.total_steps, now.epoch);
    }
    if let Some(eta) = app.eta() {
        text += &format!("  eta {}", duration(eta));
    }
    text + &format!("  attempt {}", app.attempt)
}

fn state(state: RunState) -> String {
    state.name().to_uppercase()
}

fn chart(app: &App, frame: &mut Frame<'_>, area: Rect) {
    // A braille character is two points wide.
    let columns = usize::from(area.width.max(1)) * 2;
    let raw = decimated(&app.losses, columns);
    let smooth = decimated(&app.smoothed(), columns);
    let evals = decimated(&app.evals, columns);
    let last = app.losses.iter().chain(&app.evals).map(|(step, _)| *step).fold(1.0, f64::max);
    let all = raw.iter().chain(&smooth).chain(&evals).map(|(_, loss)| *loss);
    let (low, high) = all.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), y| (low.min(y), high.max(y)));
    let (low, high) = if low < high { (low, high) } else { (0.0, 1.0) };
    let number = |value: f64| if value.abs() < 1e4 { format!("{value:.2}") } else { format!("{value:.1e}") };
    let series = |data, marker, graph, color, faint: bool| {
        let style = Style::new().fg(color);
        let style = if faint { style.add_modifier(Modifier::DIM) } else { style };
        Dataset::default().marker(marker).graph_type(graph).style(style).data(data)
    };
    let sets = vec![
        series(&raw, Marker::Braille, GraphType::Line, Color::Gray, true),
        series(&smooth, Marker::Braille, GraphType::Line, Color::Cyan, false),
        series(&evals, Marker::Dot, GraphType::Scatter, Color::Yellow, false),
    ];
    let chart = Chart::new(sets)
        .block(Block::bordered().title(" loss  raw, smoothed; eval • "))
        .x_axis(Axis::default().bounds([0.0, last]).labels([Line::from("0"), Line::from(format!("{last:.0}"))]))
        .y_axis(Axis::default().bounds([low, high]).labels([number(low), number(high)]));
    frame.render_widget(chart, area);
}

/// At most two points a column, its lowest and its highest, so that spikes stay. Values that are not finite are gaps.
fn decimated(points: &[(f64, f64)], columns: usize) -> Vec<(f64, f64)> {
    let finite: Vec<(f64, f64)> = points.iter().copied().filter(|(x, y)| x.is_finite() && y.abs() < 1e30).collect();
    if finite.len() <= 2 * columns {
        return finite;
    }
    let bucket = finite.len().div_ceil(columns.max(1));
    let ends = |group: &[(f64, f64)]| {
        let low = group.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1));
        let high = group.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1));
        let mut both: Vec<(f64, f64)> = low.into_iter().chain(high).collect();
        both.sort_by(|a, b| a.0.total_cmp(&b.0));
        both
    };
    finite.chunks(bucket).flat_map(ends).collect()
}

fn now(app: &App) -> Paragraph<'static> {
    let mut rows = Vec::new();
    if let Some(now) = app.now {
        rows.push(format!("loss    {:.4}", now.loss));
        if let Some((_, smooth)) = app.smoothed().last() {
            rows.push(format!("smooth  {smooth:.4}"));
        }
    }
    if let Some((step, loss)) = app.evals.last() {
        rows.push(format!("eval    {loss:.4} @{step:.0}"));
    }
    if let Some((step, loss)) = app.best() {
        rows.push(format!("best    {loss:.4} @{step:.0}"));
    }
    if let Some(now) = app.now {
        rows.push(format!("lr      {:.2e}", now.lr));
        rows.push(format!("|g|     {:.3}", now.grad_norm));
        rows.push(format!("tok/s   {:.0}", now.tokens_per_second));
        if let Some(bytes) = now.peak_rss_bytes {
            rows.push(format!("memory  {} MiB", bytes >> 20));
        }
    }
    if rows.is_empty() {
        rows.push("no step yet".to_owned());
    }
    Paragraph::new(rows.into_iter().map(Line::from).collect::<Vec<_>>()).block(Block::bordered().title(" now "))
}

fn lines(app: &App, frame: &mut Frame<'_>, area: Rect) {
    let room = usize::from(area.height.saturating_sub(2));
    let newest = app.lines.iter().rev().take(room).rev();
    let rows: Vec<Line<'_>> = newest.map(|(t, text)| Line::from(format!("{} {text}", clock(*t)))).collect();
    frame.render_widget(Paragraph::new(rows).block(Block::bordered().title(" events (UTC) ")), area);
}

/// Hours and minutes of a time since 1970, UTC.
fn clock(t: f64) -> String {
    let minutes = (t.clamp(0.0, 1e15) / 60.0) as u64;
    format!("{:02}:{:02}", minutes / 60 % 24, minutes % 60)
}

fn duration(seconds: f64) -> String {
    let seconds = seconds.clamp(0.0, 1e15) as u64;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h {:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

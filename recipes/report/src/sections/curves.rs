//! Curves over the steps of the run.
//!
//! Responsible for: loss with its moving average and evaluations, and the learning rate.
//! Must not depend on: how a chart is drawn.

use tonfall_recipes::{counted, grouped};
use tonfall_runs::curve::{Piece, pieces, spans};
use tonfall_runs::history::{Metric, RunData};
use tonfall_runs::numbers::measure;
use tonfall_runs::scale::{Labels, Scale};
use tonfall_runs::series::Axis;

use crate::chart::{Chart, Line};
use crate::html::{Html, html};
use crate::view::View;

/// Maximum points of a curve, or minima and maxima of as many columns.
const COLUMNS: usize = 800;
/// The same for evaluations, which are drawn as single points.
const EVAL_COLUMNS: usize = 150;
/// Weight of the past in the moving average, like the default of the dashboard.
const PAST: f64 = 0.9;
/// From this ratio of the highest to the lowest loss, its axis is logarithmic.
const LOGARITHMIC: f64 = 20.0;
/// Space above and below the curves, as a fraction of their range.
const MARGIN: f64 = 0.05;

pub(crate) fn write(page: &mut Html, view: &View) {
    html!(page, "<section id=\"curves\">\n<h2>Curves</h2>\n");
    let data = &view.data;
    if data.steps.buckets().is_empty() && data.evals.buckets().is_empty() {
        html!(page, "<p>The event log has no step and no evaluation.</p>\n");
    } else {
        loss(page, data);
        learning_rate(page, data);
    }
    html!(page, "</section>\n");
}

fn loss(page: &mut Html, data: &RunData) {
    let index = Metric::Loss.index();
    let raw = pieces(spans(&data.steps, index), COLUMNS);
    let xs = data.steps.buckets().iter().map(|bucket| bucket.x(Axis::Step));
    let smooth = xs.zip(data.steps.smoothed(index, PAST)).map(|(x, y)| (x, f64::from(y), f64::from(y)));
    let smooth = pieces(smooth, COLUMNS);
    let evals: Vec<(f64, f64)> =
        spans(&data.evals, 0).filter(|(_, low, _)| low.is_finite()).map(|(x, low, _)| (x, low)).collect();
    let (low, high) = range(raw.iter().chain(&smooth).flatten().chain(&evals));
    let log = low > 0.0 && high / low >= LOGARITHMIC;
    let chart = Chart {
        id: "loss",
        title: "Loss by optimizer step".to_owned(),
        description: loss_in_words(&raw, &smooth, &evals),
        x_name: "optimizer step",
        x: steps(data),
        y: vertical(low, high, log),
        height: 300,
        lines: vec![Line { class: "raw", pieces: raw }, Line { class: "smooth", pieces: smooth }],
        points: pieces(spans(&data.evals, 0), EVAL_COLUMNS).into_iter().flatten().collect(),
    };
    html!(page, "<figure>\n<figcaption><h3>Loss</h3>\n<p class=\"legend\">");
    html!(
        page,
        "<span><i class=\"raw\"></i> each step, faint</span> <span><i class=\"smooth\"></i> moving average</span> "
    );
    html!(page, "<span><i class=\"eval\">◆</i> held-out data</span>");
    if log {
        html!(page, " <span>logarithmic axis</span>");
    }
    html!(page, "</p></figcaption>\n");
    chart.write(page);
    if data.steps.buckets().len() > COLUMNS || data.evals.buckets().len() > EVAL_COLUMNS {
        html!(
            page,
            "<p class=\"note\">More steps than columns: each column shows its lowest and its highest value.</p>\n"
        );
    }
    gaps(page, data);
    html!(page, "</figure>\n");
}

/// Steps and evaluations whose loss is not finite. They are gaps in the curves.
fn gaps(page: &mut Html, data: &RunData) {
    let (steps, evals) = (data.steps.gaps(Metric::Loss.index()), data.evals.gaps(0));
    for (count, noun) in [(steps, "step"), (evals, "evaluation")] {
        if count > 0 {
            html!(
                page,
                "<p class=\"fault\">{} without a finite loss (NaN or infinite): a gap in the curve.</p>\n",
                counted(count, noun)
            );
        }
    }
}

fn learning_rate(page: &mut Html, data: &RunData) {
    let curve = pieces(spans(&data.steps, Metric::LearningRate.index()), COLUMNS);
    if curve.is_empty() {
        return;
    }
    let (low, high) = range(curve.iter().flatten());
    let chart = Chart {
        id: "rate",
        title: "Learning rate by optimizer step".to_owned(),
        description: format!("From {} to at most {}.", measure(low), measure(high)),
        x_name: "optimizer step",
        x: steps(data),
        y: Scale::new(low, high, false, Labels::Measure).down_to_zero(),
        height: 140,
        lines: vec![Line { class: "smooth", pieces: curve }],
        points: Vec::new(),
    };
    html!(page, "<figure>\n<figcaption><h3>Learning rate</h3></figcaption>\n");
    chart.write(page);
    html!(page, "</figure>\n");
}

fn steps(data: &RunData) -> Scale {
    let ends = [data.steps.last().map(|last| last.last), data.evals.last().map(|last| last.last)];
    Scale::new(0.0, ends.into_iter().flatten().max().unwrap_or(1) as f64, false, Labels::Count)
}

fn vertical(low: f64, high: f64, log: bool) -> Scale {
    let margin = if log { 0.0 } else { (high - low) * MARGIN };
    Scale::new(low - margin, high + margin, log, Labels::Measure)
}

fn range<'a>(points: impl Iterator<Item = &'a (f64, f64)>) -> (f64, f64) {
    points.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), (_, y)| (low.min(*y), high.max(*y)))
}

fn loss_in_words(raw: &[Piece], smooth: &[Piece], evals: &[(f64, f64)]) -> String {
    let at = |(step, loss): &(f64, f64)| format!("{} at step {}", measure(*loss), grouped(*step as u64));
    let mut text = String::new();
    if let (Some(first), Some(last)) =
        (raw.first().and_then(|piece| piece.first()), smooth.last().and_then(|piece| piece.last()))
    {
        text += &format!("Training loss {}, moving average {}. ", at(first), at(last));
    }
    let best = evals.iter().min_by(|a, b| a.1.total_cmp(&b.1));
    if let (Some(first), Some(last), Some(best)) = (evals.first(), evals.last(), best) {
        text += &format!("Held-out loss {}, {}; lowest {}.", at(first), at(last), at(best));
    }
    text
}

//! The evaluation as a table.
//!
//! Responsible for: the measures of base, adapter and published version, their differences, and which is better. A run
//! without evaluation reports shows the measurements of its log.
//! Must not depend on: how measures come about.

use tonfall_recipes::{counted, grouped};
use tonfall_runs::evaluation::{Better, Measure, Report};
use tonfall_runs::history::Answers;
use tonfall_runs::numbers::measure;

use crate::difference::{Difference, Judgement, between};
use crate::html::{Html, html};
use crate::limits::{ROWS, left_out, value};
use crate::view::View;

pub(crate) fn write(page: &mut Html, view: &View) {
    html!(page, "<section id=\"evaluation\">\n<h2>Evaluation</h2>\n");
    match (&view.base, &view.adapter) {
        (None, None) => logged(page, view),
        (base, adapter) => {
            for (name, report) in [("base", base), ("adapter", adapter)] {
                if report.is_none() {
                    html!(page, "<p>The run has no evaluation of the {}.</p>\n", name);
                }
            }
            let published = view.published.as_ref().and_then(|published| published.report.as_ref());
            measures(page, base.as_ref(), adapter.as_ref(), published);
        }
    }
    html!(page, "</section>\n");
}

fn measures(page: &mut Html, base: Option<&Report>, adapter: Option<&Report>, published: Option<&Report>) {
    let Some(newest) = adapter.or(base) else { return };
    let has_same = |other: Option<&Report>| other.is_none_or(|other| other.questions == newest.questions);
    for (name, other) in [("base", base), ("published version", published)] {
        if !has_same(other) {
            html!(
                page,
                "<p class=\"fault\">The {} was asked other questions: its values can't be compared exactly, and there is no interval.</p>\n",
                name
            );
        }
    }
    open_table(page, "measures of base and adapter", &columns(published.is_some()));
    for measure in newest.measures.iter().take(ROWS) {
        let of = |report: Option<&Report>| report.and_then(|report| report.measure(&measure.name)).cloned();
        let [old, new, current] = [of(base), of(adapter), of(published)];
        let mut cells = vec![number(old.as_ref()), number(new.as_ref())];
        if published.is_some() {
            cells.push(number(current.as_ref()));
        }
        let difference = old.zip(new).and_then(|(old, new)| between(&old, &new, has_same(base)));
        measured(page, measure, difference, cells);
    }
    close_table(page);
    left_out(page, newest.measures.len().saturating_sub(ROWS) as u64, "measure");
    html!(
        page,
        "<p class=\"note\">Difference: adapter minus base, with its 95 % confidence interval over {}. ",
        counted(newest.answers.len() as u64, "held-out prompt")
    );
    html!(
        page,
        "An interval that contains 0 is no clear difference. Below 10 prompts or examples there is no interval.</p>\n"
    );
}

/// Measures that the published version and the adapter both have, with their difference.
pub(crate) fn against_published(page: &mut Html, published: &Report, adapter: &Report) {
    let same = published.questions == adapter.questions;
    if !same {
        html!(
            page,
            "<p class=\"fault\">Both were asked other questions: the values can't be compared exactly, and there is no interval.</p>\n"
        );
    }
    open_table(
        page,
        "measures of published version and adapter",
        &["measure", "adapter is", "published", "adapter", "difference", "95 % interval"],
    );
    let mut missing = 0;
    for new in adapter.measures.iter().take(ROWS) {
        let Some(old) = published.measure(&new.name) else {
            missing += 1;
            continue;
        };
        measured(page, new, between(old, new, same), vec![number(Some(old)), number(Some(new))]);
    }
    close_table(page);
    left_out(page, adapter.measures.len().saturating_sub(ROWS) as u64, "measure");
    if missing > 0 {
        html!(page, "<p>The published version was not measured in {}.</p>\n", counted(missing, "other measure"));
    }
}

fn columns(has_published: bool) -> Vec<&'static str> {
    let published = has_published.then_some("published");
    ["measure", "adapter is", "base", "adapter"]
        .into_iter()
        .chain(published)
        .chain(["difference", "95 % interval"])
        .collect()
}

fn open_table(page: &mut Html, label: &'static str, columns: &[&str]) {
    html!(
        page,
        "<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"{}\"><table class=\"numbers judged\">\n<thead><tr>",
        label
    );
    for name in columns {
        html!(page, "<th scope=\"col\">{}</th>", name);
    }
    html!(page, "</tr></thead>\n<tbody>\n");
}

fn close_table(page: &mut Html) {
    html!(page, "</tbody></table></div>\n");
}

/// Which direction is the better one, in words.
fn direction(better: Better) -> &'static str {
    match better {
        Better::Higher => "higher is better",
        Better::Lower => "lower is better",
        Better::Neither => "a description",
    }
}

fn number(found: Option<&Measure>) -> String {
    found.and_then(Measure::value).map_or_else(nothing, measure)
}

/// In a cell without a value.
fn nothing() -> String {
    "–".to_owned()
}

/// The row of a measure: its values in `cells`, then the difference with its interval.
fn measured(page: &mut Html, measure: &Measure, difference: Option<Difference>, mut cells: Vec<String>) {
    cells.push(difference.map_or_else(nothing, |difference| signed(difference.value)));
    let interval = difference.and_then(|difference| difference.interval);
    cells.push(interval.map_or_else(nothing, |(low, high)| format!("{} to {}", signed(low), signed(high))));
    let judgement = difference.and_then(|difference| Judgement::of(measure.better, difference));
    row(page, (&value(&measure.name), direction(measure.better)), judgement, &cells);
}

/// A row: name and direction, the judgement, and the values.
fn row(page: &mut Html, (name, direction): (&str, &str), judgement: Option<Judgement>, cells: &[String]) {
    html!(page, "<tr><th scope=\"row\"><code>{}</code> <small>{}</small></th>", name, direction);
    match judgement {
        Some(judgement) => html!(page, "<td class=\"judged {}\">{}</td>", judgement.class(), judgement.name()),
        None => html!(page, "<td class=\"judged\">–</td>"),
    }
    for cell in cells {
        html!(page, "<td>{}</td>", cell);
    }
    html!(page, "</tr>\n");
}

/// `+0.12`, `−0.12`, `0`
pub(crate) fn signed(value: f64) -> String {
    match value {
        _ if value > 0.0 => format!("+{}", measure(value)),
        _ if value < 0.0 => format!("−{}", measure(-value)),
        _ => measure(value),
    }
}

/// Loss and terms from the event log.
fn logged(page: &mut Html, view: &View) {
    html!(page, "<p>The run has no evaluation report. These are the measurements of its training.</p>\n");
    let eval = view.facts.first_eval.zip(view.summary.eval);
    let (before, after) = (&view.data.before, &view.data.after);
    let has_terms = [before, after].iter().any(|answers| expected(answers) > 0 || violations(answers) > 0);
    if eval.is_none() && !has_terms {
        html!(page, "<p>It has no measurement.</p>\n");
        return;
    }
    open_table(page, "measurements of the training", &["measure", "after is", "before", "after", "difference"]);
    let lower = direction(Better::Lower);
    if let Some(((first, old), (last, new))) = eval {
        let at = |loss, step| format!("{} at step {}", measure(loss), grouped(step));
        let (judgement, cells) = match last > first {
            true => (Judgement::by_sign(Better::Lower, new - old), [at(old, first), at(new, last), signed(new - old)]),
            false => (None, [at(old, first), nothing(), nothing()]),
        };
        row(page, ("eval loss", lower), judgement, &cells);
    }
    if has_terms {
        let missing = |answers: &Answers| answers.answers.iter().map(|answer| answer.missing.len()).sum::<usize>();
        counts(page, "missing expected terms", [before, after], missing);
        counts(page, "forbidden terms used", [before, after], violations);
    }
    close_table(page);
    if let Some((step, loss)) = view.summary.best() {
        html!(page, "<p class=\"note\">Lowest eval loss: {} at step {}.</p>\n", measure(loss), step);
    }
}

fn counts(page: &mut Html, name: &str, answers: [&Answers; 2], count: fn(&Answers) -> usize) {
    let counts = answers.map(|answers| (!answers.answers.is_empty()).then(|| count(answers) as i64));
    let difference = counts[0].zip(counts[1]).map(|(old, new)| new - old);
    let [old, new] = counts.map(|count| count.map_or_else(nothing, |count| count.to_string()));
    let shown = difference.map_or_else(nothing, |difference| match difference {
        0 => "0".to_owned(),
        _ => format!("{difference:+}").replace('-', "−"),
    });
    let judgement = difference.and_then(|difference| Judgement::by_sign(Better::Lower, difference as f64));
    row(page, (name, direction(Better::Lower)), judgement, &[old, new, shown]);
}

fn expected(answers: &Answers) -> usize {
    answers.answers.iter().map(|answer| answer.expected.len()).sum()
}

fn violations(answers: &Answers) -> usize {
    answers.answers.iter().map(|answer| answer.violations.len()).sum()
}

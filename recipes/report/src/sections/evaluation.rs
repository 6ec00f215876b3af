//! The evaluation as a table.
//!
//! Responsible for: the measures of base, adapter and published version, their differences, and which is better. A run
//! without evaluation reports shows the measurements of its log.
//! Must not depend on: how measures come about.

use tonfall_recipes::counted;
use tonfall_runs::evaluation::{Measure, Report};
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
            html!(page, "<p class=\"fault\">The {} was asked other questions: its values can't be compared exactly, and there is no interval.</p>\n", name);
        }
    }
    open_table(page, "measures of base and adapter", &columns(published.is_some()));
    for measure in newest.measures.iter().take(ROWS) {
        let of = |report: Option<&Report>| report.and_then(|report| report.measure(&measure.name)).cloned();
        let [old, new, current] = [of(base), of(adapter), of(published)];
        html!(page, "<tr><th scope=\"row\"><code>{}</code> <small>{}</small></th>", value(&measure.name), direction(measure));
        number(page, old.as_ref());
        number(page, new.as_ref());
        if published.is_some() {
            number(page, current.as_ref());
        }
        let difference = old.zip(new).and_then(|(old, new)| between(&old, &new, has_same(base)));
        compared(page, measure, difference);
        html!(page, "</tr>\n");
    }
    close_table(page);
    left_out(page, newest.measures.len().saturating_sub(ROWS) as u64, "measure");
    html!(page, "<p class=\"note\">Difference: adapter minus base, with its 95 % confidence interval over {}. ", counted(newest.answers.len() as u64, "held-out prompt"));
    html!(page, "An interval that contains 0 is no clear difference. Below 10 prompts or examples there is no interval.</p>\n");
}

/// Measures that the published version and the adapter both have, with their difference.
pub(crate) fn against_published(page: &mut Html, published: &Report, adapter: &Report) {
    let same = published.questions == adapter.questions;
    if !same {
        html!(page, "<p class=\"fault\">Both were asked other questions: the values can't be compared exactly, and there is no interval.</p>\n");
    }
    open_table(page, "measures of published version and adapter", &["measure", "published", "this adapter", "difference", "95 % interval", "this adapter is"]);
    let mut missing = 0;
    for new in adapter.measures.iter().take(ROWS) {
        let Some(old) = published.measure(&new.name) else {
            missing += 1;
            continue;
        };
        html!(page, "<tr><th scope=\"row\"><code>{}</code> <small>{}</small></th>", value(&new.name), direction(new));
        number(page, Some(old));
        number(page, Some(new));
        compared(page, new, between(old, new, same));
        html!(page, "</tr>\n");
    }
    close_table(page);
    left_out(page, adapter.measures.len().saturating_sub(ROWS) as u64, "measure");
    if missing > 0 {
        html!(page, "<p>The published version was not measured in {}.</p>\n", counted(missing, "other measure"));
    }
}

fn columns(has_published: bool) -> Vec<&'static str> {
    let published = has_published.then_some("published");
    ["measure", "base", "adapter"].into_iter().chain(published).chain(["difference", "95 % interval", "adapter is"]).collect()
}

fn open_table(page: &mut Html, label: &'static str, columns: &[&str]) {
    html!(page, "<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"{}\"><table class=\"numbers\">\n<thead><tr>", label);
    for name in columns {
        html!(page, "<th scope=\"col\">{}</th>", name);
    }
    html!(page, "</tr></thead>\n<tbody>\n");
}

fn close_table(page: &mut Html) {
    html!(page, "</tbody></table></div>\n");
}

/// Which direction is the better one, in words.
fn direction(measure: &Measure) -> &'static str {
    use tonfall_runs::evaluation::Better;
    match measure.better {
        Better::Higher => "higher is better",
        Better::Lower => "lower is better",
        Better::Neither => "a description",
    }
}

fn number(page: &mut Html, found: Option<&Measure>) {
    match found.and_then(Measure::value) {
        Some(value) => html!(page, "<td>{}</td>", measure(value)),
        None => html!(page, "<td>–</td>"),
    }
}

/// The cells of a difference: its value, its interval and its judgement.
fn compared(page: &mut Html, measured: &Measure, difference: Option<Difference>) {
    let Some(difference) = difference else {
        html!(page, "<td>–</td><td>–</td><td>–</td>");
        return;
    };
    html!(page, "<td>{}</td>", signed(difference.value));
    match difference.interval {
        Some((low, high)) => html!(page, "<td>{} to {}</td>", signed(low), signed(high)),
        None => html!(page, "<td>–</td>"),
    }
    match Judgement::of(measured.better, difference) {
        Some(judgement) => html!(page, "<td class=\"{}\">{}</td>", judgement.class(), judgement.name()),
        None => html!(page, "<td>–</td>"),
    }
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
    open_table(page, "measurements of the training", &["measure", "before", "after", "difference", "after is"]);
    if let Some(((first, old), (last, new))) = eval {
        html!(page, "<tr><th scope=\"row\">eval loss <small>lower is better</small></th>");
        html!(page, "<td>{} <small>step {}</small></td>", measure(old), first);
        if last > first {
            html!(page, "<td>{} <small>step {}</small></td><td>{}</td>", measure(new), last, signed(new - old));
            judged(page, new - old);
        } else {
            html!(page, "<td>–</td><td>–</td><td>–</td>");
        }
        html!(page, "</tr>\n");
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

fn counts(page: &mut Html, name: &'static str, answers: [&Answers; 2], count: fn(&Answers) -> usize) {
    html!(page, "<tr><th scope=\"row\">{} <small>lower is better</small></th>", name);
    match answers.map(|answers| (!answers.answers.is_empty()).then(|| count(answers))) {
        [Some(old), Some(new)] => {
            let difference = new as f64 - old as f64;
            let sign = if difference > 0.0 { "+" } else { "" };
            let shown = format!("{sign}{difference}").replace('-', "−");
            html!(page, "<td>{}</td><td>{}</td><td>{}</td>", old, new, shown);
            judged(page, difference);
        }
        [old, _] => {
            html!(page, "<td>{}</td><td>–</td><td>–</td><td>–</td>", old.map_or_else(|| "–".to_owned(), |old| old.to_string()));
        }
    }
    html!(page, "</tr>\n");
}

fn judged(page: &mut Html, difference: f64) {
    use tonfall_runs::evaluation::Better;
    match Judgement::of(Better::Lower, Difference { value: difference, interval: None }) {
        Some(judgement) => html!(page, "<td class=\"{}\">{}</td>", judgement.class(), judgement.name()),
        None => html!(page, "<td>–</td>"),
    }
}

fn expected(answers: &Answers) -> usize {
    answers.answers.iter().map(|answer| answer.expected.len()).sum()
}

fn violations(answers: &Answers) -> usize {
    answers.answers.iter().map(|answer| answer.violations.len()).sum()
}

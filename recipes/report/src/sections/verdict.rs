//! The verdict: the first thing on the page.
//!
//! Responsible for: how the run ended, the verdict of the gate with its reasons, and the few numbers that matter most.
//! Must not depend on: the other sections.

use tonfall_recipes::{counted, grouped};
use tonfall_runs::Status;
use tonfall_runs::numbers::{bytes, duration, measure};

use crate::difference::{Judgement, between};
use crate::html::{Html, html};
use crate::limits::{self, ROWS, left_out, value};
use crate::view::View;

/// How a verdict looks. Its words have the same meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tone {
    Good,
    Bad,
    /// Neither: not finished, or not judged.
    Open,
}

impl Tone {
    fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Bad => "bad",
            Self::Open => "open",
        }
    }

    fn sign(self) -> &'static str {
        match self {
            Self::Good => "✓",
            Self::Bad => "✗",
            Self::Open => "·",
        }
    }
}

pub(crate) fn write(page: &mut Html, view: &View) {
    let (tone, head) = headline(view);
    html!(page, "<section id=\"verdict\" class=\"verdict {}\">\n", tone.class());
    html!(page, "<h2><span aria-hidden=\"true\">{}</span> {}</h2>\n", tone.sign(), head);
    if let Some(end) = &view.summary.end {
        paragraph(page, end);
    }
    if view.status.is_alive() {
        html!(page, "<p>The run has not ended. This page shows it as it was at {}.</p>\n", view.made);
    }
    if view.status == Status::Interrupted {
        html!(page, "<p>To continue: <code>tonfall resume {}</code></p>\n", value(&view.name));
    }
    if let Some(verdict) = view.summary.verdict.as_ref().filter(|verdict| !verdict.reasons.is_empty()) {
        html!(page, "<ul class=\"reasons\">\n");
        for reason in verdict.reasons.iter().take(ROWS) {
            html!(page, "<li>{}</li>\n", value(reason));
        }
        html!(page, "</ul>\n");
        left_out(page, verdict.reasons.len().saturating_sub(ROWS) as u64, "reason");
    }
    for fault in &view.faults {
        html!(page, "<p class=\"fault\"><strong>Damaged:</strong> {}</p>\n", value(fault));
    }
    figures(page, view);
    html!(page, "</section>\n");
}

/// A text of the log, cut if it is long.
fn paragraph(page: &mut Html, text: &str) {
    let (text, rest) = limits::cut(text, limits::TEXT);
    html!(page, "<p class=\"text\">{}</p>\n", text);
    left_out(page, rest as u64, "character");
}

fn headline(view: &View) -> (Tone, String) {
    let summary = &view.summary;
    let at = format!("step {} of {}", grouped(summary.step), grouped(summary.total_steps));
    let gate = summary.verdict.as_ref().map(|verdict| verdict.passed);
    match view.status {
        _ if view.info.is_none() => (Tone::Bad, "Damaged run: parts of it can't be read".to_owned()),
        Status::Waiting if view.status.is_alive() && view.summary.attempt == 0 => {
            (Tone::Open, "No attempt yet: the log is empty".to_owned())
        }
        Status::Published => {
            let name = summary.published.as_deref().map(value).unwrap_or_default();
            match gate {
                Some(true) => (Tone::Good, format!("Gate passed, published as {name}")),
                Some(false) => (Tone::Bad, format!("Gate failed, but published as {name}")),
                None => (Tone::Open, format!("No gate, published as {name}")),
            }
        }
        Status::GateFailed => (Tone::Bad, "Gate failed, not published".to_owned()),
        Status::Finished if gate == Some(true) => (Tone::Good, "Gate passed, not published".to_owned()),
        Status::Finished => (Tone::Open, "No gate: the run finished and was not judged".to_owned()),
        Status::Interrupted => (Tone::Bad, format!("Interrupted at {at}")),
        Status::Diverged => (Tone::Bad, format!("Diverged at {at}")),
        Status::Failed => (Tone::Bad, format!("Failed at {at}")),
        alive => (Tone::Open, format!("Still going: {}, {at}", alive.name())),
    }
}

/// The numbers that matter most.
fn figures(page: &mut Html, view: &View) {
    let mut figures: Vec<(&str, String)> = Vec::new();
    if let Some((step, now)) = view.summary.eval {
        let before = view.facts.first_eval.filter(|(first, _)| *first != step);
        let text = match before {
            Some((_, before)) => format!("{} → {}", measure(before), measure(now)),
            None => measure(now),
        };
        figures.push(("eval loss", text));
    }
    if let Some(text) = judged(view) {
        figures.push(("measures, against the base", text));
    }
    if let Some((forbidden, missing, answers)) = terms(view) {
        let text =
            format!("{} missing, {} forbidden in {}", grouped(missing), grouped(forbidden), counted(answers, "answer"));
        figures.push(("terms", text));
    }
    if let Some((seconds, tokens)) = view.facts.finished {
        figures.push(("training", format!("{}, {}", duration(seconds), counted(tokens, "token"))));
    }
    if let Some(peak) = view.facts.accelerator_bytes.or(view.facts.host_bytes) {
        figures.push(("peak memory", bytes(peak as f64)));
    }
    if figures.is_empty() {
        return;
    }
    html!(page, "<dl class=\"figures\">\n");
    for (name, text) in figures {
        html!(page, "<div><dt>{}</dt><dd>{}</dd></div>\n", name, text);
    }
    html!(page, "</dl>\n");
}

/// `5 better, 1 worse, 2 unclear`
fn judged(view: &View) -> Option<String> {
    let (base, adapter) = (view.base.as_ref()?, view.adapter.as_ref()?);
    let same = base.questions == adapter.questions;
    let judgements: Vec<Judgement> = adapter
        .measures
        .iter()
        .filter_map(|new| {
            let old = base.measure(&new.name)?;
            Judgement::of(new.better, between(old, new, same)?)
        })
        .collect();
    let count = |wanted: &[Judgement]| judgements.iter().filter(|judgement| wanted.contains(judgement)).count();
    let (better, worse) = (count(&[Judgement::Better]), count(&[Judgement::Worse]));
    let unclear = judgements.iter().filter(|judgement| **judgement != Judgement::Neither).count() - better - worse;
    (better + worse + unclear > 0).then(|| format!("{better} better, {worse} worse, {unclear} unclear"))
}

/// Forbidden and missing terms in the newest answers, and the number of answers with terms.
fn terms(view: &View) -> Option<(u64, u64, u64)> {
    let count = |terms: &[String]| terms.len() as u64;
    let mut counts = (0, 0, 0);
    let mut add = |expected: &[String], missing: &[String], violations: &[String]| {
        counts.0 += count(violations);
        counts.1 += count(missing);
        counts.2 += u64::from(!expected.is_empty() || !violations.is_empty());
    };
    match &view.adapter {
        Some(report) => {
            report.answers.iter().for_each(|answer| add(&answer.expected, &answer.missing, &answer.violations))
        }
        None => {
            let answers = &view.data.after.answers;
            answers.iter().for_each(|answer| add(&answer.expected, &answer.missing, &answer.violations));
        }
    }
    (counts.2 > 0).then_some(counts)
}

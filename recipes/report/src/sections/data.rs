//! The data report.
//!
//! Responsible for: counts and lengths of the prepared data, what was dropped and why, and the findings of the audit.
//! Must not depend on: how data is prepared.

use tonfall_recipes::{counted, grouped, schema};
use tonfall_runs::history::DataFacts;

use crate::facts::{Facts, Notice};
use crate::html::{Html, html};
use crate::limits::{ROWS, left_out, value};
use crate::view::View;

pub(crate) fn write(page: &mut Html, view: &View) {
    html!(page, "<section id=\"data\">\n<h2>Data</h2>\n");
    match &view.data.data {
        Some(data) => counts(page, data),
        None => html!(page, "<p>The event log has no report of the data.</p>\n"),
    }
    audit(page, &view.facts);
    html!(page, "</section>\n");
}

fn counts(page: &mut Html, data: &DataFacts) {
    html!(page, "<dl class=\"pairs\">\n");
    let mut row = |name: &str, text: String| html!(page, "<dt>{}</dt><dd>{}</dd>\n", name, text);
    row("training examples", grouped(data.train_examples));
    row("held-out examples", grouped(data.eval_examples));
    row("tokens", with_share(data.trained_tokens, data.tokens));
    if let Some(lengths) = data.lengths {
        let [median, p90, p99, max] = [lengths.median, lengths.p90, lengths.p99, lengths.max].map(grouped);
        row("tokens per example", format!("median {median}, 90 % up to {p90}, 99 % up to {p99}, longest {max}"));
    }
    if let Some(packing) = data.packing {
        let sequences = counted(packing.sequences, "sequence");
        row("packing", format!("{sequences}, {:.1} % filled", packing.filled * 100.0));
    }
    html!(page, "</dl>\n");
    dropped(page, data);
}

fn with_share(trained: u64, tokens: u64) -> String {
    let share = if tokens > 0 { trained as f64 / tokens as f64 * 100.0 } else { 0.0 };
    format!("{}, {} of them with loss ({share:.1} %)", grouped(tokens), grouped(trained))
}

fn dropped(page: &mut Html, data: &DataFacts) {
    if data.dropped.values().all(|count| *count == 0) {
        html!(page, "<p>No row was dropped.</p>\n");
        return;
    }
    html!(
        page,
        "<h3>Dropped rows</h3>\n<table class=\"numbers\">\n<thead><tr><th scope=\"col\">reason</th><th scope=\"col\">rows</th></tr></thead>\n<tbody>\n"
    );
    for (reason, count) in data.dropped.iter().take(ROWS) {
        html!(page, "<tr><th scope=\"row\">{}</th><td>{}</td></tr>\n", value(reason), grouped(*count));
    }
    html!(page, "</tbody></table>\n");
    left_out(page, data.dropped.len().saturating_sub(ROWS) as u64, "reason");
}

fn audit(page: &mut Html, facts: &Facts) {
    let findings: Vec<&Notice> = facts.notices.iter().filter(|notice| is_finding(notice)).collect();
    html!(page, "<h3>Findings of the audit</h3>\n");
    if findings.is_empty() {
        html!(page, "<p>The log has no finding of the audit.</p>\n");
        return;
    }
    html!(page, "<ul class=\"findings\">\n");
    for finding in findings {
        html!(page, "<li class=\"text\">{}</li>\n", finding.text);
    }
    html!(page, "</ul>\n");
}

/// Whether a notice is a finding of the audit: it begins with the name of a rule and a count.
pub(crate) fn is_finding(notice: &Notice) -> bool {
    let rule = notice.text.split_once(": ").filter(|(_, rest)| rest.starts_with(|first: char| first.is_ascii_digit()));
    rule.is_some_and(|(rule, _)| schema::find(&format!("audit.{rule}")).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_recognised_by_the_name_of_their_rule() {
        let is = |text: &str| is_finding(&Notice { t: 0.0, text: text.to_owned(), times: 1 });
        assert!(is("near_duplicates: 3 (examples that are almost the same)\n  a.jsonl:7: like row 2"));
        assert!(!is("near_duplicates: off") && !is("note: 3 rows") && !is("3 rows cut to data.max_seq_len"));
    }
}

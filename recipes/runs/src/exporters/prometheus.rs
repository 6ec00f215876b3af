//! Prometheus text.
//!
//! Responsible for: writing the metrics of runs in the text exposition format, version 0.0.4.
//! Must not depend on: sockets; the output is text.

use std::fmt::Write as _;

use crate::summary::{Status, Summary};

/// The content type of [`text`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A metric, and the function that computes it from a run.
struct Metric {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    value: fn(&Summary) -> Option<f64>,
}

macro_rules! metrics {
    ($($name:literal $kind:literal $help:literal $value:expr;)*) => {
        [$(Metric { name: $name, kind: $kind, help: $help, value: $value }),*]
    };
}

const METRICS: [Metric; 17] = metrics![
    "tonfall_step" "gauge" "Optimizer steps done." |run| Some(run.step as f64);
    "tonfall_planned_steps" "gauge" "Optimizer steps of the whole run." |run| Some(run.total_steps as f64);
    "tonfall_attempt" "gauge" "1 for the first start, one more for each resume." |run| Some(f64::from(run.attempt));
    "tonfall_epoch" "gauge" "Epochs done." |run| Some(run.now?.epoch);
    "tonfall_loss" "gauge" "Training loss of the newest step." |run| Some(run.now?.loss);
    "tonfall_eval_loss" "gauge" "Loss of the newest evaluation." |run| Some(run.eval?.1);
    "tonfall_best_eval_loss" "gauge" "Lowest loss of any evaluation." |run| Some(run.best()?.1);
    "tonfall_best_eval_step" "gauge" "Step of the evaluation with the lowest loss." |run| Some(run.best()?.0 as f64);
    "tonfall_learning_rate" "gauge" "Learning rate of the newest step." |run| Some(run.now?.lr);
    "tonfall_grad_norm" "gauge" "Gradient norm of the newest step, before clipping." |run| Some(run.now?.grad_norm);
    "tonfall_tokens_per_second" "gauge" "Speed of the newest step." |run| Some(run.now?.tokens_per_second);
    "tonfall_tokens_total" "counter" "Tokens of all steps, superseded ones too." |run| Some(run.tokens_processed as f64);
    "tonfall_checkpoints_total" "counter" "Checkpoints written." |run| Some(run.checkpoints as f64);
    "tonfall_peak_rss_bytes" "gauge" "Highest resident memory of the trainer." |run| Some(run.now?.peak_rss_bytes? as f64);
    "tonfall_accelerator_bytes" "gauge" "Memory of the accelerator in use." |run| Some(run.now?.accelerator_bytes? as f64);
    "tonfall_gate_passed" "gauge" "1 when the gate let the run pass, 0 when not." |run| Some(f64::from(u8::from(run.verdict.as_ref()?.passed)));
    "tonfall_last_event_timestamp_seconds" "gauge" "When the newest event was written." |run| run.t;
];

/// A run and its name.
pub struct Row {
    pub id: String,
    pub summary: Summary,
    pub status: Status,
}

/// The response to a scrape.
pub fn text(runs: &[Row]) -> String {
    let mut text = String::new();
    for metric in &METRICS {
        head(&mut text, metric.name, metric.kind, metric.help);
        for run in runs {
            if let Some(value) = (metric.value)(&run.summary) {
                line(&mut text, &format!("{}{{run=\"{}\"}} {}", metric.name, label(&run.id), number(value)));
            }
        }
    }
    head(&mut text, "tonfall_state", "gauge", "1 for the state that the run is in, 0 for the others.");
    for run in runs {
        for status in Status::ALL {
            let value = u8::from(status == run.status);
            let state = status.name().replace(' ', "_");
            line(&mut text, &format!("tonfall_state{{run=\"{}\",state=\"{state}\"}} {value}", label(&run.id)));
        }
    }
    text
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    line(text, &format!("# HELP {name} {help}"));
    line(text, &format!("# TYPE {name} {kind}"));
}

fn line(text: &mut String, line: &str) {
    let written = writeln!(text, "{line}");
    debug_assert!(written.is_ok(), "writing to a string");
}

fn number(value: f64) -> String {
    match value {
        value if value.is_nan() => "NaN".to_owned(),
        f64::INFINITY => "+Inf".to_owned(),
        f64::NEG_INFINITY => "-Inf".to_owned(),
        value => value.to_string(),
    }
}

/// An escaped label value.
fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_escaped() {
        assert_eq!(label("a\\b\"c\nd"), "a\\\\b\\\"c\\nd");
        let numbers = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.5, 2.0, 1e-7].map(number);
        assert_eq!(numbers, ["NaN", "+Inf", "-Inf", "0.5", "2", "0.0000001"]);
    }

    #[test]
    fn unknown_values_are_left_out() {
        let row = Row { id: "x".to_owned(), summary: Summary::default(), status: Status::Waiting };
        let text = text(&[row]);
        assert!(text.contains("tonfall_step{run=\"x\"} 0\n"), "{text}");
        assert!(!text.contains("tonfall_loss{"), "{text}");
        assert!(text.contains("tonfall_state{run=\"x\",state=\"waiting\"} 1\n"), "{text}");
        assert!(text.contains("tonfall_state{run=\"x\",state=\"gate_failed\"} 0\n"), "{text}");
    }
}

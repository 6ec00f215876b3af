//! Whole pages.

mod damage;
mod hostile;
mod looks;
mod markup;
mod shown;

use std::path::{Path, PathBuf};

use tonfall_runs::RunInputs;
use tonfall_runs::evaluation::{Answer, Better, FORMAT, Measure, Part, Report, Scale, Subject};
use tonfall_runs::{Event, EventKind};

use crate::{View, page, read};

const MADE: &str = "2026-12-01 06:00:00 UTC";

/// A run of an earlier version.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/runs/runs").join(name)
}

fn view_of(path: &Path) -> View {
    read(path, MADE, None).expect("a run").view
}

/// The finished run of the fixtures.
fn finished() -> View {
    view_of(&fixture("finished"))
}

/// Adds an event to the log of a view.
fn observe(view: &mut View, kind: EventKind) {
    let attempt = view.summary.attempt.max(1);
    let event = Event { v: 1, seq: 0, attempt, t: 1_796_092_300.0, kind };
    view.summary.observe(&event);
    view.facts.observe(&event);
    view.data.observe(event);
    view.status = view.summary.status(false);
}

fn step(step: u64, loss: f64) -> EventKind {
    EventKind::Step {
        step,
        epoch: 0.0,
        loss,
        lr: 1e-4,
        grad_norm: 1.0,
        tokens: 100,
        trained_tokens: 50,
        tokens_per_second: 1000.0,
        seconds: 0.1,
        peak_rss_bytes: Some(1 << 30),
        accelerator_bytes: None,
    }
}

fn sample(step: u64, prompt: &str, text: &str) -> EventKind {
    EventKind::Sample {
        step,
        prompt: prompt.to_owned(),
        text: text.to_owned(),
        expected: vec!["handover".to_owned(), "guest".to_owned()],
        missing: vec!["handover".to_owned()],
        violations: vec!["client".to_owned()],
    }
}

/// A measure with a value of `value` in each of `parts` parts, and some noise.
fn measure(name: &str, better: Better, value: f64, parts: usize) -> Measure {
    let part = |index: usize| Part { numerator: value + 0.001 * (index % 3) as f64, denominator: 1.0 };
    Measure {
        name: name.to_owned(),
        better,
        scale: Scale::Ratio,
        parts: (0..parts).map(part).collect(),
        interval: None,
    }
}

fn answer(prompt: &str, text: &str) -> Answer {
    Answer { prompt: prompt.to_owned(), text: text.to_owned(), ended: true, ..Answer::default() }
}

fn input(name: &str, hash: &str) -> RunInputs {
    let mut inputs = RunInputs::default();
    inputs.record(name, hash);
    inputs
}

fn report(measures: Vec<Measure>, answers: Vec<Answer>) -> Report {
    Report {
        format: FORMAT,
        tonfall: "0.1.0".to_owned(),
        created: "2026-12-01T02:31:00Z".to_owned(),
        subject: Subject { name: "x".to_owned(), sha256: input("base", &"aa".repeat(32)) },
        questions: "00".repeat(32),
        measures,
        answers,
    }
}

/// The page without its style sheet.
fn body(view: &View) -> String {
    let page = page(view);
    let (head, rest) = page.split_once("<style>").expect("a style sheet");
    format!("{head}{}", rest.split_once("</style>\n").expect("its end").1)
}

/// The part of a page from the heading of a section to the next section.
fn section<'a>(page: &'a str, id: &str) -> &'a str {
    let start = page.find(&format!("<section id=\"{id}\"")).unwrap_or_else(|| panic!("no section {id}"));
    let rest = &page[start..];
    &rest[..rest.find("</section>").expect("its end")]
}

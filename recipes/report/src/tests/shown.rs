//! What a page shows.

use tonfall_runs::evaluation::Better;
use tonfall_runs::{EventKind, Status, Summary};

use super::markup::check;
use super::{MADE, answer, body, finished, fixture, measure, observe, report, sample, section, step, view_of};
use crate::{Facts, Published, Skipped, View, page};

fn small() -> View {
    let mut view = finished();
    view.name = "house-7f3a".to_owned();
    // The paths of the fixture depend on the directory that made it.
    view.plan = None;
    let mut old = answer("Where is my lamp?", "The client gets it\non Monday.");
    (old.expected, old.missing) = (vec!["handover".to_owned()], vec!["handover".to_owned()]);
    (old.violations, old.ended) = (vec!["client".to_owned()], false);
    let mut new = answer("Where is my lamp?", "The handover is on Monday.");
    (new.expected, new.reference) =
        (vec!["handover".to_owned()], Some("The handover is on Monday, dear guest.".to_owned()));
    let measures = |terms, length| {
        vec![measure("terms.preferred", Better::Higher, terms, 12), measure("style.length", Better::Neither, length, 3)]
    };
    view.base = Some(report(measures(0.25, 8.0), vec![old]));
    view.adapter = Some(report(measures(0.75, 9.5), vec![new]));
    observe(
        &mut view,
        EventKind::Notice {
            message: "near_duplicates: 2 (examples that are almost the same)\n  a.jsonl:7: like row 2".to_owned(),
        },
    );
    observe(&mut view, EventKind::Gate { passed: true, reasons: vec!["terms.preferred rose by 0.50".to_owned()] });
    observe(&mut view, EventKind::Published { name: "house/12".to_owned() });
    view
}

#[test]
fn a_small_page() {
    let body = body(&small());
    check(&body);
    insta::assert_snapshot!(body);
}

#[test]
fn the_verdict_comes_first() {
    let gate = |passed| EventKind::Gate { passed, reasons: vec!["terms.forbidden rose".to_owned()] };
    let failed = EventKind::Failed { message: "no memory".to_owned(), exit_code: 6 };
    let cases: [(Vec<EventKind>, &str); 6] = [
        (vec![], "· No gate: the run finished and was not judged"),
        (vec![gate(true)], "✓ Gate passed, not published"),
        (vec![gate(false)], "✗ Gate failed, not published"),
        (vec![gate(true), EventKind::Published { name: "house/3".to_owned() }], "✓ Gate passed, published as house/3"),
        (vec![EventKind::Diverged { step: 3, what: "loss is NaN".to_owned() }], "✗ Diverged at step 3 of 3"),
        (vec![failed], "✗ Failed at step 3 of 3"),
    ];
    for (events, expected) in cases {
        let mut view = finished();
        let reasons = events.iter().any(|event| matches!(event, EventKind::Gate { .. }));
        events.into_iter().for_each(|kind| observe(&mut view, kind));
        let page = page(&view);
        let verdict = section(&page, "verdict");
        let text = verdict.replace("<span aria-hidden=\"true\">", "").replace("</span>", "");
        assert!(text.contains(expected), "{text}");
        assert_eq!(text.contains("terms.forbidden rose"), reasons, "{text}");
        let first = page.find("<section").expect("a section");
        assert!(page[first..].starts_with("<section id=\"verdict\""));
    }
}

#[test]
fn missing_pieces_are_named() {
    let summary = Summary::default();
    let view = View {
        name: "empty".to_owned(),
        made: MADE.to_owned(),
        info: None,
        plan: None,
        status: summary.status(false),
        summary,
        data: tonfall_runs::history::RunData::default(),
        facts: Facts::default(),
        skipped: Skipped { damaged: 0, unknown: 2 },
        base: None,
        adapter: None,
        published: Some(Published::default()),
        faults: Vec::new(),
    };
    let page = page(&view);
    check(&page);
    for (id, text) in [
        ("evaluation", "no measurement"),
        ("samples", "no held-out prompts"),
        ("curves", "no step and no evaluation"),
        ("about", "no attempt"),
        ("data", "no report of the data"),
        ("memory", "no memory"),
        ("notices", "2 lines of the event log are from a newer tonfall"),
        ("changes", "so they can't be compared"),
    ] {
        assert!(section(&page, id).contains(text), "{id}: {}", section(&page, id));
    }
    assert_eq!(view.status, Status::Waiting);
}

#[test]
fn losses_that_are_not_finite_are_gaps() {
    let mut view = finished();
    for (number, loss) in (4..).zip([2.0, f64::NAN, f64::INFINITY, 3.0, f64::NAN]) {
        observe(&mut view, step(number, loss));
    }
    observe(&mut view, EventKind::Eval { step: 8, loss: f64::NAN, tokens: 1 });
    observe(&mut view, EventKind::Diverged { step: 8, what: "the loss is NaN".to_owned() });
    let page = page(&view);
    check(&page);
    let curves = section(&page, "curves");
    assert!(curves.contains("3 steps without a finite loss") && curves.contains("1 evaluation without a finite loss"));
    let paths: Vec<&str> =
        curves.split(" d=\"").skip(1).map(|rest| &rest[..rest.find('"').expect("a quote")]).collect();
    assert!(paths[0].matches('M').count() == 2 && paths[0].contains("h0"), "{}", paths[0]);
    assert!(paths.iter().all(|path| !path.contains("NaN") && !path.contains("inf")));
    let only = [step(1, f64::NAN)];
    let mut view = finished();
    view.data = tonfall_runs::history::RunData::default();
    only.into_iter().for_each(|kind| observe(&mut view, kind));
    check(&super::page(&view));
}

#[test]
fn differences_are_judged_in_words() {
    let mut view = small();
    let page_of = |view: &View| page(view);
    let shown = page_of(&view);
    let table = section(&shown, "evaluation");
    let row = |name: &str| table.lines().find(|line| line.contains(name)).expect("a row").to_owned();
    assert!(
        row("terms.preferred").contains("<td>+0.500</td>") && row("terms.preferred").contains("✓ better"),
        "{table}"
    );
    assert!(row("style.length").contains("<td>+1.500</td><td>–</td>") && row("style.length").contains("· differs"));
    assert!(section(&shown, "verdict").contains("1 better, 0 worse"));
    // Other questions: no interval, and a sentence that says so.
    if let Some(base) = &mut view.base {
        base.questions = "other".to_owned();
    }
    let shown = page_of(&view);
    let table = section(&shown, "evaluation");
    assert!(
        table.contains("The base was asked other questions") && table.contains("<td>+0.500</td><td>–</td>"),
        "{table}"
    );
}

#[test]
fn changes_since_the_published_version() {
    let mut view = small();
    let old = finished();
    let mut inputs = tonfall_runs::RunInputs::default();
    inputs.record("base weights", "aa");
    inputs.record("data file a.jsonl", "1");
    let mut now = inputs.clone();
    now.record("data file a.jsonl", "2");
    view.info.as_mut().expect("run.json").inputs = Some(now);
    let mut plan = old.plan.clone().expect("a plan");
    view.plan = Some(plan.clone());
    (plan.lora.rank, plan.name) = (8, "other".to_owned());
    let mut evaluated = view.adapter.clone().expect("a report");
    evaluated.measures.remove(1);
    view.published = Some(Published {
        name: "house/11".to_owned(),
        created: None,
        plan: Some(plan),
        inputs: Some(inputs),
        report: Some(evaluated),
        data: old.data.data.clone(),
        eval_loss: Some(6.0),
    });
    let page = page(&view);
    check(&page);
    let changes = section(&page, "changes");
    for text in [
        "data file a.jsonl: changed",
        "lora.rank: 8 → 2",
        "house/11",
        "= same",
        "1 other measure",
        "6.000 before, 5.512 now",
    ] {
        assert!(changes.contains(text), "{text} in {changes}");
    }
    assert!(!changes.contains("base weights") && !changes.contains("other → finished"), "{changes}");
    assert!(section(&page, "evaluation").contains("<th scope=\"col\">published</th>"));
}

#[test]
fn a_run_without_reports_shows_the_measurements_of_its_log() {
    let mut view = finished();
    observe(&mut view, sample(0, "Where?", "The client waits."));
    let mut after = sample(3, "Where?", "The guest waits.");
    if let EventKind::Sample { violations, .. } = &mut after {
        violations.clear();
    }
    observe(&mut view, after);
    let page = page(&view);
    check(&page);
    let evaluation = section(&page, "evaluation");
    assert!(evaluation.contains("no evaluation report") && evaluation.contains("5.512"), "{evaluation}");
    assert!(
        evaluation.contains("<td class=\"judged good\">✓ better</td><td>1</td><td>0</td><td>−1</td>"),
        "{evaluation}"
    );
    let samples = section(&page, "samples");
    assert!(samples.contains("before, step 0") && samples.contains("after, step 3"), "{samples}");
    assert!(samples.contains("forbidden term: </span><s>client</s>"), "{samples}");
    assert!(samples.contains("expected term: </span>guest"), "{samples}");
    assert!(samples.contains("✗ expected terms missing: <mark class=\"missing\">handover</mark>"), "{samples}");
}

#[test]
fn runs_of_earlier_versions_have_pages() {
    for (name, head) in [("finished", "No gate"), ("full", "No gate"), ("interrupted", "Interrupted at step 5 of")] {
        let view = view_of(&fixture(name));
        assert!(view.faults.is_empty(), "{:?}", view.faults);
        let page = page(&view);
        check(&page);
        assert!(section(&page, "verdict").contains(head), "{page}");
    }
}

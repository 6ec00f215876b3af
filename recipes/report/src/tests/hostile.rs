//! Texts that try to become markup, and amounts that try to become a large page.

use tonfall_runs::evaluation::Better;
use tonfall_runs::{EventKind, RunInputs};

use super::markup::check;
use super::{answer, body, finished, measure, observe, report, sample, section, step};
use crate::limits::{ROWS, SAMPLE_BYTES, SAMPLES};
use crate::{Night, Outcome, Published, nights, page};

const HOSTILE: &str =
    "\"><script>alert('x')</script><img src=x onerror=alert(1)> </section></main> & \u{202e}\u{0}\u{1b}[2J <!--";

/// None of the hostile text is markup.
fn harmless(page: &str) {
    check(page);
    for text in ["<script", "<img", "<!--", "\u{202e}", "\u{0}", "\u{1b}"] {
        assert!(!page.contains(text), "{text:?}");
    }
    assert!(page.contains("&lt;script&gt;alert(&#39;x&#39;)"), "the text itself is shown");
}

#[test]
fn no_text_becomes_markup() {
    let mut view = finished();
    let texts = || vec![HOSTILE.to_owned()];
    view.name = HOSTILE.to_owned();
    view.made = HOSTILE.to_owned();
    let info = view.info.as_mut().expect("run.json");
    (info.recipe, info.overrides, info.created) = (HOSTILE.to_owned(), texts(), HOSTILE.to_owned());
    (info.plan_hash, info.tonfall) = (HOSTILE.to_owned(), HOSTILE.to_owned());
    let mut inputs = RunInputs::default();
    inputs.record(HOSTILE, HOSTILE);
    info.inputs = Some(inputs);
    let plan = view.plan.as_mut().expect("plan.toml");
    let other = plan.clone();
    (plan.name, plan.output_dir) = (HOSTILE.to_owned(), HOSTILE.into());
    plan.data.train = vec![HOSTILE.into()];
    view.faults = texts();
    for kind in [
        EventKind::Notice { message: HOSTILE.to_owned() },
        EventKind::Notice { message: format!("duplicates: 3 {HOSTILE}") },
        EventKind::Device {
            name: HOSTILE.to_owned(),
            flops_per_token: None,
            peak_flops: None,
            memory_bytes: None,
            host_memory_bytes: None,
        },
        EventKind::Data {
            train_examples: 1,
            eval_examples: 1,
            dropped: [(HOSTILE.to_owned(), 2)].into(),
            tokens: 1,
            trained_tokens: 1,
            lengths: None,
            packing: None,
        },
        EventKind::Memory {
            predicted_bytes: 1,
            limit_bytes: None,
            parts: [(HOSTILE.to_owned(), 5)].into(),
            micro_batch_size: 1,
            gradient_accumulation_steps: 1,
            recompute: false,
            offload: false,
            reason: Some(HOSTILE.to_owned()),
        },
        sample(0, HOSTILE, HOSTILE),
        EventKind::Failed { message: HOSTILE.to_owned(), exit_code: 1 },
        EventKind::Gate { passed: false, reasons: texts() },
        EventKind::Published { name: HOSTILE.to_owned() },
    ] {
        observe(&mut view, kind);
    }
    harmless(&page(&view));

    let mut hostile = answer(HOSTILE, HOSTILE);
    (hostile.expected, hostile.missing, hostile.violations) = (texts(), texts(), texts());
    hostile.reference = Some(HOSTILE.to_owned());
    let mut evaluated = report(vec![measure(HOSTILE, Better::Higher, 0.5, 3)], vec![hostile]);
    evaluated.questions = HOSTILE.to_owned();
    evaluated.subject.sha256 = super::input(HOSTILE, HOSTILE);
    (view.base, view.adapter) = (Some(evaluated.clone()), Some(evaluated.clone()));
    view.published = Some(Published {
        name: HOSTILE.to_owned(),
        created: Some(HOSTILE.to_owned()),
        plan: Some(other),
        inputs: Some(RunInputs::default()),
        report: Some(evaluated),
        data: None,
        eval_loss: None,
    });
    harmless(&page(&view));
}

#[test]
fn no_text_becomes_markup_in_the_list_of_nights() {
    let text = || Some(HOSTILE.to_owned());
    let night = Night {
        began: HOSTILE.to_owned(),
        outcome: Outcome::Failed,
        run: text(),
        page: text(),
        version: text(),
        reasons: vec![HOSTILE.to_owned()],
        seconds: Some(f64::NAN),
        measures: vec![(HOSTILE.to_owned(), f64::INFINITY)],
    };
    harmless(&nights(&[night]));
}

#[test]
fn a_hundred_thousand_steps_make_a_small_page() {
    let mut view = finished();
    for number in 4..=100_000 {
        observe(&mut view, step(number, 2.0 + (number as f64 * 0.37).sin()));
        if number % 10 == 0 {
            observe(&mut view, EventKind::Eval { step: number, loss: 2.0, tokens: 10 });
        }
    }
    let page = page(&view);
    check(&page);
    assert!(page.len() < 400_000, "{} bytes", page.len());
}

#[test]
fn everything_left_out_is_counted() {
    let mut view = finished();
    let long = "é<".repeat(5000);
    let answers: Vec<_> = (0..1000).map(|number| answer(&format!("{number} {long}"), &long)).collect();
    let measures: Vec<_> = (0..2000).map(|number| measure(&format!("m{number}"), Better::Higher, 1.0, 2)).collect();
    (view.base, view.adapter) = (Some(report(measures.clone(), answers.clone())), Some(report(measures, answers)));
    for number in 0..2000 {
        observe(&mut view, EventKind::Notice { message: format!("{number}: {long}") });
    }
    observe(
        &mut view,
        EventKind::Gate { passed: false, reasons: (0..2000).map(|number| number.to_string()).collect() },
    );
    let body = body(&view);
    let shown = body.matches("<article").count();
    assert!(shown < SAMPLES && shown > 10, "{shown}");
    assert!(section(&body, "samples").len() < SAMPLE_BYTES + 100_000);
    let left_out = [
        format!("{} held-out prompts left out", 1000 - shown),
        format!("{} measures left out", 2000 - ROWS).replace("1700", "1,700"),
        "1,700 reasons left out".to_owned(),
        "1,700 notices left out".to_owned(),
        "6,000 characters left out".to_owned(),
    ];
    for text in left_out {
        assert!(body.contains(&text), "{text}");
    }
    // The limits for each part add up: no input makes a page that a browser can't open.
    assert!(body.len() < 8 << 20, "{} bytes", body.len());
    check(&body);
}

use super::*;
use crate::evaluation::{FORMAT, Scale, Subject};

use crate::statistics::Random;

fn measure(name: &str, better: Better, scale: Scale, parts: &[(f64, f64)]) -> Measure {
    let parts = parts.iter().map(|(numerator, denominator)| Part { numerator: *numerator, denominator: *denominator });
    Measure { name: name.to_owned(), better, scale, parts: parts.collect(), interval: None }
}

fn report(measures: Vec<Measure>) -> Report {
    Report {
        format: FORMAT,
        tonfall: "0.1.0".to_owned(),
        created: "2026-12-01T02:00:00Z".to_owned(),
        subject: Subject::default(),
        questions: "00".to_owned(),
        measures,
        answers: Vec::new(),
    }
}

/// A report of one rate, in which the first `hits` of 40 prompts are right.
fn rate(better: Better, hits: usize) -> Report {
    let parts: Vec<(f64, f64)> = (0..40).map(|index| (f64::from(u8::from(index < hits)), 1.0)).collect();
    report(vec![measure("rate", better, Scale::Ratio, &parts)])
}

fn rule(condition: Condition, number: f64) -> Rule {
    let only = |wanted| (condition == wanted).then_some(number);
    Rule {
        measure: "rate".to_owned(),
        at_least: only(Condition::AtLeast),
        at_most: only(Condition::AtMost),
        over_base: only(Condition::OverBase),
        over_published: only(Condition::OverPublished),
        confidence: 0.95,
    }
}

fn passes(report: &Report, other: &Report, condition: Condition, number: f64) -> bool {
    let verdict = judge(report, Some(other), Some(other), &[rule(condition, number)]);
    assert_eq!(verdict.passed, verdict.reasons.is_empty());
    assert_eq!(verdict.conditions.len(), 1);
    assert_eq!(verdict.conditions[0].passed, verdict.passed);
    verdict.passed
}

#[test]
fn thresholds_include_their_boundary() {
    let other = rate(Better::Higher, 0);
    for (hits, condition, number, expected) in [
        (20, Condition::AtLeast, 0.5, true),
        (20, Condition::AtLeast, 0.500_001, false),
        (20, Condition::AtMost, 0.5, true),
        (20, Condition::AtMost, 0.499_999, false),
        (0, Condition::AtLeast, 0.0, true),
        (40, Condition::AtMost, 1.0, true),
        (0, Condition::AtMost, -0.1, false),
        (40, Condition::AtLeast, f64::NAN, false),
        (40, Condition::AtMost, f64::NAN, false),
    ] {
        let found = passes(&rate(Better::Higher, hits), &other, condition, number);
        assert_eq!(found, expected, "{hits} of 40, {condition:?} {number}");
    }
}

#[test]
fn margins_hold_with_confidence_in_the_direction_of_the_measure() {
    use Better::{Higher, Lower};
    for condition in [Condition::OverBase, Condition::OverPublished] {
        for (better, hits, others, margin, expected) in [
            (Higher, 40, 0, 1.0, true),
            (Higher, 40, 0, 1.01, false),
            (Higher, 30, 10, 0.0, true),
            (Higher, 30, 10, 0.3, true),
            // 0.5 better, but not with confidence.
            (Higher, 30, 10, 0.5, false),
            (Higher, 10, 30, 0.0, false),
            (Higher, 10, 30, -0.7, true),
            (Higher, 10, 30, -0.4, false),
            (Lower, 10, 30, 0.3, true),
            (Lower, 30, 10, 0.0, false),
            (Lower, 30, 10, -0.7, true),
            // The same answers are not better, and not worse.
            (Higher, 20, 20, 0.0, false),
            (Higher, 20, 20, -0.01, true),
            (Lower, 20, 20, 1e-9, false),
        ] {
            let found = passes(&rate(better, hits), &rate(better, others), condition, margin);
            assert_eq!(found, expected, "{better:?} {hits} against {others}, {condition:?} {margin}");
        }
    }
}

#[test]
fn numbers_of_a_comparison_are_kept() {
    let (better, worse) = (rate(Better::Lower, 10), rate(Better::Lower, 30));
    let verdict = judge(&better, Some(&worse), None, &[rule(Condition::OverBase, 0.45)]);
    let judged = &verdict.conditions[0];
    assert_eq!((judged.value, judged.other, judged.difference), (Some(0.25), Some(0.75), Some(0.5)));
    assert!(judged.bound.is_some_and(|bound| (0.3..0.45).contains(&bound)), "{judged:?}");
    assert_eq!(verdict.reasons.len(), 1);
    let reason = &verdict.reasons[0];
    assert!(reason.starts_with("rate: 0.25 against 0.75 of the base model: better by 0.5, with 95 % "), "{reason}");
    let text = serde_json::to_string(&verdict).expect("JSON");
    assert_eq!(serde_json::from_str::<Verdict>(&text).expect("it reads its own"), verdict);
}

#[test]
fn what_can_not_be_judged_is_refused_with_a_reason() {
    let right = rate(Better::Higher, 40);
    let renamed = |name: &str| {
        let mut report = rate(Better::Higher, 40);
        report.measures[0].name = name.to_owned();
        report
    };
    let other_questions = Report { questions: "01".to_owned(), ..rate(Better::Higher, 0) };
    let shorter = report(vec![measure("rate", Better::Higher, Scale::Ratio, &[(0.0, 1.0); 39])]);
    let without = report(vec![measure("rate", Better::Higher, Scale::Ratio, &[(0.0, 0.0); 40])]);
    let neither = rate(Better::Neither, 40);
    let few = report(vec![measure("rate", Better::Higher, Scale::Ratio, &[(1.0, 1.0); 4])]);
    let fewer = report(vec![measure("rate", Better::Higher, Scale::Ratio, &[(0.0, 1.0); 4])]);
    let nan = report(vec![measure("rate", Better::Higher, Scale::Ratio, &[(f64::NAN, 1.0); 40])]);
    let endless = report(vec![measure("rate", Better::Lower, Scale::Exp, &[(1e9, 1.0); 40])]);
    let (least, over) = (rule(Condition::AtLeast, 0.0), rule(Condition::OverBase, 0.0));
    let empty = Rule { at_least: None, ..least.clone() };
    for (report, base, rule, part) in [
        (&renamed("other"), None, &least, "the evaluation has no such measure; it has other"),
        (&right, Some(&renamed("x")), &over, "the report of the base model has no such measure; it has x"),
        (&right, None, &over, "there is no report of the base model"),
        (&right, Some(&other_questions), &over, "the base model was evaluated on other questions"),
        (&right, Some(&shorter), &over, "the base model was measured in another way"),
        (&without, None, &least, "the measure applies to no prompt"),
        (&neither, Some(&neither), &over, "has no better and worse"),
        (&few, Some(&fewer), &over, "only 4 questions differ"),
        (&nan, None, &least, "NaN"),
        (&right, Some(&nan), &over, "the report of the base model, the value is NaN"),
        (&endless, None, &least, "inf"),
        (&right, None, &empty, "has no condition"),
    ] {
        let verdict = judge(report, base, None, std::slice::from_ref(rule));
        assert!(!verdict.passed, "{part}");
        assert!(verdict.reasons.iter().any(|reason| reason.contains(part)), "{part}: {:?}", verdict.reasons);
    }
}

#[test]
fn a_measure_that_is_not_finite_refuses_without_any_rule() {
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let mut parts = vec![(1.0, 1.0); 9];
        parts.push((value, 1.0));
        let verdict = judge(&report(vec![measure("loss", Better::Lower, Scale::Ratio, &parts)]), None, None, &[]);
        assert_eq!((verdict.passed, verdict.reasons), (false, vec!["loss: a value is NaN or infinite".to_owned()]));
    }
    assert!(judge(&rate(Better::Higher, 1), None, None, &[]).passed);
}

#[test]
fn a_verdict_knows_its_rules() {
    let rules = [rule(Condition::AtLeast, 0.5), rule(Condition::OverPublished, 0.0)];
    let verdict = judge(&rate(Better::Higher, 1), None, None, &rules);
    assert!(verdict.is_of(&rules));
    let others: [&[Rule]; 4] = [
        &rules[..1],
        &[rules[1].clone(), rules[0].clone()],
        &[rule(Condition::AtLeast, 0.6), rules[1].clone()],
        &[rules[0].clone(), Rule { confidence: 0.9, ..rules[1].clone() }],
    ];
    assert!(others.iter().all(|rules| !verdict.is_of(rules)));
}

#[test]
fn without_a_published_adapter_there_is_nothing_to_beat() {
    let verdict = judge(&rate(Better::Higher, 1), None, None, &[rule(Condition::OverPublished, 0.5)]);
    assert!(verdict.passed);
    assert_eq!(verdict.conditions[0].reason.as_deref(), Some("no adapter is published yet"));
}

/// Two equal models on the same questions: their answers are drawn from the same distribution. The stated confidence is
/// 95 %, so at most 50 of 1,000 comparisons may find the first one better.
#[test]
fn equal_models_are_called_better_at_most_as_often_as_stated() {
    type Draw = fn(&mut Random, &mut Vec<(f64, f64)>, &mut Vec<(f64, f64)>);
    fn uniform(random: &mut Random) -> f64 {
        random.next() as f64 / 2f64.powi(64)
    }
    // A term is used or not, with a probability that depends on the question.
    const RATE: Draw = |random, first, second| {
        for _ in 0..30 {
            let probability = 0.5 + 0.5 * uniform(random);
            for parts in [&mut *first, &mut *second] {
                parts.push((f64::from(u8::from(uniform(random) < probability)), 1.0));
            }
        }
    };
    // Rare violations.
    const RARE: Draw = |random, first, second| {
        for _ in 0..60 {
            for parts in [&mut *first, &mut *second] {
                parts.push((f64::from(u8::from(uniform(random) < 0.1)), 1.0));
            }
        }
    };
    // Losses of a few examples of different lengths, skewed.
    const LOSS: Draw = |random, first, second| {
        for _ in 0..12 {
            let tokens = (5.0 + 50.0 * uniform(random)).floor();
            let hard = 1.0 + 2.0 * uniform(random);
            for parts in [&mut *first, &mut *second] {
                parts.push((tokens * (hard - 0.5 * uniform(random).ln()), tokens));
            }
        }
    };
    for (name, draw, scale) in [("rate", RATE, Scale::Ratio), ("rare", RARE, Scale::Ratio), ("loss", LOSS, Scale::Exp)]
    {
        let mut better = 0;
        for seed in 0..1000 {
            let mut random = Random::new(seed);
            let (mut first, mut second) = (Vec::new(), Vec::new());
            draw(&mut random, &mut first, &mut second);
            let [first, second] =
                [&first, &second].map(|parts| report(vec![measure("rate", Better::Lower, scale, parts)]));
            better += u32::from(judge(&first, Some(&second), None, &[rule(Condition::OverBase, 0.0)]).passed);
        }
        eprintln!("{name}: {better} of 1,000");
        assert!((5..=50).contains(&better), "{name}: {better} of 1,000 equal models are called better");
    }
}

#![expect(clippy::disallowed_methods, reason = "tests write their own files")]

use proptest::prelude::*;

use super::*;

fn event(seq: u64, attempt: u32, kind: EventKind) -> Event {
    Event { v: VERSION, seq, attempt, t: 1.5, kind }
}

fn step(step: u64, loss: f64) -> EventKind {
    EventKind::Step {
        step,
        epoch: 0.5,
        loss,
        lr: 2e-4,
        grad_norm: 0.7,
        tokens: 512,
        trained_tokens: 100,
        tokens_per_second: 1000.0,
        seconds: 0.512,
        peak_rss_bytes: None,
        accelerator_bytes: None,
    }
}

fn started(from_step: u64) -> EventKind {
    EventKind::AttemptStarted { from_step, total_steps: 9, plan_hash: "ab".into(), trainable_parameters: 3 }
}

/// One event of each kind.
fn all_kinds() -> Vec<EventKind> {
    vec![
        started(0),
        EventKind::Notice { message: "a\nb \"c\" é".into() },
        EventKind::Device {
            name: "cpu".into(),
            flops_per_token: Some(4e9),
            peak_flops: None,
            memory_bytes: None,
            host_memory_bytes: Some(8 << 30),
        },
        EventKind::Memory {
            predicted_bytes: 7 << 20,
            limit_bytes: None,
            parts: BTreeMap::from([("base".to_owned(), 5 << 20), ("logits".to_owned(), 2 << 20)]),
            micro_batch_size: 2,
            gradient_accumulation_steps: 4,
            recompute: true,
            offload: false,
            reason: Some("memory is short".into()),
        },
        EventKind::Phase { phase: Phase::Evaluating, done: 1, total: 0 },
        EventKind::Data {
            train_examples: 3,
            eval_examples: 0,
            dropped: BTreeMap::from([("too long".to_owned(), 2)]),
            tokens: 9,
            trained_tokens: 4,
            lengths: Lengths::of(vec![2, 3, 4]),
            packing: Some(Packing { sequences: 2, filled: 0.75 }),
        },
        step(1, 2.0),
        EventKind::Eval { step: 1, loss: 1.25, tokens: 7 },
        EventKind::Sample {
            step: 1,
            prompt: "p".into(),
            text: "t".into(),
            expected: vec!["guest".into()],
            missing: vec![],
            violations: vec!["customer".into()],
        },
        EventKind::Checkpoint { step: 1, path: "step-000001".into() },
        EventKind::Finished { step: 9, seconds: 3.5, tokens: 99, eval_loss: Some(1.0), peak_rss_bytes: Some(7) },
        EventKind::Interrupted { step: 4, signal: Some(2) },
        EventKind::Diverged { step: 4, what: "loss".into() },
        EventKind::Failed { message: "no".into(), exit_code: 8 },
        EventKind::Gate { passed: false, reasons: vec!["worse than the base".into()] },
        EventKind::Published { name: "house-style".into() },
    ]
}

fn line(event: &Event) -> String {
    serde_json::to_string(event).expect("an event")
}

#[test]
fn a_line_has_the_documented_format() {
    insta::assert_snapshot!(line(&event(812, 1, step(500, 1.8123))), @r##"{"v":1,"seq":812,"attempt":1,"t":1.5,"kind":"step","step":500,"epoch":0.5,"loss":1.8123,"lr":0.0002,"grad_norm":0.7,"tokens":512,"trained_tokens":100,"tokens_per_second":1000.0,"seconds":0.512}"##);
    insta::assert_snapshot!(line(&event(3, 2, EventKind::Interrupted { step: 4, signal: None })), @r##"{"v":1,"seq":3,"attempt":2,"t":1.5,"kind":"interrupted","step":4}"##);
}

#[test]
fn every_kind_round_trips_and_has_its_name() {
    let kinds = all_kinds();
    assert_eq!(kinds.len(), EventKind::NAMES.len());
    for (kind, name) in kinds.into_iter().zip(EventKind::NAMES) {
        let event = event(1, 1, kind);
        let line = line(&event);
        assert!(line.contains(&format!("\"kind\":\"{name}\"")), "{line}");
        assert_eq!(Line::parse(line.as_bytes()), Line::Event(event));
    }
}

#[test]
fn non_finite_numbers_round_trip() {
    for (loss, text) in [(f64::NAN, "\"NaN\""), (f64::INFINITY, "\"Infinity\""), (f64::NEG_INFINITY, "\"-Infinity\"")] {
        let line = line(&event(1, 1, step(1, loss)));
        assert!(line.contains(&format!("\"loss\":{text}")), "{line}");
        let Line::Event(Event { kind: EventKind::Step { loss: back, .. }, .. }) = Line::parse(line.as_bytes()) else {
            panic!("{line}")
        };
        assert_eq!(back.to_bits() << 1, loss.to_bits() << 1, "{line}");
    }
    let null = br#"{"v":1,"seq":1,"attempt":1,"t":0,"kind":"eval","step":1,"loss":null,"tokens":1}"#;
    assert!(
        matches!(Line::parse(null), Line::Event(Event { kind: EventKind::Eval { loss, .. }, .. }) if loss.is_nan())
    );
    let word = br#"{"v":1,"seq":1,"attempt":1,"t":0,"kind":"eval","step":1,"loss":"high","tokens":1}"#;
    assert_eq!(Line::parse(word), Line::Damaged);
}

#[test]
fn newer_lines_are_unknown_and_broken_ones_damaged() {
    let unknown = |text: &str| assert_eq!(Line::parse(text.as_bytes()), Line::Unknown, "{text}");
    let damaged = |text: &str| assert_eq!(Line::parse(text.as_bytes()), Line::Damaged, "{text}");
    unknown(r#"{"v":1,"seq":1,"attempt":1,"t":0,"kind":"weather","score":1}"#);
    unknown(r#"{"v":2,"kind":"step"}"#);
    unknown(r#"{"v":2,"seq":1,"attempt":1,"t":0,"kind":"notice","message":"m"}"#);
    damaged(r#"{"v":1,"seq":1,"attempt":1,"t":0,"kind":"step","step":1}"#);
    damaged("");
    damaged("{}");
    damaged(&"[".repeat(100_000));
    // An added field of a newer version is no fault.
    let more = r#"{"v":1,"seq":1,"attempt":1,"t":0,"kind":"notice","message":"m","more":1}"#;
    assert!(matches!(Line::parse(more.as_bytes()), Line::Event(_)));
}

#[test]
fn a_newer_phase_is_still_a_phase() {
    let line = br#"{"v":1,"seq":1,"attempt":1,"t":0,"kind":"phase","phase":"dreaming","done":1,"total":2}"#;
    let Line::Event(event) = Line::parse(line) else { panic!("an event") };
    assert_eq!(event.kind, EventKind::Phase { phase: Phase::Other, done: 1, total: 2 });
}

#[test]
fn lengths_are_quantiles() {
    assert_eq!(Lengths::of(vec![]), None);
    assert_eq!(Lengths::of(vec![7]), Some(Lengths { median: 7, p90: 7, p99: 7, max: 7 }));
    let hundred = Lengths::of((1..=100).rev().collect());
    assert_eq!(hundred, Some(Lengths { median: 50, p90: 90, p99: 99, max: 100 }));
}

#[test]
fn only_superseded_measurements_are_dropped() {
    let eval = |step| EventKind::Eval { step, loss: 1.0, tokens: 1 };
    let kinds = [
        (1, started(0)),
        (1, step(1, 1.0)),
        (1, step(2, 1.0)),
        (1, step(3, 1.0)),
        (1, EventKind::Notice { message: "kept".into() }),
        (2, started(2)),
        (2, step(3, 2.0)),
        (2, eval(3)),
        (3, started(1)),
        (3, step(2, 3.0)),
    ];
    let mut events: Vec<_> =
        kinds.into_iter().enumerate().map(|(seq, (attempt, kind))| event(seq as u64, attempt, kind)).collect();
    drop_superseded(&mut events);
    let left: Vec<_> = events.iter().map(|event| event.seq).collect();
    assert_eq!(left, [0, 1, 4, 5, 8, 9]);
}

fn log_in(dir: &tempfile::TempDir) -> std::path::PathBuf {
    dir.path().join("events.jsonl")
}

#[test]
fn an_attempt_continues_a_log_torn_at_any_byte() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = log_in(&dir);
    let mut log = EventLog::open_path(&path).expect("opened");
    assert_eq!(log.attempt(), 1);
    for kind in all_kinds() {
        log.append(kind).expect("written");
    }
    drop(log);
    let whole = std::fs::read(&path).expect("readable");
    for cut in 0..=whole.len() {
        std::fs::write(&path, &whole[..cut]).expect("written");
        let lines = whole[..cut].iter().filter(|byte| **byte == b'\n').count();
        let mut log = EventLog::open_path(&path).expect("opened");
        let event = log.append(started(0)).expect("written");
        assert_eq!((event.seq, event.attempt), (lines as u64 + 1, u32::from(lines > 0) + 1), "cut at {cut}");
        let mut reader = EventReader::new(&path);
        let events = reader.poll().expect("readable");
        assert_eq!((events.len(), reader.damaged()), (lines + 1, 0), "cut at {cut}");
        assert!(events.iter().enumerate().all(|(index, event)| event.seq == index as u64 + 1), "cut at {cut}");
    }
}

#[test]
fn a_reader_follows_and_waits_for_the_end_of_a_line() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = log_in(&dir);
    let mut reader = EventReader::new(&path);
    assert!(reader.poll().expect("no log is an empty one").is_empty());

    let first = format!("{}\n", line(&event(1, 1, step(1, 1.0))));
    let second = format!("{}\n", line(&event(2, 1, step(2, 1.0))));
    let (head, tail) = second.split_at(20);
    std::fs::write(&path, format!("{first}{head}")).expect("written");
    assert_eq!(reader.poll().expect("readable").len(), 1);
    assert!(reader.poll().expect("readable").is_empty());
    std::fs::write(&path, format!("{first}{head}{tail}")).expect("written");
    assert_eq!(reader.poll().expect("readable")[0].seq, 2);

    // The tail that was cut had no line break and was never read. Any other loss is an error.
    std::fs::write(&path, format!("{first}{second}{head}")).expect("written");
    assert!(reader.poll().expect("readable").is_empty());
    std::fs::write(&path, format!("{first}{second}")).expect("written");
    assert!(reader.poll().expect("readable").is_empty());
    std::fs::write(&path, &first).expect("written");
    assert!(matches!(reader.poll(), Err(EventReadError::Shrunk { .. })));
}

#[test]
fn an_endless_line_is_skipped() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = log_in(&dir);
    let mut bytes = vec![b'x'; (16 << 20) + 100];
    bytes.extend_from_slice(format!("\n{}\n", line(&event(7, 1, step(1, 1.0)))).as_bytes());
    std::fs::write(&path, bytes).expect("written");
    let mut reader = EventReader::new(&path);
    assert_eq!(reader.poll().expect("readable")[0].seq, 7);
    assert_eq!(reader.damaged(), 1);
}

/// The dashboard must read 100,000 steps in 500 ms.
#[test]
fn a_long_log_is_read_quickly() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = log_in(&dir);
    let lines: String = (0..100_000).map(|seq| line(&event(seq, 1, step(seq, 1.0 / 3.0))) + "\n").collect();
    std::fs::write(&path, lines).expect("written");
    let start = std::time::Instant::now();
    assert_eq!(EventReader::read_all(&path).expect("readable").len(), 100_000);
    let seconds = start.elapsed().as_secs_f64();
    // Ten times that limit, so that a busy machine doesn't fail this test.
    assert!(seconds < 5.0, "{seconds} s");
}

proptest! {
    #[test]
    fn any_bytes_can_be_read_as_a_log(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = log_in(&dir);
        std::fs::write(&path, &bytes).expect("written");
        let mut reader = EventReader::new(&path);
        let events = reader.poll().expect("readable");
        let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
        prop_assert_eq!(events.len() as u64 + reader.damaged() + reader.unknown(), lines as u64);
        let mut log = EventLog::open_path(&path).expect("opened");
        log.append(step(1, 1.0)).expect("written");
        let mut again = EventReader::new(&path);
        prop_assert_eq!(again.poll().expect("readable").len(), events.len() + 1);
    }

    #[test]
    fn any_json_can_be_parsed_as_a_line(text in "\\{(\"(v|kind|seq|t|loss|step|attempt)\":(1|null|\"step\"|\"NaN\"|-1|1e999|\\[\\]),?){0,6}\\}") {
        Line::parse(text.as_bytes());
    }

    #[test]
    fn all_numbers_round_trip(loss in proptest::num::f64::ANY) {
        let line = line(&event(1, 1, step(1, loss)));
        let Line::Event(Event { kind: EventKind::Step { loss: back, .. }, .. }) = Line::parse(line.as_bytes()) else {
            return Err(TestCaseError::fail(line));
        };
        let same = back == loss || back.is_nan() && loss.is_nan() || (back - loss).abs() <= 1e-14 * loss.abs();
        prop_assert!(same, "{} {}", back, loss);
    }

    #[test]
    fn drop_superseded_is_idempotent(steps in proptest::collection::vec((any::<bool>(), 0u64..9), 0..30)) {
        let kinds = steps.into_iter().map(|(is_start, at)| if is_start { started(at) } else { step(at, 1.0) });
        let mut once: Vec<_> = kinds.enumerate().map(|(seq, kind)| event(seq as u64, 1, kind)).collect();
        drop_superseded(&mut once);
        let mut twice = once.clone();
        drop_superseded(&mut twice);
        prop_assert_eq!(once, twice);
    }
}

#[test]
fn events_after_the_end_belong_to_the_last_attempt() {
    let (_dir, run) = crate::run_dir::tests::run();
    let lock = crate::RunLock::acquire(run.path()).expect("free");
    let finished = || EventKind::Finished { step: 9, seconds: 3.5, tokens: 99, eval_loss: None, peak_rss_bytes: None };
    for kinds in [[started(0), EventKind::Interrupted { step: 4, signal: None }], [started(4), finished()]] {
        let mut log = EventLog::open(&run, &lock).expect("opened");
        kinds.into_iter().for_each(|kind| drop(log.append(kind).expect("appended")));
    }
    let mut torn = std::fs::OpenOptions::new().append(true).open(run.events()).expect("opened");
    std::io::Write::write_all(&mut torn, b"{\"v\":1,\"seq\":").expect("written");
    for kind in [EventKind::Gate { passed: true, reasons: vec![] }, EventKind::Published { name: "a".into() }] {
        let event = EventLog::open_afterwards(&run, &lock).expect("opened").append(kind).expect("appended");
        assert_eq!(event.attempt, 2);
    }
    let mut read = Vec::new();
    EventReader::new(run.events()).scan(|event| read.push((event.seq, event.attempt))).expect("readable");
    assert_eq!(read, [(1, 1), (2, 1), (3, 2), (4, 2), (5, 2), (6, 2)]);
    assert_eq!(run.logged_state().expect("readable"), crate::RunState::Finished);
    assert_eq!(EventLog::open(&run, &lock).expect("opened").attempt(), 3, "only a resumed run has a new attempt");
}

#![expect(clippy::disallowed_methods, reason = "tests write their own files")]

use super::*;
use crate::events::{EventKind, EventLog};
use crate::lock::{LockError, RunLock};
use crate::state::RunState;

/// A run in its own directory.
pub(crate) fn run() -> (tempfile::TempDir, RunDir) {
    let dir = tempfile::tempdir().expect("temp dir");
    let run = create(dir.path(), None).expect("created");
    (dir, run)
}

fn plan(output_dir: &Path) -> Plan {
    let declared = "name = \"house-style\"\nbase = \".\"\n[data]\ntrain = \".\"\n";
    let declared = RecipeFile { path: output_dir.join("declared.toml"), source: declared.to_owned() };
    Plan { output_dir: output_dir.join("runs"), ..declared.plan(&[]).expect("a plan") }
}

fn create(output_dir: &Path, name: Option<&str>) -> Result<RunDir, RunDirError> {
    let plan = plan(output_dir);
    let recipe = RecipeFile { path: "style.toml".into(), source: "# mine\n".into() };
    RunDir::create(&plan, &recipe, &["seed=1".to_owned()], name)
}

#[test]
fn a_created_run_can_be_opened() {
    let (dir, run) = run();
    assert!(run.id().starts_with("house-style-") && run.id().len() == "house-style-".len() + 4, "{}", run.id());
    assert_eq!(fs::read_to_string(run.recipe()).expect("readable"), "# mine\n");
    let opened = RunDir::open(run.path()).expect("opened");
    assert_eq!(opened.info(), run.info());
    assert_eq!(opened.info().overrides, ["seed=1"]);
    assert_eq!(opened.plan().expect("a plan").hash(), run.info().plan_hash);
    let info = fs::read_to_string(run.path().join(INFO)).expect("readable").replacen('{', "{\"later\": 1,", 1);
    fs::write(run.path().join(INFO), info).expect("written");
    assert_eq!(RunDir::open(run.path()).expect("unknown fields are ignored").info(), run.info());
    for path in [run.checkpoints(), run.eval(), run.samples(), run.exports()] {
        assert!(path.is_dir(), "{path:?}");
    }
    let left: Vec<_> = fs::read_dir(dir.path().join("runs")).expect("readable").collect();
    assert_eq!(left.len(), 1, "nothing but the run");
}

#[test]
fn inputs_and_time_of_the_first_start_are_stored() {
    let dir = tempfile::tempdir().expect("temp dir");
    let plan = plan(dir.path());
    let recipe = RecipeFile { path: "style.toml".into(), source: String::new() };
    let mut inputs = RunInputs::default();
    inputs.record_bytes("prompts", b"x");
    let now: Zoned = "2026-03-01T10:00:00.5+01:00[Europe/Berlin]".parse().expect("a moment");
    let started = StartedWith { inputs: inputs.clone(), now: now.clone(), key: Some("ab".to_owned()) };
    let run = RunDir::create_started(&plan, &recipe, &[], None, Some(started)).expect("created");
    let opened = RunDir::open(run.path()).expect("opened");
    assert_eq!((opened.info().inputs.as_ref(), opened.now().expect("a moment")), (Some(&inputs), now));
    assert_eq!(opened.info().key.as_deref(), Some("ab"));
}

/// `run.json` as written by builds that stored no fingerprints.
#[test]
fn a_run_without_fingerprints_is_read() {
    let (_dir, run) = run();
    let path = run.path().join(INFO);
    let text = fs::read_to_string(&path).expect("readable");
    assert!(!text.contains("inputs") && !text.contains("now"), "{text}");
    let opened = RunDir::open(run.path()).expect("opened");
    assert_eq!(opened.info().inputs, None);
    let created: Timestamp = opened.info().created.parse().expect("a time");
    assert_eq!(opened.now().expect("a moment").timestamp(), created);
}

#[test]
fn a_run_name_can_be_used_once() {
    let dir = tempfile::tempdir().expect("temp dir");
    assert_eq!(create(dir.path(), Some("Tuesday_1.5")).expect("created").id(), "Tuesday_1.5");
    assert!(matches!(create(dir.path(), Some("Tuesday_1.5")), Err(RunDirError::Exists { .. })));
    for name in ["", "..", ".x", "a/b", "a b", "a\\b"] {
        assert!(matches!(create(dir.path(), Some(name)), Err(RunDirError::Name(_))), "{name}");
    }
    let ids: std::collections::BTreeSet<_> = (0..50).map(|_| create(dir.path(), None).expect("created").id()).collect();
    assert_eq!(ids.len(), 50);
}

#[test]
fn latest_is_the_newest_run_and_damage_is_reported() {
    let dir = tempfile::tempdir().expect("temp dir");
    let runs = dir.path().join("runs");
    assert!(RunDir::latest(&runs).expect("no directory, no runs").is_none());
    create(dir.path(), Some("zzz")).expect("created");
    std::thread::sleep(std::time::Duration::from_millis(5));
    create(dir.path(), Some("aaa")).expect("created");
    fs::create_dir(runs.join("notes")).expect("made");
    assert_eq!(RunDir::latest(&runs).expect("readable").expect("a run").id(), "aaa");

    fs::write(runs.join("aaa").join(INFO), "{").expect("written");
    let found = RunDir::list(&runs).expect("readable");
    assert_eq!((found.runs.len(), found.damaged.len()), (1, 1));
    fs::write(runs.join("aaa").join(INFO), r#"{"format": 2, "new": true}"#).expect("written");
    assert!(matches!(RunDir::open(&runs.join("aaa")), Err(RunDirError::Format { found: 2, .. })));
    assert!(matches!(RunDir::open(&runs.join("notes")), Err(RunDirError::NotFound { .. })));
}

#[test]
fn a_plan_that_was_changed_is_refused() {
    let (_dir, run) = run();
    let path = run.path().join(PLAN);
    let text = fs::read_to_string(&path).expect("readable");
    fs::write(&path, text.replace("rank = 16", "rank = 17")).expect("written");
    assert!(matches!(run.plan(), Err(RunDirError::Damaged { .. })));
    fs::write(&path, vec![b'#'; MAX_TEXT as usize + 1]).expect("written");
    assert!(matches!(run.plan(), Err(RunDirError::Damaged { .. })));
    fs::write(&path, b"\xff").expect("written");
    assert!(matches!(run.plan(), Err(RunDirError::Damaged { .. })));
}

/// A run with keys of a newer version is not damaged.
#[test]
fn a_plan_of_a_newer_version_names_key_and_version() {
    let (_dir, mut run) = run();
    let path = run.path().join(PLAN);
    let text = fs::read_to_string(&path).expect("readable").replace("rank = 16", "rank = 16\nspan = 2");
    fs::write(&path, &text).expect("written");
    (run.info.plan_hash, run.info.tonfall) = (text_hash(&text), "7.0.0".to_owned());
    let error = run.plan().expect_err("an unknown key").to_string();
    assert!(error.contains("newer tonfall, 7.0.0") && error.contains("`lora.span` is a key"), "{error}");
    fs::write(&path, text.replace("span = 2", "span = 3")).expect("written");
    assert!(matches!(run.plan(), Err(RunDirError::Damaged { .. })), "verified before it is parsed");
}

#[test]
fn the_state_follows_from_lock_and_log() {
    let (_dir, run) = run();
    let state = || run.state().expect("readable");
    let attempt = |kinds: &[EventKind]| {
        let lock = RunLock::acquire(run.path()).expect("free");
        let mut log = EventLog::open(&run, &lock).expect("opened");
        for kind in kinds {
            log.append(kind.clone()).expect("written");
        }
    };
    let notice = || EventKind::Notice { message: "on".into() };
    let failed = || EventKind::Failed { message: "no".into(), exit_code: 5 };
    assert_eq!(state(), RunState::Created);
    let lock = RunLock::acquire(run.path()).expect("free");
    assert_eq!(state(), RunState::Running);
    drop(lock);
    attempt(&[notice()]);
    assert_eq!(state(), RunState::Interrupted, "a kill leaves no word");
    attempt(&[EventKind::Diverged { step: 1, what: "loss".into() }, failed()]);
    assert_eq!(state(), RunState::Diverged);
    attempt(&[notice(), failed()]);
    assert_eq!(state(), RunState::Failed);
    attempt(&[notice(), EventKind::Interrupted { step: 1, signal: None }]);
    assert_eq!(state(), RunState::Interrupted);
    attempt(&[
        notice(),
        EventKind::Finished { step: 2, seconds: 1.0, tokens: 1, eval_loss: None, peak_rss_bytes: None },
    ]);
    assert_eq!(state(), RunState::Finished);
    attempt(&[EventKind::Gate { passed: false, reasons: vec![] }, EventKind::Published { name: "x".into() }]);
    assert_eq!(state(), RunState::Finished, "a verdict begins no attempt");
}

#[test]
fn a_run_has_one_writer() {
    let (_dir, run) = run();
    let lock = RunLock::acquire(run.path()).expect("free");
    let busy = RunLock::acquire(run.path()).expect_err("held");
    assert!(matches!(busy, LockError::Busy { .. }), "{busy}");
    assert!(busy.to_string().contains(&run.id()), "{busy}");
    drop(lock);
    RunLock::acquire(run.path()).expect("free again");
}

#[test]
fn checking_a_lock_never_blocks_a_writer() {
    let (_dir, run) = run();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    run.state().expect("readable");
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
            });
        }
        let taken: Vec<_> = (0..50).map(|_| RunLock::acquire(run.path()).is_ok()).collect();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(taken.into_iter().all(|taken| taken));
    });
}

#[test]
fn a_stop_can_be_requested_and_cleared() {
    let (_dir, run) = run();
    assert!(!run.stop_requested());
    run.request_stop().expect("written");
    assert!(run.stop_requested());
    run.clear_stop_request().expect("removed");
    run.clear_stop_request().expect("nothing to remove is fine");
    assert!(!run.stop_requested());
}

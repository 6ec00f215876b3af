//! Runs that are still going, or can't be read as a whole.

use std::fs;
use std::path::Path;

use tonfall_durable::write_file;
use tonfall_runs::{RunDirError, RunLock};

use super::markup::check;
use super::{MADE, fixture, section, view_of};
use crate::{page, read, read_published};

/// A copy of a run of the fixtures, without its checkpoints.
fn copy(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    for file in ["run.json", "plan.toml", "recipe.toml", "run.lock", "events.jsonl"] {
        let bytes = fs::read(fixture(name).join(file)).expect("the fixture");
        write_file(&dir.path().join(file), &bytes).expect("written");
    }
    dir
}

fn replace(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).expect("text");
    assert!(text.contains(from), "{text}");
    write_file(path, text.replacen(from, to, 1).as_bytes()).expect("written");
}

/// The page of a run with exactly one fault, whose text contains `fault`.
fn damaged(path: &Path, fault: &str) -> String {
    let reading = read(path, MADE, None).expect("a run");
    assert_eq!(reading.faults.len(), 1, "{:?}", reading.faults);
    assert!(reading.view.faults[0].contains(fault), "{:?}", reading.view.faults);
    let page = page(&reading.view);
    check(&page);
    let shown = section(&page, "verdict");
    assert!(shown.contains("Damaged:") && shown.contains(fault), "{shown}");
    page
}

#[test]
fn a_run_that_is_going_says_so() {
    let dir = copy("interrupted");
    let log = dir.path().join("events.jsonl");
    let text = fs::read_to_string(&log).expect("text");
    let whole: String = text.split_inclusive('\n').filter(|line| !line.contains("\"interrupted\"")).collect();
    write_file(&log, whole.as_bytes()).expect("written");
    let lock = RunLock::acquire(dir.path()).expect("free");
    let page_of = |path: &Path| page(&view_of(path));
    let going = page_of(dir.path());
    assert!(section(&going, "verdict").contains("Still going: running, step 5 of"), "{going}");
    assert!(going.contains("as it was at 2026-12-01 06:00:00 UTC") && going.contains("still going</td>"));
    drop(lock);
    let interrupted = page_of(dir.path());
    assert!(section(&interrupted, "verdict").contains("Interrupted at step 5 of"), "{interrupted}");
    assert!(interrupted.contains("tonfall resume") && interrupted.contains("killed: its log has no end</td>"));
}

#[test]
fn a_damaged_run_has_a_page_that_says_so() {
    let dir = copy("finished");
    replace(&dir.path().join("plan.toml"), "rank = 2 ", "rank = 4 ");
    let page = damaged(dir.path(), "changed since the run was made");
    assert!(page.contains("base, recipe and data are not known") && page.contains("No gate"));

    let dir = copy("finished");
    replace(&dir.path().join("events.jsonl"), "\"kind\":\"eval\",\"step\":0", "\"kind\":\"eval\",\"step\":-7");
    let page = damaged(dir.path(), "1 line skipped");
    assert!(page.contains("step 3"), "the rest of the log is shown");

    let dir = copy("finished");
    write_file(&dir.path().join("run.json"), b"{").expect("written");
    let page = damaged(dir.path(), "run.json is damaged");
    assert!(page.contains("Damaged run") && page.contains("5.54"), "the log is shown: {page}");

    let dir = copy("finished");
    fs::create_dir(dir.path().join("eval")).expect("made");
    write_file(&dir.path().join("eval/adapter.json"), b"{\"format\": 1}").expect("written");
    damaged(dir.path(), "adapter.json is damaged");
}

#[test]
fn a_torn_last_line_is_no_damage() {
    let dir = copy("finished");
    let path = dir.path().join("events.jsonl");
    let text = fs::read_to_string(&path).expect("text") + "{\"v\":1,\"se";
    write_file(&path, text.as_bytes()).expect("written");
    assert!(read(dir.path(), MADE, None).expect("a run").faults.is_empty());
}

#[test]
fn a_published_version_must_be_whole() {
    let dir = copy("finished");
    let published = read_published(dir.path(), "house/1").expect("it is whole");
    assert!(published.plan.is_some() && published.eval_loss.is_some() && published.report.is_none());
    replace(&dir.path().join("plan.toml"), "rank = 2 ", "rank = 4 ");
    assert!(matches!(read_published(dir.path(), "x"), Err(RunDirError::Damaged { .. })));
    assert!(matches!(read_published(&dir.path().join("none"), "x"), Err(RunDirError::NotFound { .. })));
    assert!(matches!(read(&dir.path().join("none"), MADE, None), Err(RunDirError::NotFound { .. })));
}

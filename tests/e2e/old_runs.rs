//! Runs of earlier versions, in `tests/fixtures/runs`. Every later version must be able to list, draw, resume and merge
//! them and chat with them.
#![cfg(target_os = "linux")]

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::program::{Finished, run};

const RUNS: [(&str, &str, &str); 3] = [
    ("finished", "finished", "FINISHED"),
    ("full", "finished", "FINISHED"),
    ("interrupted", "interrupted", "INTERRUPTED"),
];

/// A copy of the fixtures, which is the working directory of tonfall.
fn copy() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    copy_tree(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/runs"), dir.path());
    for (name, ..) in RUNS {
        for folder in ["eval", "samples", "exports"] {
            fs::create_dir_all(dir.path().join("runs").join(name).join(folder)).unwrap();
        }
    }
    dir
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        match path.is_dir() {
            true => copy_tree(&path, &to),
            false => drop(fs::copy(path, to).unwrap()),
        }
    }
}

/// The command succeeded and reports no damage.
fn without_complaint(finished: Finished) -> Finished {
    let finished = finished.expect(0);
    for word in ["damaged", "warning", "newer"] {
        assert!(!finished.stderr.contains(word), "{}", finished.stderr);
    }
    finished
}

fn state(home: &Path, name: &str) -> Value {
    let listed = without_complaint(run(home, &["runs", "--json"])).stdout;
    let rows = listed.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    rows.into_iter().find(|row| row["id"] == name).unwrap()
}

#[test]
fn old_runs_are_listed_and_drawn() {
    let dir = copy();
    for (name, in_words, drawn) in RUNS {
        assert_eq!(state(dir.path(), name)["state"], in_words, "{name}");
        let frame = without_complaint(run(dir.path(), &["watch", name, "--once"])).stdout;
        assert!(frame.contains(drawn), "{frame}");
    }
    assert_eq!(without_complaint(run(dir.path(), &["runs"])).stdout.lines().count(), 4);
    let numbers = without_complaint(run(dir.path(), &["metrics"])).stdout;
    assert!(numbers.contains("tonfall_step{run=\"interrupted\"} 5\n"), "{numbers}");
    without_complaint(run(dir.path(), &["plot", "interrupted", "--out", "loss.svg"]));
}

#[test]
fn old_runs_can_be_chatted_with_and_merged() {
    let dir = copy();
    for (name, ..) in RUNS {
        let chat = ["chat", name, "--prompt", "Where is my lamp?", "--max-new-tokens", "4"];
        without_complaint(run(dir.path(), &chat));
    }
    for name in ["finished", "interrupted"] {
        let out = format!("merged-{name}");
        let merged = without_complaint(run(dir.path(), &["merge", name, "--out", &out]));
        assert_eq!(merged.stderr.contains("not finished"), name == "interrupted", "{}", merged.stderr);
        assert!(dir.path().join(out).join("model.safetensors").is_file());
    }
    let whole = run(dir.path(), &["merge", "full", "--out", "merged-full"]).expect(3);
    assert!(whole.stderr.contains("nothing to merge"), "{}", whole.stderr);
}

#[test]
fn an_old_run_is_resumed_and_saves_checkpoints_that_belong_to_it() {
    let dir = copy();
    let resume = ["--progress", "plain", "resume", "interrupted"];
    let resumed = run(dir.path(), &resume).expect(0).stderr;
    assert!(resumed.contains("from step 5") && !resumed.contains("damaged"), "{resumed}");
    // The old version stored no fingerprints, so the inputs can't be compared. That is the only warning.
    assert!(resumed.contains("stored no fingerprints") && resumed.matches("warning").count() == 1, "{resumed}");
    let state = state(dir.path(), "interrupted");
    assert_eq!((&state["state"], &state["attempt"]), (&"finished".into(), &2.into()));
    assert_eq!(state["step"], state["total_steps"]);
    // The newest checkpoint is found by the plan hash of the old version.
    fs::remove_dir_all(dir.path().join("runs/interrupted/exports/adapter")).unwrap();
    without_complaint(run(dir.path(), &["merge", "interrupted", "--out", "merged"]));
    assert_eq!(run(dir.path(), &resume).expect(3).stderr.matches("is finished").count(), 1);
    assert_eq!(run(dir.path(), &["resume", "full"]).expect(3).stderr.matches("is finished").count(), 1);
}

#[test]
fn a_plan_with_keys_of_a_newer_version_is_not_damaged() {
    let dir = copy();
    let run_dir = dir.path().join("runs/finished");
    let edit = |file: &str, from: &str, to: &str| {
        let text = fs::read_to_string(run_dir.join(file)).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(run_dir.join(file), text.replace(from, to)).unwrap();
    };
    edit("plan.toml", "\nrank = 2 ", "\nspan = 7\nrank = 2 ");
    let changed = run(dir.path(), &["chat", "finished", "--prompt", "x"]).expect(9).stderr;
    assert!(changed.contains("damaged") && changed.contains("changed since the run was made"), "{changed}");

    let plan = fs::read_to_string(run_dir.join("plan.toml")).unwrap();
    let info: Value = serde_json::from_str(&fs::read_to_string(run_dir.join("run.json")).unwrap()).unwrap();
    edit("run.json", info["plan_hash"].as_str().unwrap(), &tonfall_recipes::plan::text_hash(&plan));
    edit("run.json", "\"0.1.0\"", "\"9.0.0\"");
    let newer = run(dir.path(), &["chat", "finished", "--prompt", "x"]).expect(9).stderr;
    assert!(newer.contains("`lora.span`") && newer.contains("newer tonfall, 9.0.0"), "{newer}");
    assert!(!newer.contains("damaged"), "{newer}");
}

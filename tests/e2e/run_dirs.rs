//! Run directories in unusual places and states.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::program::{Finished, run, tonfall, wait_until};
use crate::tiny_model::Workshop;

fn trained(name: &str) -> Workshop {
    let workshop = Workshop::new();
    run(workshop.home(), &["--progress", "none", "train", "recipe.toml", "--run-name", name]).expect(0);
    workshop
}

/// Removes the end from the log of a finished run, so that it counts as interrupted.
fn without_end(run_dir: &Path) {
    let text = fs::read_to_string(run_dir.join("events.jsonl")).unwrap();
    let end = text.trim_end().rfind('\n').unwrap() + 1;
    fs::write(run_dir.join("events.jsonl"), &text[..end]).unwrap();
}

#[test]
fn an_unreadable_run_does_not_hide_the_others() {
    let workshop = trained("good");
    run(workshop.home(), &["--progress", "none", "train", "recipe.toml", "--run-name", "odd"]).expect(0);
    fs::remove_file(workshop.path("runs/odd/events.jsonl")).unwrap();
    fs::create_dir(workshop.path("runs/odd/events.jsonl")).unwrap();
    let listed = run(workshop.home(), &["runs"]).expect(0);
    assert!(listed.stdout.contains("good") && !listed.stdout.contains("odd"), "{}", listed.stdout);
    assert!(listed.stderr.contains("warning: ") && listed.stderr.contains("odd/events.jsonl"), "{}", listed.stderr);
    let exported = run(workshop.home(), &["metrics", "--tensorboard", "logs"]).expect(0);
    assert!(exported.stderr.contains("odd/events.jsonl") && workshop.path("logs/good").is_dir(), "{}", exported.stderr);
}

/// If an attempt is killed during its exports, their files don't count as an export.
#[test]
fn the_export_of_an_unfinished_run_is_not_used() {
    let workshop = trained("a");
    let run_dir = workshop.path("runs/a");
    let exported = run(workshop.home(), &["merge", "a", "--out", "exported"]).expect(0);
    assert!(!exported.stderr.contains("not finished"), "{}", exported.stderr);
    without_end(&run_dir);
    fs::remove_file(run_dir.join("exports/adapter/adapter_model.safetensors")).unwrap();
    let merged = run(workshop.home(), &["merge", "a", "--out", "merged"]).expect(0);
    assert!(
        merged.stderr.contains("the run runs/a is not finished; this is its adapter after step 6"),
        "{}",
        merged.stderr
    );
    let weights = |folder: &str| fs::read(workshop.path(folder).join("model.safetensors")).unwrap();
    assert!(weights("merged") == weights("exported"), "the last checkpoint holds what was exported");
}

#[test]
fn an_empty_export_directory_is_not_used() {
    let workshop = trained("a");
    for file in fs::read_dir(workshop.path("runs/a/exports/adapter")).unwrap() {
        fs::remove_file(file.unwrap().path()).unwrap();
    }
    run(workshop.home(), &["merge", "a", "--out", "merged"]).expect(0);
}

/// `resume` locks the run before it reads log, plan and checkpoints.
#[cfg(unix)]
#[test]
fn resume_locks_before_it_reads() {
    let workshop = trained("a");
    without_end(&workshop.path("runs/a"));
    let plan = workshop.path("runs/a/plan.toml");
    let text = fs::read(&plan).unwrap();
    fs::remove_file(&plan).unwrap();
    // Opening the plan waits until the test writes to the pipe.
    assert!(Command::new("mkfifo").arg(&plan).status().unwrap().success());
    let mut resuming = tonfall(workshop.home()).args(["--progress", "none", "resume", "a"]).spawn().unwrap();
    let lock = fs::File::open(workshop.path("runs/a/run.lock")).unwrap();
    wait_until("the lock", || lock.try_lock_shared().map(|()| lock.unlock().unwrap()).is_err());
    run(workshop.home(), &["resume", "a"]).expect(7);
    fs::write(&plan, text).unwrap();
    assert!(resuming.wait().unwrap().success());
}

/// A plan stores its paths as UTF-8.
#[cfg(unix)]
#[test]
fn a_working_directory_that_is_not_utf_8() {
    use std::os::unix::ffi::OsStrExt;

    let workshop = Workshop::new();
    let folder = workshop.home().join(std::ffi::OsStr::from_bytes(b"caf\xe9"));
    fs::create_dir(&folder).unwrap();
    let start = |args: &[&str]| -> Finished {
        tonfall(workshop.home()).current_dir(&folder).args(args).output().unwrap().into()
    };
    let refused = start(&["check", "../recipe.toml"]).expect(3).stderr;
    assert!(refused.contains("the name of the current directory is not UTF-8"), "{refused}");
    assert!(refused.contains("`output_dir`"), "{refused}");
    start(&["train", "../recipe.toml"]).expect(3);
    assert_eq!(
        fs::read_dir(workshop.home()).unwrap().filter(|entry| entry.as_ref().unwrap().path().ends_with("runs")).count(),
        0
    );
    let elsewhere = format!("output_dir=\"{}\"", workshop.path("runs").display());
    start(&["--progress", "none", "train", "../recipe.toml", "--set", &elsewhere, "--run-name", "a"]).expect(0);
    assert!(start(&["runs", "../runs"]).expect(0).stdout.contains("finished"));

    // Paths in a recipe can't be relative to such a folder either.
    fs::copy(workshop.path("recipe.toml"), folder.join("recipe.toml")).unwrap();
    let refused = start(&["check", "recipe.toml"]).expect(3).stderr;
    assert!(refused.contains("`base` is a path below a folder whose name is not UTF-8"), "{refused}");
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn a_file_system_without_locks_is_reported_and_nothing_is_left() {
    let workshop = trained("a");
    without_end(&workshop.path("runs/a"));
    let library = workshop.path("libno_locks.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stand_in/no_locks.rs");
    let built = Command::new("rustc")
        .args(["--edition", "2024", "--crate-type", "cdylib", "-o"])
        .args([&library, &source])
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let start = |args: &[&str]| -> Finished {
        tonfall(workshop.home()).env("LD_PRELOAD", &library).args(args).output().unwrap().into()
    };
    for args in [&["train", "recipe.toml"][..], &["resume", "a"]] {
        let refused = start(args).expect(8).stderr;
        assert!(refused.contains("has no file locks") && refused.contains("`output_dir`"), "{refused}");
        assert!(!refused.contains("scratch"), "{refused}");
    }
    let left: Vec<_> = fs::read_dir(workshop.path("runs")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["a"]);
    assert!(start(&["runs"]).expect(0).stderr.contains("runs/a: the file system has no file locks"));
    start(&["merge", "a", "--out", "merged"]).expect(0);
}

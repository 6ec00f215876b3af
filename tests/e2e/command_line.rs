//! The commands that need no model, and the manners of the program: streams, colours, usage.

use std::process::Stdio;

use crate::program::{run, tonfall};

#[test]
fn wrong_usage_ends_with_2_and_says_what_is_known() {
    let home = tempfile::tempdir().unwrap();
    let unknown = run(home.path(), &["trian"]).expect(2);
    assert!(unknown.stdout.is_empty() && unknown.stderr.contains("'train'"), "{}", unknown.stderr);
    run(home.path(), &["chat", "x", "--temperature", "-1"]).expect(2);
    run(home.path(), &["runs", "--set", "seed=1"]).expect(2);
}

#[test]
fn help_version_completions_and_man_go_to_stdout() {
    let home = tempfile::tempdir().unwrap();
    assert!(run(home.path(), &["--version"]).expect(0).stdout.starts_with("tonfall 0."));
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(run(home.path(), &["completions", shell]).expect(0).stdout.contains("tonfall"));
    }
    let page = run(home.path(), &["man"]).expect(0).stdout;
    for command in ["INIT", "CHECK", "TRAIN", "RESUME", "CHAT", "MERGE", "RUNS", "WATCH"] {
        assert!(page.contains(&format!(".SH TONFALL {command}")), "{command} is in the manual page");
    }
}

#[test]
fn no_escapes_without_a_terminal() {
    let home = tempfile::tempdir().unwrap();
    let plain = run(home.path(), &["check", "absent.toml"]).expect(3);
    assert!(!plain.stderr.contains('\x1b'));
    let coloured = run(home.path(), &["--color", "always", "check", "absent.toml"]).expect(3);
    assert!(coloured.stderr.contains('\x1b'));
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let home = tempfile::tempdir().unwrap();
    let mut child = tonfall(home.path()).arg("man").stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_under_stdout_is_reported() {
    let home = tempfile::tempdir().unwrap();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = tonfall(home.path()).arg("man").stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(8), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn runs_of_an_empty_place_are_none() {
    let home = tempfile::tempdir().unwrap();
    assert_eq!(run(home.path(), &["runs"]).expect(0).stdout, "");
    assert_eq!(run(home.path(), &["runs", "--json"]).expect(0).stdout, "");
}

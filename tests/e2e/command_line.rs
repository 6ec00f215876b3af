//! Commands that need no model; output streams, colours and usage errors.

use std::process::Stdio;

use crate::program::{run, tonfall};

#[test]
fn wrong_usage_exits_with_2() {
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
    for command in ["INIT", "CHECK", "TRAIN", "RESUME", "CHAT", "MERGE", "INSPECT", "RUNS", "WATCH", "DOCTOR"] {
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
fn a_closed_pipe_is_no_error() {
    let home = tempfile::tempdir().unwrap();
    let mut child = tonfall(home.path()).arg("man").stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_reported() {
    let home = tempfile::tempdir().unwrap();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = tonfall(home.path()).arg("man").stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(8), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn an_empty_directory_has_no_runs() {
    let home = tempfile::tempdir().unwrap();
    assert_eq!(run(home.path(), &["runs"]).expect(0).stdout, "");
    assert_eq!(run(home.path(), &["runs", "--json"]).expect(0).stdout, "");
}

#[test]
fn doctor_tests_the_cpu_and_lists_the_other_devices() {
    let home = tempfile::tempdir().unwrap();
    let report = run(home.path(), &["doctor", "--json"]).expect(0).stdout;
    let lines: Vec<serde_json::Value> = report.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let devices: Vec<&str> = lines.iter().filter_map(|line| line["device"].as_str()).collect();
    assert_eq!(devices, ["cpu", "cuda", "vulkan"]);
    assert_eq!(lines[0]["state"], "works");
}

#[test]
fn a_missing_device_is_refused_before_anything_is_written() {
    let home = tempfile::tempdir().unwrap();
    // No machine has device 99, whatever devices this build supports.
    let refused = run(home.path(), &["train", "quickstart", "--device", "cuda:99"]).expect(2);
    assert!(refused.stderr.contains("cuda:99"), "{}", refused.stderr);
    assert!(!home.path().join("runs").exists());
    assert!(run(home.path(), &["train", "quickstart", "--device", "gpu"]).expect(2).stderr.contains("cuda:1"));
}

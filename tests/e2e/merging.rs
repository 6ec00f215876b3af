//! `merge` and `export` on the command line: several adapters, the memory limit, kills.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::program::{run, tonfall};
use crate::tiny_model::Workshop;

fn trained() -> Workshop {
    let workshop = Workshop::new();
    run(workshop.home(), &["--progress", "none", "train", "recipe.toml", "--run-name", "a"]).expect(0);
    workshop
}

#[test]
fn adapters_are_merged_with_weights() {
    let workshop = trained();
    let merge = |args: &[&str]| run(workshop.home(), &[&["merge", "runs/a"], args].concat());
    merge(&["--adapter", "runs/a/exports/adapter=0.5", "--weight", "0.25", "--out", "sum"]).expect(0);
    let weights = |name: &str| fs::read(workshop.path(name).join("model.safetensors")).unwrap();
    merge(&["--out", "one"]).expect(0);
    assert_ne!(weights("sum"), weights("one"));
    let without = merge(&["--adapter", "runs/a=0", "--weight", "0", "--out", "nothing"]).expect(9);
    assert!(without.stderr.contains("changes no value of the base"), "{}", without.stderr);
    let model = merge(&["--adapter", "base", "--out", "nothing"]).expect(3);
    assert!(model.stderr.contains("base is no adapter"), "{}", model.stderr);
    // A `=` without a number belongs to the path.
    let missing = merge(&["--adapter", "runs/a=b", "--out", "nothing"]).expect(3);
    assert!(missing.stderr.contains("runs/a=b"), "{}", missing.stderr);
    assert!(!workshop.path("nothing").exists());
    // Every export takes the sum.
    let all =
        ["export", "runs/a", "--adapter", "runs/a", "--to", "peft,gguf-adapter", "--no-verify", "--out", "exports"];
    run(workshop.home(), &all).expect(0);
    let config = fs::read_to_string(workshop.path("exports/adapter/adapter_config.json")).unwrap();
    assert!(config.contains("\"r\": 8"), "{config}");
}

#[test]
fn the_memory_limit_is_checked() {
    let workshop = trained();
    let merge = |limit: &str| run(workshop.home(), &["merge", "runs/a", "--out", "merged", "--max-ram", limit]);
    for limit in ["1MiB", "4", "much"] {
        assert!(merge(limit).expect(2).stderr.contains("expected a size such as 4GiB"), "{limit}");
    }
    merge("256MiB").expect(0);
}

fn content(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| (path.strip_prefix(dir).unwrap().to_owned(), fs::read(&path).unwrap())).collect()
}

#[cfg(unix)]
#[test]
fn a_killed_export_leaves_only_scratch_and_the_next_call_finishes() {
    let workshop = trained();
    let export = |out: &str| {
        let mut command = tonfall(workshop.home());
        command.args(["export", "runs/a", "--to", "gguf", "--types", "F32,F16,Q8_0", "--no-verify", "--out", out]);
        command
    };
    let start = Instant::now();
    assert!(export("clean").output().unwrap().status.success());
    let (whole, expected) = (start.elapsed(), content(&workshop.path("clean/gguf")));
    for moment in 1..8 {
        let out = format!("out{moment}");
        let mut process = export(&out).spawn().unwrap();
        std::thread::sleep(whole * moment / 8);
        process.kill().unwrap();
        process.wait().unwrap();
        let model = workshop.path(&out).join("gguf");
        if !model.exists() {
            let left = fs::read_dir(workshop.path(&out)).into_iter().flatten();
            for entry in left {
                let name = entry.unwrap().file_name().into_string().unwrap();
                assert!(name.starts_with(".tonfall-scratch-"), "{name}");
            }
            let again = export(&out).output().unwrap();
            assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
        }
        assert_eq!(content(&model), expected, "killed at {:?}", whole * moment / 8);
        assert_eq!(fs::read_dir(workshop.path(&out)).unwrap().count(), 1);
    }
    assert!(whole < Duration::from_secs(60));
}

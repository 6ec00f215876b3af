//! The cache of prepared data after a killed preparation.

use std::fs;
use std::path::{Path, PathBuf};

use crate::program::{run, tonfall, wait_until};
use crate::tiny_model::{Workshop, conversations};

/// Directories of unfinished preparations.
fn unfinished(cache: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(cache).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(".tonfall-scratch-")).collect()
}

#[test]
fn leftovers_of_a_killed_preparation_are_removed_by_the_next_one() {
    let workshop = Workshop::new();
    let cache = workshop.path(".cache/tonfall/datasets");
    fs::write(workshop.path("large.jsonl"), conversations(100_000)).unwrap();
    let large = ["data", "recipe.toml", "--set", "data.train=large.jsonl"];
    let mut at_work = tonfall(workshop.home()).args(large).stderr(std::process::Stdio::null()).spawn().unwrap();
    wait_until("tokens on the disk", || !unfinished(&cache).is_empty());

    // A preparation that runs at the same time is not removed.
    run(workshop.home(), &["data", "recipe.toml"]).expect(0);
    let left = unfinished(&cache);
    assert_eq!(left.len(), 1, "it is still at work");
    at_work.kill().unwrap();
    at_work.wait().unwrap();
    assert_eq!(unfinished(&cache), left, "a kill removes nothing");

    run(workshop.home(), &["data", "recipe.toml", "--set", "seed=12"]).expect(0);
    assert!(unfinished(&cache).is_empty());
    let found = run(workshop.home(), &["data", "recipe.toml", "--json"]).expect(0).stdout;
    assert!(found.contains("\"cached\":true"), "finished data stays: {found}");
}

//! Dependencies between the crates of the workspace, as drawn in `docs/architecture.md`, and between the files of the
//! binary.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// For each crate: the workspace crates that it may depend on, and families that must not be in its dependency tree.
const CRATES: [(&str, &[&str], &[&str]); 13] = [
    ("tonfall-durable", &[], &["burn", "polars", "ratatui", "tokenizers", "safetensors"]),
    ("tonfall-recipes", &["tonfall-durable"], &["burn", "polars", "ratatui", "tokenizers", "safetensors"]),
    (
        "tonfall-runs",
        &["tonfall-recipes", "tonfall-durable"],
        &["burn", "polars", "ratatui", "tokenizers", "safetensors"],
    ),
    (
        "tonfall-report",
        &["tonfall-runs", "tonfall-recipes", "tonfall-terms"],
        &["burn", "polars", "ratatui", "tokenizers", "safetensors"],
    ),
    ("tonfall-blocks", &[], &["burn", "polars", "ratatui", "serde"]),
    ("tonfall-terms", &[], &["burn", "polars", "ratatui", "tokenizers", "minijinja"]),
    ("tonfall-measures", &["tonfall-terms"], &["burn", "polars", "ratatui", "tokenizers", "minijinja", "safetensors"]),
    ("tonfall-tui", &["tonfall-runs", "tonfall-terms"], &["burn", "polars", "tokenizers", "safetensors"]),
    ("tonfall-datasets", &["tonfall-recipes", "tonfall-durable", "tonfall-terms"], &["burn", "ratatui", "safetensors"]),
    ("tonfall-adapters", &["tonfall-durable", "tonfall-blocks"], &["burn", "polars", "ratatui", "tokenizers"]),
    ("tonfall-serving", &[], &["burn", "polars", "ratatui", "tokenizers", "safetensors", "memmap2"]),
    ("tonfall-kernels", &["tonfall-blocks"], &["polars", "ratatui", "tokenizers"]),
    (
        "tonfall-trainer",
        &[
            "tonfall-runs",
            "tonfall-recipes",
            "tonfall-durable",
            "tonfall-datasets",
            "tonfall-measures",
            "tonfall-adapters",
            "tonfall-kernels",
            "tonfall-blocks",
        ],
        &["ratatui", "indicatif"],
    ),
];

/// Families that a crate must not depend on directly. They may be in its dependency tree through other crates.
const NOT_DIRECTLY: [(&str, &[&str]); 2] =
    [("tonfall", &["burn", "polars", "tonfall-kernels", "tonfall-blocks"]), ("tonfall-trainer", &["polars"])];

struct Graph {
    names: BTreeMap<String, String>,
    edges: BTreeMap<String, Vec<String>>,
}

impl Graph {
    fn load() -> Self {
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        // Only this platform: crates of other platforms may not be installed.
        let version = Command::new("rustc").arg("-vV").output().unwrap();
        let version = String::from_utf8(version.stdout).unwrap();
        let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
        let output = Command::new(env!("CARGO"))
            .args(["metadata", "--offline", "--locked", "--format-version", "1", "--filter-platform", host])
            .args(["--manifest-path", manifest])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let packages = metadata["packages"].as_array().unwrap();
        let names = packages.iter().map(|package| (text(&package["id"]), text(&package["name"]))).collect();
        let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
        let normal = |dep: &&Value| dep["dep_kinds"].as_array().unwrap().iter().any(|kind| kind["kind"].is_null());
        let deps = |node: &Value| {
            node["deps"].as_array().unwrap().iter().filter(normal).map(|dep| text(&dep["pkg"])).collect()
        };
        Self { names, edges: nodes.iter().map(|node| (text(&node["id"]), deps(node))).collect() }
    }

    fn id(&self, name: &str) -> &String {
        let found = self.names.iter().find(|(_, found)| *found == name);
        found.unwrap_or_else(|| panic!("no crate {name}")).0
    }

    fn direct(&self, name: &str) -> BTreeSet<&str> {
        self.edges[self.id(name)].iter().map(|id| self.names[id].as_str()).collect()
    }

    fn closure(&self, name: &str) -> BTreeSet<&str> {
        let (mut seen, mut open) = (BTreeSet::new(), vec![self.id(name)]);
        while let Some(id) = open.pop() {
            open.extend(self.edges[id].iter().filter(|dep| seen.insert(self.names[*dep].as_str())));
        }
        seen
    }
}

/// `burn` means burn-tensor and all other crates of the family.
fn belongs_to(name: &str, family: &str) -> bool {
    name == family || name.strip_prefix(family).is_some_and(|rest| rest.starts_with(['-', '_']))
}

#[test]
fn every_crate_depends_only_on_the_crates_below_it() {
    let graph = Graph::load();
    for (name, may_name, must_not_see) in CRATES {
        for dep in graph.direct(name).iter().filter(|dep| dep.starts_with("tonfall")) {
            assert!(may_name.contains(dep), "{name} must not depend on {dep}");
        }
        for dep in graph.closure(name) {
            let leak = must_not_see.iter().find(|family| belongs_to(dep, family));
            assert!(leak.is_none(), "{name} must not see {dep}");
        }
    }
    for (name, must_not_name) in NOT_DIRECTLY {
        for dep in graph.direct(name) {
            let leak = must_not_name.iter().find(|family| belongs_to(dep, family));
            assert!(leak.is_none(), "{name} must not name {dep}");
        }
    }
}

#[test]
fn the_dependency_search_finds_existing_dependencies() {
    let graph = Graph::load();
    let trainer = graph.closure("tonfall-trainer");
    assert!(trainer.contains("polars-parquet") && trainer.contains("burn"), "the test would pass on an empty graph");
    assert!(belongs_to("burn-tensor", "burn") && !belongs_to("burnish", "burn"));
}

/// Code that several commands need must be outside of the folder `commands`.
#[test]
fn commands_do_not_import_commands() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let in_folder = |folder: &Path| -> Vec<PathBuf> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect()
    };
    let others = in_folder(&source).into_iter().filter(|path| !path.ends_with("main.rs"));
    let files: Vec<PathBuf> = in_folder(&source.join("commands")).into_iter().chain(others).collect();
    assert!(files.len() > 20, "{files:?}");
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        assert!(!text.contains("commands::"), "{} imports a command", file.display());
    }
}

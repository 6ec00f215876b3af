//! Checks the documents: commands and options exist, the table of keys is complete, links have targets.

use std::fs;
use std::path::Path;

use tonfall_recipes::recipe_text::key_reference;

use crate::program::run;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Every Markdown file of the repository's documentation.
fn documents() -> Vec<String> {
    let mut names: Vec<String> = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(str::to_owned).to_vec();
    for folder in ["docs", "docs/adr", "docs/nightly"] {
        for entry in fs::read_dir(root().join(folder)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".md") {
                names.push(format!("{folder}/{name}"));
            }
        }
    }
    names
}

/// The `tonfall` commands in fenced blocks.
fn commands(text: &str) -> Vec<String> {
    let mut fenced = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if fenced {
            let line = line.trim().trim_start_matches("$ ").replace("cargo run --release -- ", "tonfall ");
            let command = line
                .strip_prefix("tonfall ")
                .filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '-'));
            found.extend(command.map(str::to_owned));
        }
    }
    found
}

#[test]
fn every_command_in_the_documents_exists() {
    let home = tempfile::tempdir().unwrap();
    let help = run(home.path(), &["help"]).expect(0).stdout;
    let known: Vec<&str> = help.lines().filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next()).collect();
    assert!(known.contains(&"train"), "{help}");
    let all = documents();
    let mut seen = 0;
    for name in &all {
        for command in commands(&read(name)) {
            let word = command.split_whitespace().find(|word| !word.starts_with('-')).unwrap_or_default();
            assert!(known.contains(&word), "{name}: `tonfall {command}`: there is no command {word}");
            for option in command.split_whitespace().filter(|word| word.starts_with("--")) {
                let option = option.split('=').next().unwrap();
                let help = run(home.path(), &[word, "--help"]).expect(0).stdout;
                assert!(help.contains(option), "{name}: `tonfall {command}`: {word} has no {option}");
            }
            seen += 1;
        }
    }
    assert!(seen >= 5, "the documents show commands");
}

#[test]
fn the_table_of_keys_equals_the_schema() {
    let text = read("docs/recipes.md");
    assert!(
        text.contains(key_reference().trim()),
        "docs/recipes.md is not up to date; the table must be:\n{}",
        key_reference()
    );
}

#[test]
fn links_between_documents_have_targets() {
    for name in documents() {
        let text = read(&name);
        let folder = root().join(&name).parent().unwrap().to_owned();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = link.split('#').next().unwrap();
            let local = !path.is_empty() && !path.contains("://") && !path.starts_with("mailto:");
            assert!(!local || folder.join(path).exists(), "{name}: no {link}");
        }
    }
}

#![expect(clippy::disallowed_methods, reason = "tests write their own files")]

use super::*;
use crate::recipe::RecipeFile;
use crate::schema::KEYS;

fn load(source: String) -> crate::plan::Plan {
    let dir = tempfile::tempdir().expect("temp dir");
    std::fs::write(dir.path().join("train.jsonl"), "").expect("written");
    std::fs::create_dir(dir.path().join("model")).expect("made");
    let recipe = RecipeFile { path: dir.path().join("style.toml"), source };
    recipe.plan(&[]).unwrap_or_else(|faults| panic!("{faults}"))
}

fn given() -> String {
    commented_recipe(&[("base", "model".into()), ("data.train", "train.jsonl".into()), ("lora.rank", 8.into())])
}

#[test]
fn a_commented_recipe_is_a_recipe() {
    let plan = load(given());
    assert_eq!(plan.lora.rank, 8);
    let training = crate::plan::TrainingPlan { epochs: Some(1.0), ..crate::plan::TrainingPlan::default() };
    assert_eq!(plan.training, training);
}

/// Examples of unset keys have the type of their key.
#[test]
fn examples_of_unset_keys_can_be_uncommented() {
    for (path, line) in [("training.max_memory", "# max_memory = 16.0  #"), ("training.epochs", "# epochs = 1  #")] {
        assert!(given().contains(line), "{path}");
    }
}

#[test]
fn the_defaults_in_comments_are_the_defaults() {
    let is_default = |line: &str| {
        let name = line.strip_prefix("# ").and_then(|line| line.split_once(" = ")).map(|(name, _)| name);
        let has = |key: &&Key| key.default_value().is_some() && Some(key.split().1) == name;
        KEYS.iter().any(|key| has(&key))
    };
    // The default of a list is empty, so the keys of its items stay comments.
    let (mut uncommented, mut in_list) = (Vec::new(), false);
    for line in given().lines() {
        in_list = line.starts_with("# [[") || in_list && !line.starts_with('[');
        uncommented.push(if is_default(line) && !in_list { line[2..].to_owned() } else { line.to_owned() });
    }
    let mut with_comments = load(uncommented.join("\n"));
    let without = load(given());
    // The two recipes were loaded from different folders.
    with_comments.base = without.base.clone();
    with_comments.data.train = without.data.train.clone();
    assert_eq!(with_comments, without);
}

#[test]
fn the_reference_names_every_key() {
    let reference = key_reference();
    assert_eq!(reference.lines().count(), KEYS.len() + 2);
    let row = "| `training.beta1` | a number of at least 0 and below 1 | `0.9` | AdamW |";
    assert!(reference.lines().any(|line| line == row), "{reference}");
    // Bars inside a cell are escaped, so each row has exactly five bars.
    assert!(reference.lines().all(|line| line.replace("\\|", "").matches('|').count() == 5), "{reference}");
}

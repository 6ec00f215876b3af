//! The built-in recipe, and recipes from files.
//!
//! Responsible for: the name `quickstart` as a recipe, and making a plan from recipe and overrides.
//! Must not depend on: training.

use std::path::{Path, PathBuf};

use tonfall_durable as durable;
use tonfall_recipes::{Plan, RecipeFile};

use crate::args::RecipeArgs;
use crate::diagnostics::Result;
use crate::user_cache;

/// The name of the built-in recipe.
const WORD: &str = "quickstart";

macro_rules! embedded {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_bytes!(concat!("../recipes/", $path)))),*]
    };
}

/// The recipe and every file that it names, by path relative to the recipe.
const FILES: &[(&str, &[u8])] = embedded![
    "quickstart.toml",
    "quickstart/train.jsonl",
    "quickstart/eval.jsonl",
    "quickstart/prompts.jsonl",
    "quickstart/base/config.json",
    "quickstart/base/generation_config.json",
    "quickstart/base/tokenizer.json",
    "quickstart/base/tokenizer_config.json",
    "quickstart/base/chat_template.jinja",
    "quickstart/base/model.safetensors",
];

/// A recipe and its plan.
pub(crate) fn plan(args: &RecipeArgs) -> Result<(RecipeFile, Plan)> {
    let path = match args.recipe == Path::new(WORD) && !args.recipe.exists() {
        true => unpack()?,
        false => args.recipe.clone(),
    };
    Ok(RecipeFile::load(&path, &args.set)?)
}

/// Writes the embedded files into the user's cache if they are not there yet; returns the path of the recipe.
fn unpack() -> Result<PathBuf> {
    let cache = user_cache::directory(|name| std::env::var_os(name)).unwrap_or_else(std::env::temp_dir);
    let directory = cache.join("tonfall").join(format!("{WORD}-{}", env!("CARGO_PKG_VERSION")));
    for (name, bytes) in FILES {
        let path = directory.join(name);
        durable::create_dir_all(path.parent().unwrap_or(&directory))?;
        let same = std::fs::metadata(&path).is_ok_and(|file| file.len() == bytes.len() as u64)
            && std::fs::read(&path).is_ok_and(|found| found == *bytes);
        if !same {
            durable::write_file(&path, bytes)?;
        }
    }
    Ok(directory.join(format!("{WORD}.toml")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_recipe_is_embedded() {
        let folder = tempfile::tempdir().expect("a directory");
        for (name, bytes) in FILES {
            let path = folder.path().join(name);
            durable::create_dir_all(path.parent().expect("a folder")).expect("made");
            durable::write_file(&path, bytes).expect("written");
        }
        let (_, plan) = RecipeFile::load(&folder.path().join("quickstart.toml"), &[]).expect("valid");
        let base = folder.path().join("quickstart/base");
        assert_eq!(plan.base.local(), Some(base.as_path()));
        tonfall_adapters::BaseModel::open(&base).expect("a base model");
    }
}

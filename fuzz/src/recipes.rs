//! Recipes and the plans of runs.

use std::fs;
use std::sync::Once;

use tonfall_recipes::{Plan, RecipeFile};

use crate::{heap, scratch};

/// A recipe next to a model `model` and data `a.jsonl`. The plan of an accepted recipe comes back equal from its
/// `plan.toml`; a refused recipe has at least one fault.
pub fn recipe(bytes: &[u8]) {
    static NEIGHBOURS: Once = Once::new();
    NEIGHBOURS.call_once(|| {
        fs::create_dir_all(scratch::directory().join("model")).expect("a directory");
        scratch::write("a.jsonl", b"");
        scratch::write("base.gguf", b"");
    });
    let path = scratch::write("recipe.toml", bytes);
    heap::bounded(bytes.len(), || match RecipeFile::load(&path, &[]) {
        Ok((_, plan)) => {
            let text = plan.to_toml();
            let read = Plan::from_toml(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
            assert_eq!(plan, read, "{text}");
        }
        Err(faults) => assert!(!faults.items.is_empty() && !faults.to_string().is_empty()),
    });
}

/// The `plan.toml` of a run. An accepted plan is written and read again without a change.
pub fn plan(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    heap::bounded(bytes.len(), || {
        let Ok(plan) = Plan::from_toml(text) else { return };
        let written = plan.to_toml();
        let read = Plan::from_toml(&written).unwrap_or_else(|error| panic!("{error}\n{written}"));
        // A plan with NaN is not equal to itself, but its text is.
        assert_eq!(read.to_toml(), written);
    });
}

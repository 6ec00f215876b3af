//! `target_modules` for the modules of an adapter.
//!
//! PEFT and compatible loaders apply LoRA to every module whose name equals an entry or ends with `.` and an entry. The
//! entries must therefore match exactly the trained modules of the base.
//! Must not depend on: tensors.

use std::collections::{BTreeMap, BTreeSet};

/// The shortest entries that match the `trained` modules among `all` modules of the base: the last part of the name
/// (`q_proj`) if every module of that name is trained, otherwise the full name. Sorted.
#[must_use]
pub fn target_modules<'a>(trained: impl IntoIterator<Item = &'a str>, all: &BTreeSet<String>) -> Vec<String> {
    let trained: BTreeSet<&str> = trained.into_iter().collect();
    let mut complete: BTreeMap<&str, bool> = BTreeMap::new();
    for module in all {
        let complete = complete.entry(last_part(module)).or_insert(true);
        *complete &= trained.contains(module.as_str());
    }
    let entry = |module: &str| match complete.get(last_part(module)) {
        Some(true) => last_part(module).to_owned(),
        _ => module.to_owned(),
    };
    let entries: BTreeSet<String> = trained.iter().map(|module| entry(module)).collect();
    entries.into_iter().collect()
}

fn last_part(module: &str) -> &str {
    module.rsplit_once('.').map_or(module, |(_, last)| last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> BTreeSet<String> {
        let layer = |index: usize| {
            ["self_attn.q_proj", "self_attn.k_proj", "input_layernorm"]
                .map(|part| format!("model.layers.{index}.{part}"))
        };
        (0..12).flat_map(layer).chain(["lm_head".to_owned(), "model.embed_tokens".to_owned()]).collect()
    }

    #[test]
    fn an_entry_is_a_last_part_or_a_full_name() {
        let modules = all();
        let every =
            |part: &str| modules.iter().map(String::as_str).filter(|name| name.ends_with(part)).collect::<Vec<_>>();
        assert_eq!(target_modules(every("_proj"), &modules), ["k_proj", "q_proj"]);
        assert_eq!(target_modules(["lm_head"], &modules), ["lm_head"]);
        // Layer 1 is not layer 11, and only one of its projections is complete.
        let mut some = every("k_proj");
        some.push("model.layers.1.self_attn.q_proj");
        assert_eq!(target_modules(some, &modules), ["k_proj", "model.layers.1.self_attn.q_proj"]);
        // By PEFT's rule, the entries match exactly the trained modules.
        let trained = ["model.layers.1.self_attn.q_proj", "model.layers.11.self_attn.k_proj"];
        let entries = target_modules(trained, &modules);
        let matched = modules
            .iter()
            .filter(|name| entries.iter().any(|entry| *name == entry || name.ends_with(&format!(".{entry}"))));
        assert_eq!(matched.collect::<Vec<_>>(), trained);
    }
}

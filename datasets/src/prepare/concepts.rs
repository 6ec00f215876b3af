//! Groups rows of term bases by concept.
//!
//! Responsible for: a union-find over concept names, so that the split keeps a concept on one side.
//! Must not depend on: the content of a row.

use std::collections::BTreeMap;

use crate::stable_hash::stable_hash;

/// Union-find over hashed names: 16 bytes for each name.
#[derive(Debug, Default)]
pub(crate) struct Concepts {
    /// Name → parent. A root is its own parent.
    before: BTreeMap<u64, u64>,
}

impl Concepts {
    /// Merges all names into one concept.
    pub(crate) fn join(&mut self, names: &[String]) {
        let mut names = names.iter().map(stable_hash);
        let Some(first) = names.next() else { return };
        let first = self.first(first);
        for name in names {
            let other = self.first(name);
            self.before.insert(other, first);
        }
    }

    /// The id of the concept with this name. All merged names have the same id.
    pub(crate) fn of(&self, name: &str) -> u64 {
        let mut name = stable_hash(name);
        while let Some(before) = self.before.get(&name).filter(|before| **before != name) {
            name = *before;
        }
        name
    }

    /// Makes the root the direct parent of every name (path compression).
    pub(crate) fn settle(&mut self) {
        let names: Vec<u64> = self.before.keys().copied().collect();
        for name in names {
            self.first(name);
        }
    }

    /// Finds the root of a name, and makes it the direct parent of all names on the path.
    fn first(&mut self, name: u64) -> u64 {
        let mut first = name;
        while let Some(before) = self.before.get(&first).filter(|before| **before != first) {
            first = *before;
        }
        let mut next = name;
        while next != first {
            next = self.before.insert(next, first).unwrap_or(first);
        }
        self.before.insert(first, first);
        first
    }
}

#[cfg(test)]
mod tests {
    use super::Concepts;

    #[test]
    fn rows_that_share_a_name_are_one_concept() {
        let mut concepts = Concepts::default();
        let mut join = |names: &[&str]| concepts.join(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        join(&["en:guest", "de:gast"]);
        join(&["en:order", "de:bestellung"]);
        join(&["en:visitor", "de:besucher"]);
        join(&["de:besucher", "de:gast"]);
        join(&["en:order"]);
        join(&[]);
        concepts.settle();
        for name in ["de:gast", "en:visitor", "de:besucher"] {
            assert_eq!(concepts.of(name), concepts.of("en:guest"), "{name}");
        }
        assert_eq!(concepts.of("en:order"), concepts.of("de:bestellung"));
        assert_ne!(concepts.of("en:order"), concepts.of("en:guest"));
        assert_ne!(concepts.of("unknown"), concepts.of("en:guest"));
    }
}

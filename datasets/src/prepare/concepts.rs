//! Which rows of term bases are about the same concept.
//!
//! Responsible for: joining rows that share a name, so that the split keeps a concept on one side.
//! Must not depend on: what a row says.

use std::collections::BTreeMap;

use crate::stable_hash::stable_hash;

/// Concepts by their names, which are kept as hashes: 16 bytes a name.
#[derive(Debug, Default)]
pub(crate) struct Concepts {
    /// Another name of the same concept, nearer to the first one. The first one leads to itself.
    before: BTreeMap<u64, u64>,
}

impl Concepts {
    /// Notes that all names mean one concept.
    pub(crate) fn join(&mut self, names: &[String]) {
        let mut names = names.iter().map(stable_hash);
        let Some(first) = names.next() else { return };
        let first = self.first(first);
        for name in names {
            let other = self.first(name);
            self.before.insert(other, first);
        }
    }

    /// The number of the concept with this name, the same for all names that were joined.
    pub(crate) fn of(&self, name: &str) -> u64 {
        let mut name = stable_hash(name);
        while let Some(before) = self.before.get(&name).filter(|before| **before != name) {
            name = *before;
        }
        name
    }

    /// Makes every name lead to the first one at once.
    pub(crate) fn settle(&mut self) {
        let names: Vec<u64> = self.before.keys().copied().collect();
        for name in names {
            self.first(name);
        }
    }

    /// The first name of a concept. All names on the way to it lead to it from now on.
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
    fn names_that_rows_share_are_one_concept() {
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

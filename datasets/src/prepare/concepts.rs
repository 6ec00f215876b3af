//! Groups rows of term bases by concept.
//!
//! Responsible for: sets of concept names, so that the split keeps a concept on one side.
//! Must not depend on: the content of a row.

use super::disjoint_sets::DisjointSets;
use crate::stable_hash::stable_hash;

/// Sets of hashed names.
#[derive(Debug, Default)]
pub(crate) struct Concepts(DisjointSets);

impl Concepts {
    /// Merges all names into one concept.
    pub(crate) fn join(&mut self, names: &[String]) {
        let mut names = names.iter().map(stable_hash);
        let Some(first) = names.next() else { return };
        self.0.join(first, first);
        names.for_each(|name| self.0.join(first, name));
    }

    /// The id of the concept with this name. All merged names have the same id.
    pub(crate) fn of(&self, name: &str) -> u64 {
        self.0.root(stable_hash(name))
    }

    /// Makes later look-ups fast.
    pub(crate) fn settle(&mut self) {
        self.0.settle();
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

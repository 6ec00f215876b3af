//! Sets that grow by joining.
//!
//! Responsible for: a union-find over 64-bit keys. The root of the set that another joins stays the root.
//! Must not depend on: what the keys stand for.

use std::collections::BTreeMap;

/// Disjoint sets of keys, 16 bytes for each joined key. A key that was never joined is a set of its own.
#[derive(Debug, Default)]
pub(crate) struct DisjointSets {
    /// Key → parent. A root is its own parent.
    parents: BTreeMap<u64, u64>,
}

impl DisjointSets {
    /// The set of `other` joins the set of `key`.
    pub(crate) fn join(&mut self, key: u64, other: u64) {
        let (root, other) = (self.compress(key), self.compress(other));
        self.parents.insert(root, root);
        self.parents.insert(other, root);
    }

    /// The root of a key: equal for all keys of a set.
    pub(crate) fn root(&self, mut key: u64) -> u64 {
        while let Some(parent) = self.parents.get(&key).filter(|parent| **parent != key) {
            key = *parent;
        }
        key
    }

    /// Makes the root the direct parent of every key.
    pub(crate) fn settle(&mut self) {
        let keys: Vec<u64> = self.parents.keys().copied().collect();
        for key in keys {
            self.compress(key);
        }
    }

    /// Makes the root the direct parent of all keys on the path, and returns it (path compression).
    fn compress(&mut self, key: u64) -> u64 {
        let root = self.root(key);
        let mut next = key;
        while next != root {
            next = self.parents.insert(next, root).unwrap_or(root);
        }
        root
    }
}

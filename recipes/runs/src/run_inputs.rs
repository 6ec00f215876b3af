//! Fingerprints of all inputs of a run, as `run.json` stores them.
//!
//! Responsible for: comparing the inputs of a resumed run with those of its first start, input by input.
//! Must not depend on: the meaning of the inputs. `tonfall_adapters` computes the fingerprints of weights.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::run_dir::RunDirError;
use tonfall_durable::{hash_file, hex};

/// A fingerprint for each input, by the input's name in messages: `base weights`, `data file /data/a.jsonl`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunInputs(BTreeMap<String, String>);

impl RunInputs {
    /// Records an input whose fingerprint is known.
    pub fn record(&mut self, name: impl Into<String>, fingerprint: impl Into<String>) {
        self.0.insert(name.into(), fingerprint.into());
    }

    /// Records an input by the SHA-256 of its bytes.
    pub fn record_bytes(&mut self, name: impl Into<String>, bytes: &[u8]) {
        self.record(name, hex(&Sha256::digest(bytes)));
    }

    /// Records a file by the SHA-256 of its content.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn record_file(&mut self, name: impl Into<String>, path: &Path) -> Result<(), RunDirError> {
        let (_, digest) = hash_file(path).map_err(|source| RunDirError::Read { path: path.to_owned(), source })?;
        self.record(name, hex(&digest));
        Ok(())
    }

    /// The fingerprint of an input.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// All inputs with their fingerprints, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, fingerprint)| (name.as_str(), fingerprint.as_str()))
    }

    /// A hash of all inputs whose names start with `prefix`. `None` if there is none. It doesn't depend on their names.
    pub fn digest(&self, prefix: &str) -> Option<String> {
        let found: Vec<&String> =
            self.0.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, hash)| hash).collect();
        match found[..] {
            [] => None,
            [one] => Some(one.clone()),
            ref several => {
                let mut sorted = several.to_vec();
                sorted.sort();
                let text = sorted.into_iter().map(String::as_str).collect::<Vec<_>>().join("\n");
                Some(hex(&Sha256::digest(text)))
            }
        }
    }

    /// One line for each input of `now` that differs from the recorded one; empty if all inputs are the same. Skips
    /// inputs for which `ignored` returns true.
    pub fn changes(&self, now: &Self, ignored: impl Fn(&str) -> bool) -> Vec<String> {
        let names: BTreeSet<&String> = self.0.keys().chain(now.0.keys()).filter(|name| !ignored(name)).collect();
        let change = |name: &String| match (self.0.get(name), now.0.get(name)) {
            (Some(before), Some(now)) if before == now => None,
            (Some(_), Some(_)) => Some(format!("{name}: changed")),
            (Some(_), None) => Some(format!("{name}: no longer there")),
            (None, _) => Some(format!("{name}: new")),
        };
        names.into_iter().filter_map(change).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_named() {
        let mut before = RunInputs::default();
        before.record("base weights", "a");
        before.record_bytes("prompts", b"one");
        before.record_bytes("data file a.jsonl", b"x");
        let mut now = before.clone();
        assert_eq!(before.changes(&now, |_| false), Vec::<String>::new());
        now.record("base weights", "b");
        now.record_bytes("data file b.jsonl", b"y");
        now.0.remove("prompts");
        let changes = ["base weights: changed", "data file b.jsonl: new", "prompts: no longer there"];
        assert_eq!(before.changes(&now, |_| false), changes);
        assert_eq!(before.changes(&now, |name| name == "prompts"), changes[..2]);
    }

    #[test]
    fn a_file_has_the_fingerprint_of_its_bytes() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("a");
        tonfall_durable::write_file(&path, b"content").expect("written");
        let (mut file, mut bytes) = (RunInputs::default(), RunInputs::default());
        file.record_file("a", &path).expect("readable");
        bytes.record_bytes("a", b"content");
        assert_eq!(file, bytes);
        assert!(file.record_file("b", &dir.path().join("b")).is_err());
    }
}

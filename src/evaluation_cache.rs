//! Answers and losses of base models, so that a base is not asked the same questions again.
//!
//! Responsible for: files in the user's cache directory, each with the hash of its content. An entry that is damaged is
//! asked for again.
//! Must not depend on: models, measures.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tonfall_durable::{self as durable, hex};
use tonfall_trainer::Asked;

/// A cache entry: the place of its file, named by a hash of everything that the answers depend on.
pub(crate) struct Entry {
    path: PathBuf,
}

/// The result of reading an entry.
pub(crate) enum Found {
    Asked(Box<Asked>),
    Nothing,
    /// The file is not as it was written.
    Damaged(String),
}

impl Entry {
    /// The entry for `parts`: everything that decides what the model answers.
    pub(crate) fn of(directory: &Path, parts: &[&str]) -> Self {
        let mut digest = Sha256::new();
        for part in parts {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        Self { path: directory.join(format!("{}.json", hex(&digest.finalize()))) }
    }

    pub(crate) fn read(&self) -> Found {
        // Read errors other than a missing file are reported like damage: the base is asked again.
        let text = match std::fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Found::Nothing,
            Err(error) => return Found::Damaged(format!("{}: {error}", self.path.display())),
        };
        let damaged = |why: &str| Found::Damaged(format!("{}: {why}", self.path.display()));
        let Some((hash, content)) = text.split_once('\n') else { return damaged("it has no hash") };
        if hex(&Sha256::digest(content)) != hash {
            return damaged("its content is not the one of its hash");
        }
        match serde_json::from_str(content) {
            Ok(asked) => Found::Asked(Box::new(asked)),
            Err(error) => damaged(&error.to_string()),
        }
    }

    /// Writes the entry. Returns why it can't be written; the evaluation does not need it.
    pub(crate) fn write(&self, asked: &Asked) -> Result<(), String> {
        let content = serde_json::to_string(asked).map_err(|error| error.to_string())?;
        let text = format!("{}\n{content}", hex(&Sha256::digest(&content)));
        let directory = self.path.parent().unwrap_or(&self.path);
        let written =
            durable::create_dir_all(directory).and_then(|()| durable::write_file(&self.path, text.as_bytes()));
        written.map_err(|error| error.to_string())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test panics on purpose")]
mod tests {
    use tonfall_trainer::Answered;

    use super::*;

    #[test]
    fn entries_are_read_as_written_and_damage_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let entry = Entry::of(&dir.path().join("new"), &["base", "questions"]);
        let asked =
            Asked { answers: vec![Answered { text: "é\n".to_owned(), tokens: 2, ended: true }], ..Asked::default() };
        assert!(matches!(entry.read(), Found::Nothing));
        entry.write(&asked).unwrap();
        assert!(matches!(entry.read(), Found::Asked(found) if *found == asked));
        let other = Entry::of(&dir.path().join("new"), &["bas", "equestions"]);
        assert!(matches!(other.read(), Found::Nothing), "parts are not only concatenated");
        let text = std::fs::read_to_string(&entry.path).unwrap();
        for damaged in [text.replace("true", "false"), text[1..].to_owned(), String::new(), format!("{text} ")] {
            durable::write_file(&entry.path, damaged.as_bytes()).unwrap();
            assert!(matches!(entry.read(), Found::Damaged(_)), "{damaged}");
        }
    }
}

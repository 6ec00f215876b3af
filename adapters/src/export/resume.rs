//! Continues an export that was killed.
//!
//! Responsible for: the records of finished files, and the decision whether a file of a killed process is taken over.
//! Must not depend on: the file format.
//!
//! A file is recorded after it was verified and made durable. A later export with the same destination takes it over if the key of its
//! record is the same, and if the hashes of its tensors, which are read again, are those of the record. The key covers everything that
//! the file depends on. Exports of a single file start again: they are either published or unfinished.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tonfall_durable::{self as durable, DurableError, KEPT, hex};

use super::{Artifact, ExportError, ExportSettings, Trained};

/// Increased when the content of files changes without a change of the program's version.
const FORMAT: u32 = 1;

/// The finished files of a scratch directory.
pub(super) struct Resume {
    dir: PathBuf,
    /// What all files depend on. `None`: nothing is recorded.
    key: Option<String>,
}

/// What is known about a finished file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    key: String,
    /// The hash of all tensors, in hexadecimal digits.
    pub hash: String,
    /// Number of weights that training changed.
    pub changed: usize,
}

impl Resume {
    /// `files`: the number of weight files that the export writes.
    pub(super) fn new(artifact: &Artifact<'_>, settings: &ExportSettings, dir: &Path, files: usize) -> Self {
        let key = if files > 1 { key(artifact, settings) } else { None };
        Self { dir: dir.to_owned(), key }
    }

    /// Bytes of the files that are taken over, if their content proves right.
    pub(super) fn kept_bytes(&self) -> u64 {
        let sizes = fs::read_dir(self.dir.join(KEPT)).into_iter().flatten();
        sizes.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len())).sum()
    }

    /// Puts a file of a killed process to its place. `None` if there is none that was recorded for this export.
    ///
    /// # Errors
    /// If a file can't be read, moved or removed.
    pub(super) fn take(&self, path: &Path, header: &[u8]) -> Result<Option<Record>, ExportError> {
        let (kept, record) = (self.kept(path), self.record(path));
        let found = match fs::read(&record) {
            Ok(bytes) => serde_json::from_slice(&bytes).ok(),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(DurableError::new("read", &record, error).into()),
        };
        let found: Option<Record> = found.filter(|found: &Record| Some(&found.key) == self.key_of(header).as_ref());
        if found.is_none() || !kept.is_file() {
            self.drop_kept(path)?;
            return Ok(None);
        }
        durable::rename(&kept, path)?;
        Ok(found)
    }

    /// Records a finished file.
    ///
    /// # Errors
    /// If the record can't be written.
    pub(super) fn finished(
        &self,
        path: &Path,
        header: &[u8],
        hash: String,
        changed: usize,
    ) -> Result<(), DurableError> {
        let Some(key) = self.key_of(header) else { return Ok(()) };
        durable::create_dir_all(&self.dir.join(KEPT))?;
        let record = Record { key, hash, changed };
        let bytes = serde_json::to_vec(&record).unwrap_or_else(|_| unreachable!("texts and a number"));
        durable::write_file(&self.record(path), &bytes)
    }

    /// Removes a file that is not taken over, and its record.
    pub(super) fn drop_kept(&self, path: &Path) -> Result<(), DurableError> {
        durable::remove_file(&self.record(path))?;
        durable::remove_file(&self.kept(path))
    }

    fn key_of(&self, header: &[u8]) -> Option<String> {
        let key = self.key.as_ref()?;
        Some(hex(&Sha256::new().chain_update(key).chain_update(header).finalize()))
    }

    fn kept(&self, path: &Path) -> PathBuf {
        self.dir.join(KEPT).join(path.file_name().unwrap_or_default())
    }

    fn record(&self, path: &Path) -> PathBuf {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".json");
        self.dir.join(KEPT).join(name)
    }
}

/// A hash of everything that the tensors of an export depend on. `None` if that isn't known: trained weights are not hashed.
fn key(artifact: &Artifact<'_>, settings: &ExportSettings) -> Option<String> {
    let mut hash = Sha256::new();
    let mut add = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    add(&FORMAT.to_le_bytes());
    add(env!("CARGO_PKG_VERSION").as_bytes());
    add(artifact.base.config_fingerprint().as_bytes());
    add(artifact.base.weights_fingerprint().as_bytes());
    match artifact.trained {
        Trained::Nothing => {}
        Trained::Adapter(adapter) => {
            add(&adapter.config.to_json());
            for tensor in &adapter.tensors {
                add(tensor.name.as_bytes());
                add(&tensor.shape.map(|dim| (dim as u64).to_le_bytes()).concat());
                add(&values(&tensor.values));
            }
        }
        Trained::Full(_) => return None,
    }
    for (name, (sums, tokens)) in settings.importance.iter().flat_map(|importance| &importance.weights) {
        add(name.as_bytes());
        add(&tokens.to_le_bytes());
        add(&values(sums));
    }
    Some(hex(&hash.finalize()))
}

fn values(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

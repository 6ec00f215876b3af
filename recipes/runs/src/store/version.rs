//! A version: its record, its files, and the record of an unfinished publication.
//!
//! Must not depend on: the manifest, which version is current.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tonfall_durable::{self as durable, DurableError};

use super::{StoreError, is_own, manifest};
use crate::run_dir::{RunDirError, read_text};

pub(super) const INFO: &str = "version.json";
pub(super) const PENDING: &str = "pending.json";
const FORMAT: u32 = 1;
const MAX_INFO: u64 = 1 << 20;

/// The content of `version.json`. Readers ignore unknown fields; a new field needs a default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    pub format: u32,
    pub number: u64,
    /// The version that was current when this one was written.
    pub previous: Option<u64>,
    /// UTC, to the second.
    pub created: String,
    /// The run that it was made by.
    pub run: String,
    /// Hash of recipe, base and data, by which a nightly run recognises what it has trained already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Hashes of everything that it was made from.
    pub lineage: BTreeMap<String, String>,
}

/// What a new version consists of.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    pub run: String,
    pub key: Option<String>,
    pub lineage: BTreeMap<String, String>,
    /// Files to copy, by their path in the version.
    pub files: BTreeMap<String, PathBuf>,
}

impl Contents {
    /// Adds a directory with everything in it, under the path `name` in the version.
    ///
    /// # Errors
    /// If a directory can't be read, or a name is not UTF-8.
    pub fn add_dir(&mut self, name: &str, dir: &Path) -> Result<(), StoreError> {
        let failed = |source| StoreError::Read { path: dir.to_owned(), source };
        for entry in fs::read_dir(dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let Some(file) = path.file_name().and_then(|file| file.to_str()) else {
                let name = path.to_string_lossy().into_owned();
                return Err(StoreError::FileName { path: dir.to_owned(), name });
            };
            let inner = format!("{name}/{file}");
            match path.is_dir() {
                true => self.add_dir(&inner, &path)?,
                false => drop(self.files.insert(inner, path)),
            }
        }
        Ok(())
    }

    pub(super) fn write(&self, dir: &Path, number: u64, previous: Option<u64>) -> Result<(), StoreError> {
        for (name, source) in &self.files {
            if !manifest::is_inside(name) || is_own(name) {
                return Err(StoreError::FileName { path: dir.to_owned(), name: name.clone() });
            }
            let path = dir.join(name);
            durable::create_dir_all(path.parent().unwrap_or(dir))?;
            durable::copy_file(source, &path)?;
        }
        let version = Version {
            format: FORMAT,
            number,
            previous,
            created: format!("{:.0}", Timestamp::now()),
            run: self.run.clone(),
            key: self.key.clone(),
            lineage: self.lineage.clone(),
        };
        let text = serde_json::to_vec_pretty(&version).expect("texts and numbers");
        Ok(durable::write_file(&dir.join(INFO), &text)?)
    }
}

impl Version {
    pub(super) fn read(dir: &Path, number: u64) -> Result<Self, StoreError> {
        let path = dir.join(INFO);
        let text = read_text(&path, MAX_INFO)?;
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let damaged = |why: String| StoreError::Record(RunDirError::Damaged { path: path.clone(), why });
        let format: Format = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
        if format.format != FORMAT {
            return Err(StoreError::Format { path, found: format.format });
        }
        let version: Self = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
        match version.number == number {
            true => Ok(version),
            false => Err(damaged(format!("it is the record of version {}", version.number))),
        }
    }
}

/// A change of the current version that may not have reached all servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    pub from: Option<u64>,
    pub to: u64,
}

impl Pending {
    pub(super) fn write(self, path: &Path) -> Result<(), DurableError> {
        durable::write_file(path, &serde_json::to_vec(&self).expect("numbers"))
    }

    pub(super) fn read(path: &Path) -> Result<Option<Self>, StoreError> {
        match read_text(path, MAX_INFO) {
            Err(RunDirError::Read { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
            text => {
                let damaged =
                    |error: serde_json::Error| RunDirError::Damaged { path: path.to_owned(), why: error.to_string() };
                Ok(Some(serde_json::from_str(&text?).map_err(damaged)?))
            }
        }
    }
}

//! The manifest of a version: size and SHA-256 of each file.
//!
//! Must not depend on: the content of the files.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};
use tonfall_durable::{self as durable, DurableError, FileRecord};

use super::StoreError;
use crate::checkpoint_dir::{Damage, verify_file};
use crate::run_dir::{RunDirError, read_text};

pub(super) const MANIFEST: &str = "MANIFEST.json";
const FORMAT: u32 = 1;
/// A version has some hundred files at most, those of a sharded model.
const MAX_MANIFEST: u64 = 1 << 22;

#[derive(Serialize, Deserialize)]
struct Manifest {
    format: u32,
    /// By path below the version, with `/`.
    files: BTreeMap<String, FileRecord>,
}

/// Writes the manifest of everything in a scratch directory. It is the last file of a version.
pub(super) fn write(dir: &Path) -> Result<(), StoreError> {
    let mut files = BTreeMap::new();
    record(dir, "", &mut files)?;
    let text = serde_json::to_vec_pretty(&Manifest { format: FORMAT, files }).expect("texts and numbers");
    Ok(durable::write_file(&dir.join(MANIFEST), &text)?)
}

fn record(dir: &Path, prefix: &str, files: &mut BTreeMap<String, FileRecord>) -> Result<(), StoreError> {
    let failed = |source| StoreError::Read { path: dir.to_owned(), source };
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        match entry.file_type().map_err(failed)?.is_dir() {
            true => record(&entry.path(), &format!("{name}/"), files)?,
            false => drop(files.insert(name, FileRecord::of(&entry.path()).map_err(failed)?)),
        }
    }
    Ok(())
}

/// Compares every file with the manifest. Other files are not part of the version.
pub(super) fn verify(dir: &Path) -> Result<(), Damage> {
    let read = |name: &str, source| Damage::Read { name: name.to_owned(), source };
    let text = match read_text(&dir.join(MANIFEST), MAX_MANIFEST) {
        Err(RunDirError::Read { source, .. }) if source.kind() == ErrorKind::NotFound => {
            return Err(Damage::NoManifest);
        }
        Err(RunDirError::Read { source, .. }) => return Err(read(MANIFEST, source)),
        text => text.map_err(|error| Damage::Manifest(error.to_string()))?,
    };
    let manifest: Manifest = serde_json::from_str(&text).map_err(|error| Damage::Manifest(error.to_string()))?;
    if manifest.format != FORMAT {
        return Err(Damage::Format(manifest.format));
    }
    for (name, expected) in &manifest.files {
        if !is_inside(name) {
            return Err(Damage::FileName(name.clone()));
        }
        verify_file(dir, name, expected)?;
    }
    Ok(())
}

/// Removes a version, its manifest first.
pub(super) fn remove(dir: &Path) -> Result<(), DurableError> {
    durable::remove_file(&dir.join(MANIFEST))?;
    durable::remove_dir(dir)
}

/// Whether a path stays in the directory that it is relative to.
pub(super) fn is_inside(name: &str) -> bool {
    let plain = |component| matches!(component, Component::Normal(_));
    !name.is_empty() && !name.contains('\\') && Path::new(name).components().all(plain)
}

//! Checkpoint directories.
//!
//! Responsible for: `checkpoints/step-NNNNNN/` and its manifest, the pointers `latest` and `best`, and pruning.
//! Must not depend on: the content of the files of a checkpoint.
//!
//! A checkpoint counts only if its manifest verifies. The manifest is written last and removed first, so an incomplete
//! directory never counts. Pointers are hints: a wrong pointer does no harm.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tonfall_durable::{self as durable, DurableError, FileRecord, ScratchDir};

use crate::run_dir::RunDir;

/// Version of the manifest.
pub const FORMAT: u32 = 1;

const MANIFEST: &str = "MANIFEST.json";
const LATEST: &str = "latest";
const BEST: &str = "best";
/// Maximum bytes of a manifest, which lists a few files.
const MAX_MANIFEST: u64 = 1 << 20;

/// The files of a checkpoint, and the plan and step that it belongs to. Readers ignore unknown fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    pub step: u64,
    pub plan_hash: String,
    /// The files by name. Other files in the directory are not part of the checkpoint.
    pub files: BTreeMap<String, FileRecord>,
}

/// The damage of a checkpoint.
#[derive(Debug, Error)]
pub enum Damage {
    #[error("it has no {MANIFEST}: it was never completed, or was removed in part")]
    NoManifest,
    #[error("its {MANIFEST} is not a manifest: {0}")]
    Manifest(String),
    #[error("its format is {0}, this tonfall reads {FORMAT}")]
    Format(u32),
    #[error("its {MANIFEST} lists {0:?}, which is not a plain file name")]
    FileName(String),
    #[error("{0} is missing")]
    Missing(String),
    #[error("{name} has {found} bytes, but {expected} were written")]
    Size { name: String, expected: u64, found: u64 },
    #[error("the content of {0} has changed (its SHA-256 differs)")]
    Content(String),
    #[error("its {MANIFEST} is of step {found}, its directory of step {expected}")]
    Step { expected: u64, found: u64 },
    #[error("it belongs to another plan")]
    Plan,
    #[error("{name}: can't read: {source}")]
    Read { name: String, source: io::Error },
}

/// Why a checkpoint can't be written or used.
#[derive(Debug, Error)]
pub enum CheckpointError {
    #[error("checkpoint {path}: {damage}", path = path.display())]
    Damaged { path: PathBuf, damage: Damage },

    #[error("checkpoint {path}: {name:?} is not a plain file with a UTF-8 name", path = path.display())]
    NotAFile { path: PathBuf, name: String },

    #[error("{path}: can't read: {source}", path = path.display())]
    Read { path: PathBuf, source: io::Error },

    #[error(transparent)]
    Durable(#[from] DurableError),
}

/// A checkpoint whose files match its manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    pub path: PathBuf,
    pub manifest: Manifest,
}

/// Writes a checkpoint in a scratch directory and publishes it in one step. If it is dropped before that, the scratch
/// directory is removed.
#[derive(Debug)]
pub struct CheckpointWriter {
    scratch: ScratchDir,
    directory: PathBuf,
    step: u64,
    plan_hash: String,
}

impl CheckpointWriter {
    /// Starts a checkpoint at optimizer step `step`. The caller holds the lock of the run.
    ///
    /// # Errors
    /// If no directory can be created.
    pub fn create(run: &RunDir, step: u64) -> Result<Self, CheckpointError> {
        let directory = run.checkpoints();
        durable::create_dir_all(&directory)?;
        durable::remove_scratch(&directory)?;
        let scratch = ScratchDir::beside(&directory.join(directory_name(step)))?;
        Ok(Self { scratch, directory, step, plan_hash: run.info().plan_hash.clone() })
    }

    /// The directory to write files into. It must not get subdirectories.
    pub fn dir(&self) -> &Path {
        self.scratch.path()
    }

    /// Writes the manifest, publishes the checkpoint, and sets the pointer `latest`, and `best` if `best` is true.
    /// Removes all checkpoints but the `keep` newest and the best. Returns the directory of the checkpoint.
    ///
    /// # Errors
    /// If something can't be written; no incomplete checkpoint is left.
    pub fn publish(self, best: bool, keep: usize) -> Result<PathBuf, CheckpointError> {
        let files = records(self.dir())?;
        let manifest = Manifest { format: FORMAT, step: self.step, plan_hash: self.plan_hash, files };
        write_manifest(self.scratch.path(), &manifest)?;
        let name = directory_name(self.step);
        let path = self.directory.join(&name);
        // A run continues from its newest valid checkpoint. So an existing checkpoint of this step is damaged or
        // identical.
        remove(&path)?;
        self.scratch.publish()?;
        if best {
            durable::write_file(&self.directory.join(BEST), format!("{name}\n").as_bytes())?;
        }
        durable::write_file(&self.directory.join(LATEST), format!("{name}\n").as_bytes())?;
        prune(&self.directory, keep)?;
        Ok(path)
    }
}

/// Writes the manifest of a checkpoint directory.
///
/// # Errors
/// If it can't be written.
pub fn write_manifest(dir: &Path, manifest: &Manifest) -> Result<(), DurableError> {
    let text = serde_json::to_vec_pretty(manifest).expect("texts and numbers");
    durable::write_file(&dir.join(MANIFEST), &text)
}

/// Reads every file of a checkpoint and compares it with the manifest.
///
/// # Errors
/// The first damage found.
pub fn verify(dir: &Path) -> Result<Manifest, Damage> {
    let text = match File::open(dir.join(MANIFEST)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(Damage::NoManifest),
        Err(source) => return Err(Damage::Read { name: MANIFEST.to_owned(), source }),
        Ok(file) => {
            let mut text = Vec::new();
            let read = file.take(MAX_MANIFEST + 1).read_to_end(&mut text);
            read.map_err(|source| Damage::Read { name: MANIFEST.to_owned(), source })?;
            text
        }
    };
    if text.len() as u64 > MAX_MANIFEST {
        return Err(Damage::Manifest(format!("longer than {MAX_MANIFEST} bytes")));
    }
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|error| Damage::Manifest(error.to_string()))?;
    if manifest.format != FORMAT {
        return Err(Damage::Format(manifest.format));
    }
    for (name, record) in &manifest.files {
        // A name with a separator or `..` could point outside the directory.
        if Path::new(name).file_name() != Some(name.as_ref()) || name.contains('\\') {
            return Err(Damage::FileName(name.to_owned()));
        }
        verify_file(dir, name, record)?;
    }
    Ok(manifest)
}

/// Compares a file with its record. The caller checks that `name` stays inside `dir`.
pub(crate) fn verify_file(dir: &Path, name: &str, expected: &FileRecord) -> Result<(), Damage> {
    let failed = |source| Damage::Read { name: name.to_owned(), source };
    let path = dir.join(name);
    let found = match path.symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(Damage::Missing(name.to_owned())),
        other => other.map_err(failed)?,
    };
    if !found.is_file() {
        return Err(Damage::FileName(name.to_owned()));
    }
    if found.len() != expected.size {
        return Err(Damage::Size { name: name.to_owned(), expected: expected.size, found: found.len() });
    }
    match FileRecord::of(&path).map_err(failed)? == *expected {
        true => Ok(()),
        false => Err(Damage::Content(name.to_owned())),
    }
}

/// The newest checkpoint of a run that verifies and belongs to its plan, and the faults of newer checkpoints. Pointers
/// are not used.
///
/// # Errors
/// If the directory of checkpoints can't be read.
pub fn latest_verified(run: &RunDir) -> Result<(Option<Verified>, Vec<CheckpointError>), CheckpointError> {
    let mut damaged = Vec::new();
    for (step, path) in steps(&run.checkpoints())?.into_iter().rev() {
        match verify_of(run, step, &path) {
            Ok(manifest) => return Ok((Some(Verified { path, manifest }), damaged)),
            Err(damage) => damaged.push(CheckpointError::Damaged { path, damage }),
        }
    }
    Ok((None, damaged))
}

/// The checkpoint of the pointer `best`, if it verifies and belongs to the plan of the run.
///
/// # Errors
/// Its damage.
pub fn best_verified(run: &RunDir) -> Result<Option<Verified>, CheckpointError> {
    let Some((step, name)) = pointer(&run.checkpoints(), BEST) else { return Ok(None) };
    let path = run.checkpoints().join(name);
    match verify_of(run, step, &path) {
        Ok(manifest) => Ok(Some(Verified { path, manifest })),
        Err(damage) => Err(CheckpointError::Damaged { path, damage }),
    }
}

/// Sets the pointer `best` to the checkpoint of `step`, after an evaluation of a published checkpoint, and prunes like
/// [`CheckpointWriter::publish`]. The caller holds the run's lock.
///
/// # Errors
/// If the pointer can't be written or an old checkpoint can't be removed.
pub fn mark_best(run: &RunDir, step: u64, keep: usize) -> Result<(), CheckpointError> {
    let directory = run.checkpoints();
    durable::write_file(&directory.join(BEST), format!("{}\n", directory_name(step)).as_bytes())?;
    prune(&directory, keep)
}

fn verify_of(run: &RunDir, step: u64, path: &Path) -> Result<Manifest, Damage> {
    let manifest = verify(path)?;
    if manifest.step != step {
        return Err(Damage::Step { expected: step, found: manifest.step });
    }
    if manifest.plan_hash != run.info().plan_hash {
        return Err(Damage::Plan);
    }
    Ok(manifest)
}

/// Removes all checkpoints but the `keep` newest and those that a pointer names, oldest first.
fn prune(directory: &Path, keep: usize) -> Result<(), CheckpointError> {
    let pinned = [LATEST, BEST].map(|name| pointer(directory, name).map(|(step, _)| step));
    let mut found = steps(directory)?;
    found.truncate(found.len().saturating_sub(keep));
    for (_, path) in found.iter().filter(|(step, _)| !pinned.contains(&Some(*step))) {
        remove(path)?;
    }
    Ok(())
}

/// Removes a checkpoint. Removes its manifest first, so that an interrupted removal leaves no valid checkpoint.
fn remove(dir: &Path) -> Result<(), DurableError> {
    durable::remove_file(&dir.join(MANIFEST))?;
    durable::remove_dir(dir)
}

/// The checkpoint directories by step, valid or not.
fn steps(directory: &Path) -> Result<Vec<(u64, PathBuf)>, CheckpointError> {
    let failed = |source| CheckpointError::Read { path: directory.to_owned(), source };
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if let Some(step) = path.file_name().and_then(|name| step_of(&name.to_string_lossy())) {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Step and name of the checkpoint that a pointer names.
fn pointer(directory: &Path, name: &str) -> Option<(u64, String)> {
    let mut text = String::new();
    File::open(directory.join(name)).ok()?.take(64).read_to_string(&mut text).ok()?;
    let target = text.trim_end();
    Some((step_of(target)?, target.to_owned()))
}

fn directory_name(step: u64) -> String {
    format!("step-{step:06}")
}

fn step_of(name: &str) -> Option<u64> {
    let step = name.strip_prefix("step-")?.parse().ok()?;
    // Only one spelling is accepted, so that no step has two directories.
    (directory_name(step) == name).then_some(step)
}

/// Size and hash of every file in `dir`.
fn records(dir: &Path) -> Result<BTreeMap<String, FileRecord>, CheckpointError> {
    let failed = |source| CheckpointError::Read { path: dir.to_owned(), source };
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !entry.file_type().map_err(failed)?.is_file() || entry.file_name().to_str().is_none() {
            return Err(CheckpointError::NotAFile { path: dir.to_owned(), name });
        }
        files.insert(name, FileRecord::of(&entry.path()).map_err(failed)?);
    }
    Ok(files)
}

#[cfg(test)]
mod tests;

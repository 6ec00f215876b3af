//! Checkpoints as directories that verify.
//!
//! Responsible for: `checkpoints/step-NNNNNN/` and its manifest, the pointers `latest` and `best`, and pruning.
//! Must not depend on: what the files of a checkpoint hold.
//!
//! A checkpoint exists only if its manifest verifies. The manifest is written last and removed first, so that a directory
//! that is being made or removed never counts. Pointers are hints: a pointer that lies changes nothing.

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
/// A manifest names a handful of files.
const MAX_MANIFEST: u64 = 1 << 20;

/// The files of a checkpoint and what it belongs to. Readers ignore fields that they don't know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    pub step: u64,
    pub plan_hash: String,
    /// By name. Files that don't stand here are no part of the checkpoint.
    pub files: BTreeMap<String, FileRecord>,
}

/// What is wrong with a checkpoint.
#[derive(Debug, Error)]
pub enum Damage {
    #[error("it has no {MANIFEST}: it was never completed, or is half removed")]
    NoManifest,
    #[error("its {MANIFEST} is no manifest: {0}")]
    Manifest(String),
    #[error("its format is {0}, this tonfall reads {FORMAT}")]
    Format(u32),
    #[error("it names the file {0:?}, which is not a plain file name")]
    FileName(String),
    #[error("{0} is missing")]
    Missing(String),
    #[error("{name} has {found} bytes, {expected} were written")]
    Size { name: String, expected: u64, found: u64 },
    #[error("the content of {0} is not what was written (SHA-256 differs)")]
    Content(String),
    #[error("it says to be of step {found}, its directory says {expected}")]
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

/// A checkpoint that verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    pub path: PathBuf,
    pub manifest: Manifest,
}

/// Builds a checkpoint out of sight and publishes it whole. Dropped unpublished, it leaves nothing behind.
#[derive(Debug)]
pub struct CheckpointWriter {
    scratch: ScratchDir,
    directory: PathBuf,
    step: u64,
    plan_hash: String,
}

impl CheckpointWriter {
    /// A checkpoint of the optimizer step `step`. The caller holds the run's lock.
    ///
    /// # Errors
    /// When no directory can be made.
    pub fn create(run: &RunDir, step: u64) -> Result<Self, CheckpointError> {
        let directory = run.checkpoints();
        durable::create_dir_all(&directory)?;
        durable::remove_scratch(&directory)?;
        let scratch = ScratchDir::beside(&directory.join(directory_name(step)))?;
        Ok(Self { scratch, directory, step, plan_hash: run.info().plan_hash.clone() })
    }

    /// Where to write the files, no directories.
    pub fn dir(&self) -> &Path {
        self.scratch.path()
    }

    /// Completes the checkpoint with its manifest, publishes it, points `latest` and, if `best`, `best` at it, and prunes
    /// all but the `keep` newest and the best. Returns its directory.
    ///
    /// # Errors
    /// When something can't be written; nothing half-written stays then.
    pub fn publish(self, best: bool, keep: usize) -> Result<PathBuf, CheckpointError> {
        let files = records(self.dir())?;
        let manifest = Manifest { format: FORMAT, step: self.step, plan_hash: self.plan_hash, files };
        write_manifest(self.scratch.path(), &manifest)?;
        let name = directory_name(self.step);
        let path = self.directory.join(&name);
        // A run goes on from its newest valid checkpoint, so one of this step is damaged, or the same again.
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

/// Makes a directory of files a checkpoint.
///
/// # Errors
/// When it can't be written.
pub fn write_manifest(dir: &Path, manifest: &Manifest) -> Result<(), DurableError> {
    let text = serde_json::to_vec_pretty(manifest).expect("texts and numbers");
    durable::write_file(&dir.join(MANIFEST), &text)
}

/// Reads every file of a checkpoint and compares it with the manifest.
///
/// # Errors
/// The first damage that is found.
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
        verify_file(dir, name, record)?;
    }
    Ok(manifest)
}

fn verify_file(dir: &Path, name: &str, expected: &FileRecord) -> Result<(), Damage> {
    // A name with a separator or a parent in it would leave the directory.
    if Path::new(name).file_name() != Some(name.as_ref()) || name.contains('\\') {
        return Err(Damage::FileName(name.to_owned()));
    }
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

/// The newest checkpoint of a run that verifies and belongs to its plan, and what is wrong with newer ones. Pointers are
/// not consulted.
///
/// # Errors
/// When the directory of checkpoints can't be read.
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

/// The checkpoint that the pointer `best` names, if it verifies and belongs to the run's plan.
///
/// # Errors
/// What is wrong with it.
pub fn best_verified(run: &RunDir) -> Result<Option<Verified>, CheckpointError> {
    let Some((step, name)) = pointer(&run.checkpoints(), BEST) else { return Ok(None) };
    let path = run.checkpoints().join(name);
    match verify_of(run, step, &path) {
        Ok(manifest) => Ok(Some(Verified { path, manifest })),
        Err(damage) => Err(CheckpointError::Damaged { path, damage }),
    }
}

/// Points `best` at the checkpoint of `step`, for an evaluation that came after it was published, and prunes as
/// [`CheckpointWriter::publish`] does. The caller holds the run's lock.
///
/// # Errors
/// When the pointer can't be written or an old checkpoint can't be removed.
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

/// Removes checkpoints, oldest first, until the `keep` newest are left, and those that a pointer names.
fn prune(directory: &Path, keep: usize) -> Result<(), CheckpointError> {
    let pinned = [LATEST, BEST].map(|name| pointer(directory, name).map(|(step, _)| step));
    let mut found = steps(directory)?;
    found.truncate(found.len().saturating_sub(keep));
    for (_, path) in found.iter().filter(|(step, _)| !pinned.contains(&Some(*step))) {
        remove(path)?;
    }
    Ok(())
}

/// Removes a checkpoint: the manifest first, so that what is left after a kill doesn't count.
fn remove(dir: &Path) -> Result<(), DurableError> {
    durable::remove_file(&dir.join(MANIFEST))?;
    durable::remove_dir(dir)
}

/// The checkpoint directories, whatever is in them, by step.
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

/// What a pointer names, if that is the name of a checkpoint.
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
    // Only the one spelling, so that no step has two directories.
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

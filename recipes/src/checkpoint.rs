//! Checkpoints: directories that count only if their manifest verifies.
//!
//! Responsible for: publishing, verifying, finding and pruning checkpoints.
//! Must not depend on: what the files inside mean.
//!
//! The manifest is written last and removed first, so that a directory without one is never taken for a checkpoint.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::durable::{self, DurableError, ScratchDir};
use crate::run_dir::RunDir;

const MANIFEST: &str = "MANIFEST.json";
const FORMAT: u32 = 1;

/// What a checkpoint consists of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    pub step: u64,
    pub plan_hash: String,
    pub files: BTreeMap<String, FileRecord>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    pub size: u64,
    /// Hexadecimal.
    pub sha256: String,
}

/// Why a directory is not a valid checkpoint, or could not become one.
#[derive(Debug, Error)]
pub enum CheckpointError {
    #[error(transparent)]
    Durable(#[from] DurableError),
    #[error("{path} has no readable manifest: {why}; it is not a checkpoint")]
    NoManifest { path: PathBuf, why: String },
    #[error("{path}: {file} is damaged: {why}; resume from an earlier checkpoint")]
    Damaged { path: PathBuf, file: String, why: String },
    #[error("{path} belongs to another plan ({found}, this run has {expected}); resume with the run's own plan.toml")]
    OtherPlan { path: PathBuf, expected: String, found: String },
}

/// A checkpoint in the making.
#[derive(Debug)]
pub struct CheckpointWriter<'a> {
    run: &'a RunDir,
    scratch: ScratchDir,
    step: u64,
    plan_hash: String,
}

impl<'a> CheckpointWriter<'a> {
    /// Begins the checkpoint of a step.
    ///
    /// # Errors
    /// When the scratch directory can't be made.
    pub fn create(run: &'a RunDir, step: u64, plan_hash: &str) -> Result<Self, CheckpointError> {
        let scratch = ScratchDir::beside(&run.checkpoints().join(name(step)))?;
        Ok(Self { run, scratch, step, plan_hash: plan_hash.to_owned() })
    }

    /// Where the files go.
    pub fn dir(&self) -> &Path {
        self.scratch.path()
    }

    /// Writes the manifest, gives the directory its name, moves the pointers and prunes all but the `keep` newest.
    ///
    /// # Errors
    /// When a file can't be read back or written.
    pub fn publish(self, best: bool, keep: usize) -> Result<PathBuf, CheckpointError> {
        let files = records(self.scratch.path())?;
        let manifest = Manifest { format: FORMAT, step: self.step, plan_hash: self.plan_hash, files };
        let text = serde_json::to_vec_pretty(&manifest)
            .map_err(|error| DurableError { path: self.scratch.path().join(MANIFEST), source: error.into() })?;
        durable::write_file(&self.scratch.path().join(MANIFEST), &text)?;
        let path = self.scratch.publish()?;
        let folder = self.run.checkpoints();
        durable::write_file(&folder.join("latest"), name(self.step).as_bytes())?;
        if best {
            durable::write_file(&folder.join("best"), name(self.step).as_bytes())?;
        }
        prune(&folder, keep)?;
        Ok(path)
    }
}

/// Name of the checkpoint of a step.
pub fn name(step: u64) -> String {
    format!("step-{step:06}")
}

/// Checks every file of a checkpoint against its manifest.
///
/// # Errors
/// Names the first file that is missing, extra, cut or altered.
pub fn verify(path: &Path) -> Result<Manifest, CheckpointError> {
    let unreadable = |why: String| CheckpointError::NoManifest { path: path.to_owned(), why };
    let text = fs::read(path.join(MANIFEST)).map_err(|error| unreadable(error.to_string()))?;
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|error| unreadable(error.to_string()))?;
    if manifest.format != FORMAT {
        return Err(unreadable(format!("format {} is not known to this version", manifest.format)));
    }
    let damaged =
        |file: &str, why: String| CheckpointError::Damaged { path: path.to_owned(), file: file.to_owned(), why };
    for (file, expected) in &manifest.files {
        if file.contains(['/', '\\']) || file == ".." {
            return Err(damaged(file, "its name leaves the directory".to_owned()));
        }
        let found = record(&path.join(file)).map_err(|error| damaged(file, error.to_string()))?;
        if found.size != expected.size {
            return Err(damaged(file, format!("{} bytes instead of {}", found.size, expected.size)));
        }
        if found.sha256 != expected.sha256 {
            return Err(damaged(file, "its content changed".to_owned()));
        }
    }
    Ok(manifest)
}

/// A checkpoint that verifies: its step and directory.
pub type Verified = (u64, PathBuf);

/// The newest checkpoint that verifies, with the faults of newer ones that don't. Pointers are not trusted.
///
/// # Errors
/// When a valid checkpoint belongs to another plan.
pub fn latest_verified(
    run: &RunDir,
    plan_hash: &str,
) -> Result<(Option<Verified>, Vec<CheckpointError>), CheckpointError> {
    let mut faults = Vec::new();
    for (step, path) in list(&run.checkpoints()).into_iter().rev() {
        match verify(&path) {
            Ok(manifest) if manifest.plan_hash == plan_hash => return Ok((Some((step, path)), faults)),
            Ok(manifest) => {
                return Err(CheckpointError::OtherPlan {
                    path,
                    expected: plan_hash.to_owned(),
                    found: manifest.plan_hash,
                });
            }
            Err(fault) => faults.push(fault),
        }
    }
    Ok((None, faults))
}

/// Checkpoint directories by step, verified or not.
fn list(folder: &Path) -> Vec<(u64, PathBuf)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<(u64, PathBuf)> = entries
        .filter_map(|entry| {
            let step = entry.file_name().to_str()?.strip_prefix("step-")?.parse().ok()?;
            Some((step, entry.path()))
        })
        .collect();
    found.sort();
    found
}

/// Removes all but the newest `keep` and the best.
fn prune(folder: &Path, keep: usize) -> Result<(), CheckpointError> {
    let best = fs::read_to_string(folder.join("best")).unwrap_or_default();
    let mut all = list(folder);
    all.truncate(all.len().saturating_sub(keep.max(1)));
    for (step, path) in all.into_iter().filter(|(step, _)| name(*step) != best.trim()) {
        let manifest = folder.join(name(step)).join(MANIFEST);
        if manifest.exists() {
            durable::remove_file(&manifest)?;
        }
        durable::remove_dir(&path)?;
    }
    Ok(())
}

fn records(folder: &Path) -> Result<BTreeMap<String, FileRecord>, DurableError> {
    let fail = |source| DurableError { path: folder.to_owned(), source };
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let file = entry.file_name().to_string_lossy().into_owned();
        files.insert(file, record(&entry.path()).map_err(fail)?);
    }
    Ok(files)
}

fn record(path: &Path) -> io::Result<FileRecord> {
    let mut file = File::open(path)?;
    let (mut digest, mut size, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => {
                digest.update(&buffer[..count]);
                size += count as u64;
            }
        }
    }
    let sha256 = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(FileRecord { size, sha256 })
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests damage files on purpose")]
mod tests {
    use super::*;
    use crate::recipe;

    fn run(folder: &Path) -> (RunDir, String) {
        fs::write(folder.join("base"), "x").expect("write");
        let text = format!("base = \"base\"\ndata.train = \"base\"\noutput_dir = {:?}\n", folder.join("runs"));
        let plan = recipe::resolve("r.toml", &text, &[], folder, "r").expect("valid");
        (RunDir::create(&plan, &text, "0").expect("run"), plan.hash())
    }

    fn save(run: &RunDir, step: u64, hash: &str, best: bool) -> PathBuf {
        let writer = CheckpointWriter::create(run, step, hash).expect("create");
        durable::write_file(&writer.dir().join("a.bin"), &step.to_le_bytes()).expect("write");
        durable::write_file(&writer.dir().join("b.bin"), b"second").expect("write");
        writer.publish(best, 2).expect("publish")
    }

    #[test]
    fn only_what_verifies_counts() {
        let folder = tempfile::tempdir().expect("temporary directory");
        let (run, hash) = run(folder.path());
        let (first, second) = (save(&run, 1, &hash, false), save(&run, 2, &hash, false));
        assert_eq!(latest_verified(&run, &hash).expect("found").0, Some((2, second.clone())));
        for damage in [&b""[..], b"secone", b"second and more"] {
            fs::write(second.join("b.bin"), damage).expect("write");
            let (found, faults) = latest_verified(&run, &hash).expect("found");
            assert_eq!((found, faults.len()), (Some((1, first.clone())), 1));
        }
        fs::remove_file(second.join(MANIFEST)).expect("remove");
        assert_eq!(latest_verified(&run, &hash).expect("found").0, Some((1, first)));
        let other = latest_verified(&run, "another").expect_err("another plan");
        assert!(matches!(other, CheckpointError::OtherPlan { .. }), "{other}");
    }

    #[test]
    fn pruning_keeps_the_newest_and_the_best() {
        let folder = tempfile::tempdir().expect("temporary directory");
        let (run, hash) = run(folder.path());
        for step in 1..=5 {
            save(&run, step, &hash, step == 2);
        }
        let steps: Vec<u64> = list(&run.checkpoints()).into_iter().map(|(step, _)| step).collect();
        assert_eq!(steps, [2, 4, 5]);
    }

    #[test]
    fn a_held_run_is_busy_and_running() {
        let folder = tempfile::tempdir().expect("temporary directory");
        let (run, _) = run(folder.path());
        let lock = run.lock().expect("free");
        assert!(run.is_held() && matches!(run.lock(), Err(crate::RunError::Busy(_))));
        assert_eq!(run.state(), crate::RunState::Running);
        drop(lock);
        assert!(!run.is_held());
        assert_eq!(run.state(), crate::RunState::Interrupted);
    }
}

//! The run directory: where a run lies and who holds it.
//!
//! Responsible for: making, finding and locking run directories, and telling their state.
//! Must not depend on: what a run does.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::durable::{self, DurableError};
use crate::events::{EventKind, EventReader};
use crate::plan::Plan;

/// Why a run directory can't be used.
#[derive(Debug, Error)]
pub enum RunError {
    #[error(transparent)]
    Durable(#[from] DurableError),
    #[error("{0} is not a run directory (it has no run.json); `tonfall runs` lists the runs")]
    NotARun(PathBuf),
    #[error("{path} is damaged: {why}")]
    Damaged { path: PathBuf, why: String },
    #[error("the run {0} is held by another process; wait for it, or ask it to stop with the file stop.request")]
    Busy(PathBuf),
}

/// What `run.json` says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    pub format: u32,
    pub id: String,
    /// Seconds since 1970-01-01 UTC.
    pub created: f64,
    pub tonfall_version: String,
    pub plan_hash: String,
}

/// A run directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunDir {
    path: PathBuf,
}

/// The lock of a run; the kernel releases it with the process.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
}

/// What became of a run, as its lock and its log tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    Running,
    Finished,
    Interrupted,
    Diverged,
    Failed,
}

impl RunDir {
    /// Makes a new run directory with recipe and plan inside.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn create(plan: &Plan, recipe_text: &str, tonfall_version: &str) -> Result<Self, RunError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        durable::create_dir(&plan.output_dir)?;
        let mut salt = now.as_nanos() as u64 ^ u64::from(std::process::id()) << 40;
        let (id, path) = loop {
            salt = salt.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            let id = format!("{}-{:04x}", plan.name, salt >> 48);
            let path = plan.output_dir.join(&id);
            match fs::create_dir(&path) {
                Ok(()) => break (id, path),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(DurableError { path, source }.into()),
            }
        };
        let run = Self { path };
        durable::write_file(&run.path.join("recipe.toml"), recipe_text.as_bytes())?;
        durable::write_file(&run.path.join("plan.toml"), plan.to_toml().as_bytes())?;
        let record = RunRecord {
            format: 1,
            id,
            created: now.as_secs_f64(),
            tonfall_version: tonfall_version.to_owned(),
            plan_hash: plan.hash(),
        };
        let text = serde_json::to_vec_pretty(&record).map_err(|error| run.damaged("run.json", error))?;
        durable::write_file(&run.path.join("run.json"), &text)?;
        Ok(run)
    }

    /// Opens a run by its path, or by its name within `output_dir`.
    ///
    /// # Errors
    /// When there is no run.
    pub fn open(path_or_name: &Path, output_dir: &Path) -> Result<Self, RunError> {
        let candidates = [path_or_name.to_owned(), output_dir.join(path_or_name)];
        let found = candidates.into_iter().find(|path| path.join("run.json").is_file());
        found.map(|path| Self { path }).ok_or_else(|| RunError::NotARun(path_or_name.to_owned()))
    }

    /// Every run within a directory, oldest first.
    pub fn list(output_dir: &Path) -> Vec<Self> {
        let entries = fs::read_dir(output_dir).into_iter().flatten().flatten();
        let runs = entries.map(|entry| Self { path: entry.path() });
        let mut dated: Vec<(f64, Self)> = runs.filter_map(|run| Some((run.record().ok()?.created, run))).collect();
        dated.sort_by(|a, b| a.0.total_cmp(&b.0));
        dated.into_iter().map(|(_, run)| run).collect()
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The run's name: the last part of its path.
    pub fn id(&self) -> String {
        self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    pub fn exports(&self) -> PathBuf {
        self.path.join("exports")
    }

    pub fn events(&self) -> PathBuf {
        self.path.join("events.jsonl")
    }

    /// Whether someone asked the run to stop.
    pub fn stop_requested(&self) -> bool {
        self.path.join("stop.request").exists()
    }

    /// Asks the run to stop after its current step.
    ///
    /// # Errors
    /// When the request can't be written.
    pub fn request_stop(&self) -> Result<(), DurableError> {
        durable::write_file(&self.path.join("stop.request"), b"")
    }

    /// Takes back a request to stop.
    ///
    /// # Errors
    /// When the request can't be removed.
    pub fn clear_stop_request(&self) -> Result<(), DurableError> {
        match self.stop_requested() {
            true => durable::remove_file(&self.path.join("stop.request")),
            false => Ok(()),
        }
    }

    /// What `run.json` says.
    ///
    /// # Errors
    /// When it is absent or damaged.
    pub fn record(&self) -> Result<RunRecord, RunError> {
        let text = fs::read(self.path.join("run.json")).map_err(|_| RunError::NotARun(self.path.clone()))?;
        serde_json::from_slice(&text).map_err(|error| self.damaged("run.json", error))
    }

    /// The plan of the run.
    ///
    /// # Errors
    /// When it is absent or damaged.
    pub fn plan(&self) -> Result<Plan, RunError> {
        let text = fs::read_to_string(self.path.join("plan.toml")).map_err(|error| self.damaged("plan.toml", error))?;
        Plan::from_toml(&text).map_err(|error| self.damaged("plan.toml", error))
    }

    /// Takes the run's lock.
    ///
    /// # Errors
    /// [`RunError::Busy`] when another process holds it.
    pub fn lock(&self) -> Result<RunLock, RunError> {
        let path = self.path.join("run.lock");
        let file = durable::lock_handle(&path, true)?;
        match file.try_lock() {
            Ok(()) => Ok(RunLock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(RunError::Busy(self.path.clone())),
            Err(TryLockError::Error(source)) => Err(DurableError { path, source }.into()),
        }
    }

    /// Whether a process holds the run. Never makes the lock file.
    pub fn is_held(&self) -> bool {
        let file = durable::lock_handle(&self.path.join("run.lock"), false);
        file.is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
    }

    /// The state of the run: held is running; else the last word of its log.
    pub fn state(&self) -> RunState {
        if self.is_held() {
            return RunState::Running;
        }
        let events = EventReader::new(&self.events()).poll().unwrap_or_default();
        let word = events.iter().rev().find_map(|event| match event.kind {
            EventKind::Finished { .. } => Some(RunState::Finished),
            EventKind::Diverged { .. } => Some(RunState::Diverged),
            EventKind::Failed { .. } => Some(RunState::Failed),
            EventKind::AttemptStarted { .. } => Some(RunState::Interrupted),
            _ => None,
        });
        word.unwrap_or(RunState::Interrupted)
    }

    fn damaged(&self, file: &str, why: impl std::fmt::Display) -> RunError {
        RunError::Damaged { path: self.path.join(file), why: why.to_string() }
    }
}

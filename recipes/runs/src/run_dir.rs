//! The directory of a run.
//!
//! Responsible for: the paths of a run's files; creating, opening and listing run directories.
//! Must not depend on: training, events.
//!
//! ```text
//! runs/<id>/ recipe.toml plan.toml run.json run.lock events.jsonl log.txt stop.request
//!   checkpoints/ eval/ samples/ exports/
//! ```

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tonfall_durable::{self as durable, DurableError, ScratchDir};
use tonfall_recipes::plan::{PlanError, text_hash, text_matches};
use tonfall_recipes::{Plan, RecipeFile};

use crate::lock::{self, LockError, RunLock};
use crate::run_inputs::RunInputs;

/// Version of the directory's layout.
pub const FORMAT: u32 = 1;

const INFO: &str = "run.json";
const RECIPE: &str = "recipe.toml";
const PLAN: &str = "plan.toml";
/// Name of the event log.
pub const EVENTS: &str = "events.jsonl";
const DIRECTORIES: [&str; 4] = ["checkpoints", "eval", "samples", "exports"];

/// Maximum bytes of `run.json` and `plan.toml`.
const MAX_TEXT: u64 = 1 << 20;

/// Hexadecimal digits of the first random name. While a name is taken, the next one has one more digit.
const SHORTEST_ID: usize = 4;
const LONGEST_ID: usize = 16;

/// Why a run directory can't be created or opened.
#[derive(Debug, Error)]
pub enum RunDirError {
    #[error("{path} already exists; choose another `--run-name`", path = path.display())]
    Exists { path: PathBuf },

    #[error("a run can't be named {0:?}; use letters, digits, `-`, `_` and `.`, and no `.` at the start")]
    Name(String),

    #[error("no run at {path}", path = path.display())]
    NotFound { path: PathBuf },

    #[error("{path} has format {found}, this tonfall reads format {FORMAT}; use a newer version", path = path.display())]
    Format { path: PathBuf, found: u32 },

    #[error("{path} was written by a newer tonfall, {version}: {what} that this one, {ours}, does not know; use that version", path = path.display(), ours = env!("CARGO_PKG_VERSION"))]
    Newer { path: PathBuf, what: String, version: String },

    #[error("{path} is damaged: {why}", path = path.display())]
    Damaged { path: PathBuf, why: String },

    #[error("{path}: can't read: {source}", path = path.display())]
    Read { path: PathBuf, source: io::Error },

    #[error(transparent)]
    Lock(#[from] LockError),

    #[error(transparent)]
    Durable(#[from] DurableError),
}

/// The content of `run.json`, which is written once. Readers ignore unknown fields. A new field needs a default,
/// because runs of earlier versions lack it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunInfo {
    /// [`FORMAT`].
    pub format: u32,
    /// UTC, to the millisecond; sorting by this text sorts by time.
    pub created: String,
    /// Version of tonfall that made the run.
    pub tonfall: String,
    /// Path of the recipe.
    pub recipe: String,
    /// The `--set` options.
    pub overrides: Vec<String>,
    /// Hash of `plan.toml`, see [`tonfall_recipes::plan::text_matches`].
    pub plan_hash: String,
    /// Fingerprints of the inputs at the first start; `None` in runs of builds that did not store them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs: Option<RunInputs>,
    /// The time that `strftime_now` of a chat template returns in every attempt, in RFC 9557. `None` in runs of builds
    /// that did not store it; [`RunDir::now`] then returns `created`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now: Option<String>,
    /// Hash of recipe, base and data, by which a nightly run recognises what it has trained already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// The inputs and the time of a run's first start, besides its plan.
#[derive(Clone, Debug)]
pub struct StartedWith {
    pub inputs: RunInputs,
    /// The time that `strftime_now` of a chat template returns.
    pub now: Zoned,
    /// See [`RunInfo::key`].
    pub key: Option<String>,
}

/// An existing run directory.
#[derive(Clone, Debug)]
pub struct RunDir {
    path: PathBuf,
    info: RunInfo,
}

/// The runs of a directory.
#[derive(Debug, Default)]
pub struct Runs {
    /// Oldest first.
    pub runs: Vec<RunDir>,
    /// Errors of runs that can't be opened.
    pub damaged: Vec<RunDirError>,
}

impl RunDir {
    /// Creates the directory of a new run in the plan's `output_dir`, in one step. Its id is `run_name`, or the plan's
    /// name followed by hexadecimal digits.
    ///
    /// # Errors
    /// If the name is taken or invalid, the directory can't be written, or the file system has no locks.
    pub fn create(
        plan: &Plan,
        recipe: &RecipeFile,
        overrides: &[String],
        run_name: Option<&str>,
    ) -> Result<Self, RunDirError> {
        Self::create_started(plan, recipe, overrides, run_name, None)
    }

    /// Like [`RunDir::create`], and stores inputs and time of the first start, so that a resumed run can be compared
    /// with it.
    ///
    /// # Errors
    /// Like [`RunDir::create`].
    pub fn create_started(
        plan: &Plan,
        recipe: &RecipeFile,
        overrides: &[String],
        run_name: Option<&str>,
        started: Option<StartedWith>,
    ) -> Result<Self, RunDirError> {
        let plan_text = plan.to_toml();
        let key = started.as_ref().and_then(|started| started.key.clone());
        let (inputs, now) = started.map(|started| (started.inputs, started.now.to_string())).unzip();
        let info = RunInfo {
            format: FORMAT,
            created: format!("{:.3}", Timestamp::now()),
            tonfall: env!("CARGO_PKG_VERSION").to_owned(),
            recipe: recipe.path.display().to_string(),
            overrides: overrides.to_vec(),
            plan_hash: text_hash(&plan_text),
            inputs,
            now,
            key,
        };
        if let Some(name) = run_name {
            let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            if name.is_empty() || name.starts_with('.') || !name.chars().all(valid) {
                return Err(RunDirError::Name(name.to_owned()));
            }
            return Self::create_at(plan.output_dir.join(name), &plan_text, recipe, info);
        }
        for id in ids(plan) {
            match Self::create_at(plan.output_dir.join(id), &plan_text, recipe, info.clone()) {
                Err(RunDirError::Exists { .. }) => {}
                other => return other,
            }
        }
        Self::create_at(plan.output_dir.join(longest_id(plan)), &plan_text, recipe, info)
    }

    /// A free name in the plan's `output_dir`, for [`RunDir::create`].
    pub fn free_id(plan: &Plan) -> String {
        let free = |id: &String| plan.output_dir.join(id).symlink_metadata().is_err();
        ids(plan).find(free).unwrap_or_else(|| longest_id(plan))
    }

    fn create_at(path: PathBuf, plan: &str, recipe: &RecipeFile, info: RunInfo) -> Result<Self, RunDirError> {
        if path.symlink_metadata().is_ok() {
            return Err(RunDirError::Exists { path });
        }
        let scratch = ScratchDir::beside(&path)?;
        let dir = scratch.path();
        for name in DIRECTORIES {
            durable::create_dir_all(&dir.join(name))?;
        }
        durable::write_file(&dir.join(RECIPE), recipe.source.as_bytes())?;
        durable::write_file(&dir.join(PLAN), plan.as_bytes())?;
        let text = serde_json::to_vec_pretty(&info).expect("texts and a number");
        durable::write_file(&dir.join(INFO), &text)?;
        // On a file system without locks, the directory is removed again.
        drop(RunLock::acquire(dir).map_err(|error| match error {
            LockError::NoLocks { source, .. } => LockError::NoLocks { run: path.clone(), source },
            error => error,
        })?);
        match scratch.publish() {
            // Another process created the directory first, so the rename failed.
            Err(_) if path.join(INFO).exists() => Err(RunDirError::Exists { path }),
            other => other.map(|()| Self { path, info }).map_err(RunDirError::from),
        }
    }

    /// Opens a run directory.
    ///
    /// # Errors
    /// If it doesn't exist, or its `run.json` is damaged or has a newer format.
    pub fn open(path: &Path) -> Result<Self, RunDirError> {
        let file = path.join(INFO);
        let text = match read_text(&file, MAX_TEXT) {
            Err(RunDirError::Read { source, .. })
                if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                return Err(RunDirError::NotFound { path: path.to_owned() });
            }
            other => other?,
        };
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let damaged = |error: serde_json::Error| RunDirError::Damaged { path: file.clone(), why: error.to_string() };
        let version: Version = serde_json::from_str(&text).map_err(damaged)?;
        if version.format != FORMAT {
            return Err(RunDirError::Format { path: file, found: version.format });
        }
        Ok(Self { path: path.to_owned(), info: serde_json::from_str(&text).map_err(damaged)? })
    }

    /// All runs in `output_dir`; none if it doesn't exist.
    ///
    /// # Errors
    /// If the directory can't be read.
    pub fn list(output_dir: &Path) -> Result<Runs, RunDirError> {
        let failed = |source| RunDirError::Read { path: output_dir.to_owned(), source };
        let entries = match fs::read_dir(output_dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Runs::default()),
            other => other.map_err(failed)?,
        };
        let mut found = Runs::default();
        for entry in entries {
            let path = entry.map_err(failed)?.path();
            let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
            match Self::open(&path) {
                _ if hidden => {}
                Ok(run) => found.runs.push(run),
                // Other directories are allowed in `output_dir`.
                Err(RunDirError::NotFound { .. }) => {}
                Err(error) => found.damaged.push(error),
            }
        }
        found.runs.sort_by(|a, b| (&a.info.created, &a.path).cmp(&(&b.info.created, &b.path)));
        Ok(found)
    }

    /// The newest run in `output_dir`.
    ///
    /// # Errors
    /// If the directory can't be read.
    pub fn latest(output_dir: &Path) -> Result<Option<Self>, RunDirError> {
        Ok(Self::list(output_dir)?.runs.pop())
    }

    /// The plan of the run. The text of `plan.toml` is verified before it is parsed.
    ///
    /// # Errors
    /// If `plan.toml` can't be read, was changed, or has keys of a newer version.
    pub fn plan(&self) -> Result<Plan, RunDirError> {
        let path = self.path.join(PLAN);
        let text = read_text(&path, MAX_TEXT)?;
        if !text_matches(&text, &self.info.plan_hash) {
            return Err(RunDirError::Damaged { path, why: "it was changed since the run was made".to_owned() });
        }
        Plan::from_toml(&text).map_err(|error| match error {
            PlanError::Unknown(what) => RunDirError::Newer { path, what, version: self.info.tonfall.clone() },
            error => RunDirError::Damaged { path, why: error.to_string() },
        })
    }

    /// The time that `strftime_now` of the run's chat template returns: the time of the first start.
    ///
    /// # Errors
    /// If `run.json` has no valid time.
    pub fn now(&self) -> Result<Zoned, RunDirError> {
        let parsed = match &self.info.now {
            Some(now) => now.parse::<Zoned>(),
            None => self.info.created.parse::<Timestamp>().map(|created| created.to_zoned(TimeZone::system())),
        };
        parsed.map_err(|error| RunDirError::Damaged { path: self.path.join(INFO), why: error.to_string() })
    }

    /// Whether a process holds the lock of the run.
    ///
    /// # Errors
    /// If the lock can't be checked.
    pub fn is_held(&self) -> Result<bool, RunDirError> {
        Ok(lock::is_held(&self.path)?)
    }

    /// Requests that the process working on the run saves and stops.
    ///
    /// # Errors
    /// If the request can't be written.
    pub fn request_stop(&self) -> Result<(), DurableError> {
        durable::write_file(&self.stop_request(), b"")
    }

    /// Whether a stop was requested.
    pub fn stop_requested(&self) -> bool {
        self.stop_request().exists()
    }

    /// Removes a stop request before a new attempt.
    ///
    /// # Errors
    /// If it can't be removed.
    pub fn clear_stop_request(&self) -> Result<(), DurableError> {
        durable::remove_file(&self.stop_request())
    }

    /// The name of the directory.
    pub fn id(&self) -> String {
        self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn info(&self) -> &RunInfo {
        &self.info
    }

    pub fn recipe(&self) -> PathBuf {
        self.path.join(RECIPE)
    }

    pub fn events(&self) -> PathBuf {
        self.path.join(EVENTS)
    }

    pub fn log(&self) -> PathBuf {
        self.path.join("log.txt")
    }

    pub fn stop_request(&self) -> PathBuf {
        self.path.join("stop.request")
    }

    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    pub fn eval(&self) -> PathBuf {
        self.path.join("eval")
    }

    pub fn samples(&self) -> PathBuf {
        self.path.join("samples")
    }

    pub fn exports(&self) -> PathBuf {
        self.path.join("exports")
    }
}

/// Names made of the plan's name and hexadecimal digits, each with one more digit than the last.
fn ids(plan: &Plan) -> impl Iterator<Item = String> {
    let digits = format!("{:016x}", durable::nonce());
    (SHORTEST_ID..LONGEST_ID).map(move |length| format!("{}-{}", plan.name, &digits[..length]))
}

fn longest_id(plan: &Plan) -> String {
    format!("{}-{:016x}", plan.name, durable::nonce())
}

/// Reads a text file of at most `max` bytes.
pub(crate) fn read_text(path: &Path, max: u64) -> Result<String, RunDirError> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(max + 1).read_to_string(&mut text));
    match read {
        Ok(_) if text.len() as u64 > max => {
            Err(RunDirError::Damaged { path: path.to_owned(), why: format!("longer than {max} bytes") })
        }
        Ok(_) => Ok(text),
        Err(error) if error.kind() == ErrorKind::InvalidData => {
            Err(RunDirError::Damaged { path: path.to_owned(), why: "not UTF-8".to_owned() })
        }
        Err(source) => Err(RunDirError::Read { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
pub(crate) mod tests;

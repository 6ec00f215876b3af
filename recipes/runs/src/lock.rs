//! The lock that a running process holds on its run.
//!
//! Responsible for: `run.lock`. Held means running; the kernel lets go of it however the process ends, so there are no
//! process ids to guess and no clocks to compare.
//! Must not depend on: what the run does.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;
use tonfall_durable::{self as durable, DurableError};

use crate::run_dir::RunDir;

/// A look at whether a lock is held takes it for microseconds itself, so a lock that looks held is asked for again.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(20);

/// Why a run can't be locked.
#[derive(Debug, Error)]
pub enum LockError {
    #[error("{run} is busy: another process is working on it; `tonfall watch {run}` shows it", run = run.display())]
    Busy { run: PathBuf },

    #[error(transparent)]
    Durable(#[from] DurableError),
}

/// The right to change a run, until dropped.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
}

impl RunLock {
    /// Takes the lock of a run.
    ///
    /// # Errors
    /// [`LockError::Busy`] when another process holds it.
    pub fn acquire(run: &RunDir) -> Result<Self, LockError> {
        let path = run.lock();
        let file = durable::open_or_create(&path)?;
        for attempt in 0..TRIES {
            if attempt > 0 {
                std::thread::sleep(PAUSE);
            }
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(DurableError::new("lock", &path, error).into()),
            }
        }
        Err(LockError::Busy { run: run.path().to_owned() })
    }
}

/// Whether a process holds the lock at `path`. Works on a directory that can only be read.
pub(crate) fn is_held(path: &Path) -> io::Result<bool> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other?,
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

//! The lock that a process holds while it works on a run.
//!
//! Responsible for: `run.lock`, and the locks of stores and of nightly runs. A run is running while its lock is held. The
//! kernel releases a lock however the process ends. So no process ids and no clocks are compared.
//! Must not depend on: the other files of a run directory.

use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;
use tonfall_durable::{self as durable, DurableError};

const LOCK: &str = "run.lock";
/// [`is_held`] acquires the lock briefly, so a busy lock is tried this many times.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(20);

/// Why a run can't be locked, or its lock can't be checked.
#[derive(Debug, Error)]
pub enum LockError {
    #[error("{run} is busy: another process is working on it; `tonfall watch {run}` shows it", run = run.display())]
    Busy { run: PathBuf },

    #[error(
        "{run}: the file system has no file locks ({source}), and without them nobody can tell whether a run is running; \
         keep runs on another file system, such as a local disk (`output_dir` in the recipe)", run = run.display()
    )]
    NoLocks { run: PathBuf, source: io::Error },

    #[error("{path} is locked: another process is {doing}; wait until it has ended", path = path.display())]
    Taken { path: PathBuf, doing: &'static str },

    #[error("{path}: can't read: {source}", path = path.display())]
    Read { path: PathBuf, source: io::Error },

    #[error(transparent)]
    Durable(#[from] DurableError),
}

/// Permission to change a run, until dropped.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
}

impl RunLock {
    /// Acquires the lock of the run in the directory `run`.
    ///
    /// # Errors
    /// [`LockError::Busy`] if another process holds it, [`LockError::NoLocks`] if the file system has no locks.
    pub fn acquire(run: &Path) -> Result<Self, LockError> {
        match acquire(&run.join(LOCK), run)? {
            Some(file) => Ok(Self { _file: file }),
            None => Err(LockError::Busy { run: run.to_owned() }),
        }
    }
}

/// Permission to do what only one process at a time may do, until dropped.
#[derive(Debug)]
pub struct FileLock {
    _file: File,
}

impl FileLock {
    /// Locks the file `path`, which is created if needed. `doing` names the work in the error: "publishing".
    ///
    /// # Errors
    /// [`LockError::Taken`] if another process holds it, [`LockError::NoLocks`] if the file system has no locks.
    pub fn acquire(path: &Path, doing: &'static str) -> Result<Self, LockError> {
        match acquire(path, path)? {
            Some(file) => Ok(Self { _file: file }),
            None => Err(LockError::Taken { path: path.to_owned(), doing }),
        }
    }
}

/// The locked file; `None` if another process holds it. `named` is the path in error messages.
fn acquire(path: &Path, named: &Path) -> Result<Option<File>, LockError> {
    let file = durable::open_or_create(path)?;
    for attempt in 0..TRIES {
        if attempt > 0 {
            std::thread::sleep(PAUSE);
        }
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(source)) if is_unsupported(&source) => {
                return Err(LockError::NoLocks { run: named.to_owned(), source });
            }
            Err(TryLockError::Error(source)) => return Err(DurableError::new("lock", path, source).into()),
        }
    }
    Ok(None)
}

/// Whether a process holds the lock of the run in the directory `run`. Works in a read-only directory.
///
/// # Errors
/// If the lock can't be checked.
pub fn is_held(run: &Path) -> Result<bool, LockError> {
    let path = run.join(LOCK);
    let file = match File::open(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(source) => return Err(LockError::Read { path, source }),
        Ok(file) => file,
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(source)) if is_unsupported(&source) => {
            Err(LockError::NoLocks { run: run.to_owned(), source })
        }
        Err(TryLockError::Error(source)) => Err(LockError::Read { path, source }),
    }
}

/// ENOSYS, EOPNOTSUPP, or ENOLCK, which NFS returns if no lock daemon runs.
fn is_unsupported(error: &io::Error) -> bool {
    error.kind() == ErrorKind::Unsupported || error.raw_os_error() == Some(libc::ENOLCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_lock_support_has_its_own_error() {
        for code in [libc::ENOLCK, libc::ENOSYS, libc::EOPNOTSUPP] {
            assert!(is_unsupported(&io::Error::from_raw_os_error(code)), "{code}");
        }
        assert!(!is_unsupported(&io::Error::from_raw_os_error(libc::EIO)));
    }
}

//! The locks that a running process holds: on its run, and on a folder in which several make scratch directories.
//!
//! Responsible for: `run.lock` and `scratch.lock`. Held means running; the kernel lets go of it however the process ends, so
//! there are no process ids to guess and no clocks to compare.
//! Must not depend on: what the run does.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use crate::durable::{self, DurableError};
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

/// The right to make scratch directories in a folder that processes share, until dropped.
#[derive(Debug)]
pub struct ScratchLock {
    _file: File,
}

impl ScratchLock {
    /// Joins those who make scratch directories in `dir`. Where nobody else does, the scratch directories there are of
    /// processes that were killed, and are removed first. `None` on a file system without locks, where nobody can tell.
    ///
    /// # Errors
    /// When the file `scratch.lock` can't be made in `dir`.
    pub fn join(dir: &Path) -> Result<Option<Self>, DurableError> {
        let file = durable::open_or_create(&dir.join("scratch.lock"))?;
        match file.try_lock() {
            // What can't be removed stays: it is in nobody's way, and the next one tries again.
            Ok(()) => drop(durable::remove_scratch(dir)),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(_)) => return Ok(None),
        }
        // Nothing of this process lies there yet, so another one may clear the folder in between.
        Ok(file.unlock().and_then(|()| file.lock_shared()).is_ok().then_some(Self { _file: file }))
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

#[cfg(test)]
mod tests {
    use super::ScratchLock;
    use crate::durable::{ScratchDir, create_dir_all};

    #[test]
    fn what_the_killed_left_is_removed_and_what_others_make_is_not() {
        let dir = tempfile::tempdir().expect("temp dir");
        let scratch = |name: &str| ScratchDir::beside(&dir.path().join(name)).expect("made");
        let left = scratch("killed").path().with_extension("left");
        create_dir_all(&left.join("deep")).expect("made");

        let first = ScratchLock::join(dir.path()).expect("made").expect("locks");
        assert!(!left.exists(), "nobody was at work on it");
        let ours = scratch("entry");
        let second = ScratchLock::join(dir.path()).expect("made").expect("locks");
        assert!(ours.path().exists(), "its maker holds the lock");
        // The first is killed: its directory stays, its lock is gone.
        create_dir_all(&left).expect("made");
        drop(first);
        let third = ScratchLock::join(dir.path()).expect("made").expect("locks");
        assert!(left.exists(), "the second is still at work");
        drop((second, third));
        ScratchLock::join(dir.path()).expect("made").expect("locks");
        assert!(!left.exists());
    }
}

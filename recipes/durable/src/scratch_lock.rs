//! The lock on a directory in which several processes create scratch directories.
//!
//! Responsible for: `scratch.lock`. Scratch directories of killed processes are removed, and those in use are kept.
//! Must not depend on: the content of the directories.

use std::fs::{File, TryLockError};
use std::path::Path;

use crate::{DurableError, open_or_create, remove_scratch};

/// Permission to create scratch directories in a shared directory, until dropped.
#[derive(Debug)]
pub struct ScratchLock {
    _file: File,
}

impl ScratchLock {
    /// Acquires a shared lock on `dir`. If no other process holds one, the scratch directories in `dir` belong to
    /// killed processes and are removed first. Returns `None` on a file system without locks, and removes nothing.
    ///
    /// # Errors
    /// If the file `scratch.lock` can't be created in `dir`.
    pub fn join(dir: &Path) -> Result<Option<Self>, DurableError> {
        let file = open_or_create(&dir.join("scratch.lock"))?;
        match file.try_lock() {
            // A leftover that can't be removed does no harm, and the next process tries again.
            Ok(()) => drop(remove_scratch(dir)),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(_)) => return Ok(None),
        }
        // Another process may clear the directory between unlock and lock. This process has created nothing in it yet.
        Ok(file.unlock().and_then(|()| file.lock_shared()).is_ok().then_some(Self { _file: file }))
    }
}

#[cfg(test)]
mod tests {
    use super::ScratchLock;
    use crate::{ScratchDir, create_dir_all};

    #[test]
    fn join_removes_only_the_scratch_of_killed_processes() {
        let dir = tempfile::tempdir().expect("temp dir");
        let scratch = |name: &str| ScratchDir::beside(&dir.path().join(name)).expect("made");
        let left = scratch("killed").path().with_extension("left");
        create_dir_all(&left.join("deep")).expect("made");

        let first = ScratchLock::join(dir.path()).expect("made").expect("locks");
        assert!(!left.exists(), "nobody was at work on it");
        let ours = scratch("entry");
        let second = ScratchLock::join(dir.path()).expect("made").expect("locks");
        assert!(ours.path().exists(), "its maker holds the lock");
        // Simulates that the first process was killed: its directory remains, its lock is released.
        create_dir_all(&left).expect("made");
        drop(first);
        let third = ScratchLock::join(dir.path()).expect("made").expect("locks");
        assert!(left.exists(), "the second is still at work");
        drop((second, third));
        ScratchLock::join(dir.path()).expect("made").expect("locks");
        assert!(!left.exists());
    }
}

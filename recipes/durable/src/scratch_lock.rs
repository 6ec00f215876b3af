//! The lock on a folder in which several processes make scratch directories.
//!
//! Responsible for: `scratch.lock`, so that scratch directories of killed processes are removed and those in use stay.
//! Must not depend on: what is made there.

use std::fs::{File, TryLockError};
use std::path::Path;

use crate::{DurableError, open_or_create, remove_scratch};

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
        let file = open_or_create(&dir.join("scratch.lock"))?;
        match file.try_lock() {
            // What can't be removed stays: it is in nobody's way, and the next one tries again.
            Ok(()) => drop(remove_scratch(dir)),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(_)) => return Ok(None),
        }
        // Nothing of this process lies there yet, so another one may clear the folder in between.
        Ok(file.unlock().and_then(|()| file.lock_shared()).is_ok().then_some(Self { _file: file }))
    }
}

#[cfg(test)]
mod tests {
    use super::ScratchLock;
    use crate::{ScratchDir, create_dir_all};

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

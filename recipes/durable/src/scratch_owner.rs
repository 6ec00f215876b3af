//! The owner of a scratch directory: the process that holds the lock on it.
//!
//! The kernel releases the lock when the process ends, however it ends. If the file system or the operating system
//! can't lock a directory, its scratch directories are never swept.
//! Must not depend on: the contents of the directory.

use std::fs::{self, File};
use std::path::Path;

use crate::SCRATCH_PREFIX;

/// Locks a scratch directory for the process that created it.
pub(crate) fn hold(dir: &Path) -> Option<File> {
    let file = File::open(dir).ok()?;
    // Waits only for a sweep that found the directory between its creation and this lock.
    file.lock().ok()?;
    Some(file)
}

/// Locks an existing directory if no process holds it. `None` if there is no such directory, or if it can't be locked.
pub(crate) fn take(dir: &Path) -> Option<File> {
    let file = File::open(dir).ok()?;
    file.try_lock().ok()?;
    // Its owner may have published it before the lock was free, and another process may have created a new one.
    is_at(&file, dir).then_some(file)
}

/// Whether `path` is the name of the open directory.
#[cfg(unix)]
fn is_at(open: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;

    let same = |(open, path): (fs::Metadata, fs::Metadata)| (open.dev(), open.ino()) == (path.dev(), path.ino());
    open.metadata().ok().zip(fs::metadata(path).ok()).is_some_and(same)
}

#[cfg(not(unix))]
fn is_at(_open: &File, path: &Path) -> bool {
    path.is_dir()
}

/// Removes the scratch directories in `parent` that no process holds. A directory that can't be removed is left for the
/// next sweep.
pub(crate) fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let is_scratch = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(SCRATCH_PREFIX));
        if !is_scratch || !path.is_dir() {
            continue;
        }
        if let Ok(file) = File::open(&path)
            && file.try_lock().is_ok()
        {
            fs::remove_dir_all(&path).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ScratchDir;

    #[cfg(unix)]
    #[test]
    fn sweep_removes_only_directories_of_killed_processes() {
        let dir = tempfile::tempdir().expect("temp dir");
        let left = dir.path().join(format!("{SCRATCH_PREFIX}killed"));
        fs::create_dir_all(left.join("deep")).expect("made");
        fs::create_dir(dir.path().join("other")).expect("made");
        let first = ScratchDir::beside(&dir.path().join("first")).expect("made");
        assert!(!left.exists(), "nobody holds it");
        let second = ScratchDir::beside(&dir.path().join("second")).expect("made");
        assert!(first.path().exists(), "its owner works on it");
        first.publish().expect("published");
        second.publish().expect("published");
        let mut names: Vec<_> =
            fs::read_dir(dir.path()).expect("readable").map(|entry| entry.expect("entry").file_name()).collect();
        names.sort();
        assert_eq!(names, ["first", "other", "second"]);
    }
}

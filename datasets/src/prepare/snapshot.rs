//! The state of a data file when its preparation starts.
//!
//! Responsible for: the SHA-256 of each file, and detecting that a file changed while it was read.
//! Must not depend on: the content of files.
//!
//! Changes are detected by size and modification time, without reading the file again. A file that was modified shortly
//! before its snapshot is hashed again, because a second change may keep the same modification time.

use std::fs::Metadata;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::error::DataError;
use crate::prepare::cache::hash_file;

/// If a file was modified less than this before its snapshot, a further change may keep the same modification time.
const RECENT: Duration = Duration::from_secs(2);

/// The state of a file before it was read.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) path: PathBuf,
    pub(crate) sha256: [u8; 32],
    stamp: Stamp,
    is_recent: bool,
}

/// Size and times, which differ if the file was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    bytes: u64,
    modified: Option<SystemTime>,
    /// Seconds and nanoseconds of the last inode change. Programs can't set this time.
    #[cfg(unix)]
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        #[cfg(unix)]
        use std::os::unix::fs::MetadataExt as _;
        Self {
            bytes: metadata.len(),
            modified: metadata.modified().ok(),
            #[cfg(unix)]
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl Snapshot {
    /// Hashes a file.
    ///
    /// # Errors
    /// If the file can't be read.
    pub(crate) fn take(path: PathBuf) -> Result<Self, DataError> {
        let metadata = metadata(&path)?;
        let age = metadata.modified().ok().and_then(|modified| modified.elapsed().ok());
        let (stamp, is_recent) = (Stamp::of(&metadata), age.is_none_or(|age| age < RECENT));
        Ok(Self { sha256: hash_file(&path)?, path, stamp, is_recent })
    }

    /// # Errors
    /// [`DataError::Changed`] if the file differs from the snapshot.
    pub(crate) fn check_unchanged(&self) -> Result<(), DataError> {
        let same = Stamp::of(&metadata(&self.path)?) == self.stamp
            && (!self.is_recent || hash_file(&self.path)? == self.sha256);
        match same {
            true => Ok(()),
            false => Err(DataError::Changed { path: self.path.clone() }),
        }
    }
}

fn metadata(path: &std::path::Path) -> Result<Metadata, DataError> {
    std::fs::metadata(path).map_err(|source| DataError::Io { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_that_keeps_size_and_modification_time_is_detected() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("train.jsonl");
        std::fs::write(&path, "{\"text\": \"a\"}\n").expect("written");
        let snapshot = Snapshot::take(path.clone()).expect("readable");
        snapshot.check_unchanged().expect("the same");
        let modified = std::fs::metadata(&path).and_then(|metadata| metadata.modified()).expect("a time");
        std::fs::write(&path, "{\"text\": \"b\"}\n").expect("written");
        std::fs::File::options().append(true).open(&path).and_then(|file| file.set_modified(modified)).expect("set");
        assert!(matches!(snapshot.check_unchanged(), Err(DataError::Changed { .. })));
    }

    #[test]
    fn a_file_that_grows_is_detected() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("train.jsonl");
        std::fs::write(&path, "a\n").expect("written");
        let snapshot = Snapshot { is_recent: false, ..Snapshot::take(path.clone()).expect("readable") };
        std::fs::write(&path, "a\nb\n").expect("written");
        assert!(matches!(snapshot.check_unchanged(), Err(DataError::Changed { .. })));
    }
}

//! The free space of a disk.

use std::io;
use std::path::Path;

use crate::{DurableError, parent};

/// Checks, before anything is written, that the disk of `path` has room for `needed` bytes. `path` need not exist. On systems without
/// `statvfs`, and on file systems that report nothing, a full disk is noticed when it is written to.
///
/// # Errors
/// [`DurableError::NoRoom`], or if the file system can't be asked.
pub fn check_space(path: &Path, needed: u64) -> Result<(), DurableError> {
    let mut existing = path;
    while !existing.exists() && parent(existing) != existing {
        existing = parent(existing);
    }
    let free = free_bytes(existing).map_err(|error| DurableError::new("ask for free space of", existing, error))?;
    match free {
        Some(free) if free < needed => Err(DurableError::NoRoom { path: path.to_owned(), needed, free }),
        _ => Ok(()),
    }
}

/// The bytes that this user may still write. `None` if unknown.
#[cfg(unix)]
fn free_bytes(path: &Path) -> io::Result<Option<u64>> {
    let found = rustix::fs::statvfs(path)?;
    // Some FUSE file systems report no blocks at all.
    Ok((found.f_blocks > 0).then(|| found.f_bavail.saturating_mul(found.f_frsize)))
}

#[cfg(not(unix))]
fn free_bytes(_path: &Path) -> io::Result<Option<u64>> {
    Ok(None)
}

/// A size for people: `538.1 MB`, `141.1 GB`.
pub(crate) fn shown(bytes: u64) -> String {
    match bytes {
        1_000_000_000.. => format!("{:.1} GB", bytes as f64 / 1e9),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn the_error_has_both_numbers_and_needs_no_existing_path() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("not/yet/there");
        check_space(&path, 1).expect("a byte");
        let error = check_space(&path, u64::MAX).expect_err("more than any disk").to_string();
        assert!(error.contains("18446744073.7 GB are needed") && error.contains("free"), "{error}");
        assert_eq!((shown(538_090_408), shown(0)), ("538.1 MB".to_owned(), "0.0 MB".to_owned()));
    }
}

//! A directory for the files of one fuzzing process.
//!
//! It lies in the directory for temporary files (`TMPDIR`); `run` removes it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The directory, made by the first call.
pub(crate) fn directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        let path = std::env::temp_dir().join(format!("tonfall-fuzz-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a directory for temporary files");
        path
    })
}

/// Writes a file in the directory; replaces the file of the input before.
pub(crate) fn write(name: &str, bytes: &[u8]) -> PathBuf {
    let path = directory().join(name);
    fs::write(&path, bytes).expect("space for temporary files");
    path
}

pub(crate) fn remove(name: &str) {
    // Nothing to remove is fine.
    let _ = fs::remove_file(directory().join(name));
}

//! Why a store can't be read or changed.

use std::io;
use std::path::PathBuf;

use thiserror::Error;
use tonfall_durable::DurableError;

use super::hook::HookError;
use crate::checkpoint_dir::Damage;
use crate::lock::LockError;
use crate::run_dir::RunDirError;

/// Why a store can't be read or changed.
#[derive(Debug, Error)]
pub enum StoreError {
    #[error("an adapter can't be stored as {0:?}; use letters, digits, `-`, `_` and `.`, and no `.` at the start")]
    Name(String),

    #[error("there is no version {number} of {name}; `tonfall store {name}` lists them")]
    NoVersion { name: String, number: u64 },

    #[error("no version of {name} is published; `tonfall publish RUN` publishes one")]
    NothingPublished { name: String },

    #[error("version {current} of {name} was the first one; there is none to go back to")]
    NoPrevious { name: String, current: u64 },

    #[error("{path} has no version number; write one of the versions next to it", path = path.display())]
    Pointer { path: PathBuf },

    #[error("version {path}: {damage}", path = path.display())]
    Damaged { path: PathBuf, damage: Damage },

    #[error("version {path}: {name:?} is no name of a file in a version", path = path.display())]
    FileName { path: PathBuf, name: String },

    #[error("{path} has format {found}, this tonfall reads another one; use a newer version", path = path.display())]
    Format { path: PathBuf, found: u32 },

    #[error("{source}; the published version is unchanged{}", also(left))]
    Hook { source: HookError, left: Vec<HookError> },

    #[error("{source}; the published version is unchanged{}", also(left))]
    Switch { source: DurableError, left: Vec<HookError> },

    #[error("{path}: can't read: {source}", path = path.display())]
    Read { path: PathBuf, source: io::Error },

    #[error(transparent)]
    Record(#[from] RunDirError),

    #[error(transparent)]
    Lock(#[from] LockError),

    #[error(transparent)]
    Durable(#[from] DurableError),
}

/// The servers that may have the other version.
fn also(left: &[HookError]) -> String {
    match left {
        [] => String::new(),
        left => {
            let errors: Vec<String> = left.iter().map(ToString::to_string).collect();
            format!(
                ", but a server may still use the new one, because undoing failed: {}; the next `tonfall publish`, \
                 `rollback` or `nightly` tries again",
                errors.join("; ")
            )
        }
    }
}

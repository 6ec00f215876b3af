//! The seam between the store and running servers.
//!
//! Must not depend on: which servers there are.

use std::path::PathBuf;

use thiserror::Error;

/// The version that a server should use now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The name in the store.
    pub name: String,
    /// `None`: no version, because the first publication is undone.
    pub number: Option<u64>,
    /// The directory of the version.
    pub path: Option<PathBuf>,
    /// The version that the server used until now, as far as the store knows.
    pub instead_of: Option<u64>,
    pub instead_of_path: Option<PathBuf>,
}

/// Something that has to know which version is published, such as a server.
pub trait Hook {
    /// Makes `target` the version in use. It may be in use already: a call after a kill, or to undo, repeats another call.
    ///
    /// # Errors
    /// If it can't be used. The version that was used before should stay in use.
    fn apply(&self, target: &Target) -> Result<(), HookError>;
}

/// A hook that failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the hook {hook} failed: {message}")]
pub struct HookError {
    /// Its URL or its command.
    pub hook: String,
    pub message: String,
}

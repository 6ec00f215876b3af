//! Two contracts as plain data: what a run is *declared* to be and how a run is *written down*.
//!
//! Responsible for: recipe text → validated, immutable, hashed [`Plan`]; the run directory with its event log, lock,
//! checkpoints and durable writes.
//! Must not depend on: tensors, data frames, terminals. This crate is a leaf of the workspace.

pub mod checkpoint;
pub mod diagnostics;
pub mod durable;
pub mod events;
pub mod lock;
mod overrides;
pub mod plan;
pub mod recipe;
mod rules;
pub mod run_dir;
pub mod schema;
mod suggest;
pub mod template;
mod values;

pub use checkpoint::{CheckpointError, CheckpointWriter};
pub use diagnostics::{Diagnostic, Diagnostics, Severity};
pub use durable::DurableError;
pub use events::{Event, EventKind, EventLog, EventReader};
pub use lock::{LockError, RunLock, ScratchLock};
pub use plan::Plan;
pub use recipe::RecipeFile;
pub use run_dir::{LoggedState, RunDir, RunDirError, RunState};

//! Two contracts as plain data: what a run is declared to be, and how a run is written down.
//!
//! Responsible for: recipe text → [`Plan`], the run directory, the event log, checkpoints, durable writes.
//! Must not depend on: Burn, polars, ratatui, terminals.

pub mod checkpoint;
pub mod diagnostics;
pub mod durable;
pub mod events;
pub mod plan;
pub mod recipe;
mod rules;
pub mod run_dir;
pub mod schema;

pub use diagnostics::{Diagnostic, Diagnostics};
pub use events::{Event, EventKind, EventLog, EventReader};
pub use plan::Plan;
pub use run_dir::{RunDir, RunError, RunLock, RunState};

//! Runs on disk: writing and reading them.
//!
//! Responsible for: the run directory with its event log, lock and checkpoints, and the read model of a run. Dashboard,
//! metrics, gate and schedulers share the read model.
//! Must not depend on: tensors, data frames, terminals.

pub mod checkpoint_dir;
pub mod curve;
pub mod evaluation;
pub mod events;
pub mod exporters;
pub mod follow;
pub mod gate;
pub mod history;
mod json_number;
pub mod lock;
pub mod nights;
pub mod numbers;
pub mod run_dir;
mod run_inputs;
pub mod scale;
pub mod series;
pub mod state;
pub mod statistics;
pub mod store;
pub mod summary;

pub use checkpoint_dir::{CheckpointError, CheckpointWriter};
pub use events::{Event, EventKind, EventLog, EventReader};
pub use lock::{FileLock, LockError, RunLock};
pub use run_dir::{RunDir, RunDirError, StartedWith};
pub use run_inputs::RunInputs;
pub use state::{LoggedState, RunState};
pub use store::{Store, StoreError};
pub use summary::{Status, Summary};
pub use tonfall_recipes::printable;

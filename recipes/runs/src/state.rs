//! The state of a run.
//!
//! Responsible for: deriving the state from lock and event log, never from clocks or process ids.
//! Must not depend on: the measurements in events (that is `summary.rs`).

use serde::Serialize;

use crate::events::{Event, EventKind, EventReadError, EventReader};
use crate::run_dir::{RunDir, RunDirError};

/// The state of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// The log is empty.
    Created,
    /// A process holds the lock.
    Running,
    /// Stopped before the end, by request or a kill; can be resumed.
    Interrupted,
    Finished,
    /// Loss or gradients were NaN or infinite.
    Diverged,
    /// Ended with an error; can be resumed after the cause is fixed.
    Failed,
}

impl RunState {
    /// The name shown to users.
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Interrupted => "interrupted",
            Self::Finished => "finished",
            Self::Diverged => "diverged",
            Self::Failed => "failed",
        }
    }
}

/// The state of a run by its log alone, updated event by event. Only the lock shows whether the run is running.
#[derive(Clone, Copy, Debug)]
pub struct LoggedState {
    state: RunState,
    attempt: u32,
}

impl Default for LoggedState {
    fn default() -> Self {
        Self { state: RunState::Created, attempt: 0 }
    }
}

impl LoggedState {
    /// Adds the next event of the log.
    pub fn observe(&mut self, event: &Event) {
        if event.kind.is_afterwards() {
            return;
        }
        let fresh = event.attempt > self.attempt;
        self.attempt = self.attempt.max(event.attempt);
        self.state = match event.kind {
            EventKind::Finished { .. } => RunState::Finished,
            EventKind::Diverged { .. } => RunState::Diverged,
            // The failure that follows a divergence is its consequence.
            EventKind::Failed { .. } if self.state != RunState::Diverged || fresh => RunState::Failed,
            _ if fresh || self.state == RunState::Created => RunState::Interrupted,
            _ => self.state,
        };
    }

    /// The state of a run whose lock is free.
    pub fn state(self) -> RunState {
        self.state
    }
}

impl RunDir {
    /// The state of the run. The lock is checked before the log: once the lock is free, the log is complete.
    ///
    /// # Errors
    /// If the lock or the log can't be read.
    pub fn state(&self) -> Result<RunState, RunDirError> {
        match self.is_held()? {
            true => Ok(RunState::Running),
            false => self.logged_state(),
        }
    }

    /// The state of the run by its log alone, for a process that holds the lock itself.
    ///
    /// # Errors
    /// If the log can't be read.
    pub fn logged_state(&self) -> Result<RunState, RunDirError> {
        let mut logged = LoggedState::default();
        scan(self, |event| logged.observe(&event))?;
        Ok(logged.state())
    }
}

/// Reads the whole log of a run.
pub(crate) fn scan(run: &RunDir, each: impl FnMut(Event)) -> Result<(), RunDirError> {
    EventReader::new(run.events()).scan(each).map_err(|error| match error {
        EventReadError::Io { path, source } => RunDirError::Read { path, source },
        EventReadError::Shrunk { .. } => RunDirError::Damaged { path: run.events(), why: error.to_string() },
    })
}

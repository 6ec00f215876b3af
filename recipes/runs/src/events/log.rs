//! Writing an event log.
//!
//! Responsible for: numbering events, one write per event, and appending to the log of earlier attempts.
//! Must not depend on: the meaning of events.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use tonfall_durable::{AppendFile, DurableError};

use super::{Event, EventKind, EventReadError, EventReader, VERSION};
use crate::lock::RunLock;
use crate::run_dir::RunDir;

/// The writer of a run's event log. A run has one writer at a time.
#[derive(Debug)]
pub struct EventLog {
    file: AppendFile,
    seq: u64,
    attempt: u32,
}

impl EventLog {
    /// Opens the log of a run for the next attempt. Cuts off a torn last line, which needs the lock.
    ///
    /// # Errors
    /// If the log can't be read or opened for writing.
    pub fn open(run: &RunDir, _lock: &RunLock) -> Result<Self, DurableError> {
        Self::open_path(&run.events())
    }

    /// Opens the log of a finished run for events that come after its end, such as the verdict of the gate. They belong to
    /// the last attempt. Cuts off a torn last line, which needs the lock.
    ///
    /// # Errors
    /// If the log can't be read or opened for writing.
    pub fn open_afterwards(run: &RunDir, _lock: &RunLock) -> Result<Self, DurableError> {
        let log = Self::open_path(&run.events())?;
        Ok(Self { attempt: log.attempt.saturating_sub(1).max(1), ..log })
    }

    pub(super) fn open_path(path: &Path) -> Result<Self, DurableError> {
        let mut reader = EventReader::new(path);
        let (mut seq, mut attempt) = (0, 0);
        let read = reader.scan(|event| {
            seq = seq.max(event.seq);
            attempt = attempt.max(event.attempt);
        });
        read.map_err(|error| match error {
            EventReadError::Io { source, .. } => DurableError::new("read", path, source),
            shrunk @ EventReadError::Shrunk { .. } => DurableError::new("read", path, std::io::Error::other(shrunk)),
        })?;
        Ok(Self { file: AppendFile::open(path, reader.offset())?, seq, attempt: attempt.saturating_add(1) })
    }

    /// 1 for the first start of a run, incremented by each resume.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Appends one event with one write and returns it. Checkpoints, ends of attempts and events after them
    /// are synced before this returns; other events may reach the disk later.
    ///
    /// # Errors
    /// If it can't be written; no part of it is left in the log.
    pub fn append(&mut self, kind: EventKind) -> Result<Event, DurableError> {
        let event = Event { v: VERSION, seq: self.seq.saturating_add(1), attempt: self.attempt, t: now(), kind };
        self.file.append(&line(&event))?;
        self.seq = event.seq;
        if event.kind.is_end() || event.kind.is_afterwards() || matches!(event.kind, EventKind::Checkpoint { .. }) {
            self.file.sync()?;
        }
        Ok(event)
    }
}

/// The line of an event.
fn line(event: &Event) -> Vec<u8> {
    let mut line = serde_json::to_vec(event).expect("an event has text keys and numbers only");
    line.push(b'\n');
    line
}

/// Unix time in seconds, to the millisecond.
fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as f64 / 1e3
}

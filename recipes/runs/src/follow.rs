//! Following a run while it is running.
//!
//! Responsible for: waiting for the run's directory, reading its log in pieces, checking its lock. Reads only.
//! Must not depend on: the receiver of the news, terminals.

use std::path::{Path, PathBuf};

use crate::events::{Event, EventReadError, EventReader};
use crate::run_dir::{RunDir, RunDirError};

/// Bytes of the log read per call.
const PIECE: u64 = 4 << 20;

/// A change of a run.
#[derive(Debug)]
pub enum News {
    /// The run's directory was found.
    Opened {
        created: String,
    },
    /// The log is read from its beginning: `whole`, or only for the run's row in the table.
    Restart {
        whole: bool,
    },
    /// From now on only the run's row in the table is needed.
    Forget,
    Events(Vec<Event>),
    Read(ReadProgress),
    /// Whether a process holds the lock, and whether a stop was requested.
    Held {
        held: bool,
        stop_requested: bool,
    },
    /// Why the run can't be read; `None` once it can.
    Fault(Option<String>),
}

/// Bytes of the log that were read, and the number of skipped lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadProgress {
    pub bytes: u64,
    pub of: u64,
    pub damaged: u64,
    pub unknown: u64,
}

/// A run, and the position up to which its log was read.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    /// `None` until the directory exists.
    run: Option<RunDir>,
    reader: EventReader,
    whole: bool,
    /// Lock and stop request at the last poll.
    lock: Option<(bool, bool)>,
    fault: Option<String>,
}

/// What a poll found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Polled {
    /// There was news.
    pub changed: bool,
    /// More can be read immediately.
    pub more: bool,
}

impl Follower {
    /// Follows the run at `path`, which need not exist yet.
    pub fn new(path: &Path) -> Self {
        // The path of the log is set when the directory is found.
        let (path, reader) = (path.to_owned(), EventReader::new(path));
        Self { path, run: None, reader, whole: false, lock: None, fault: None }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The run, once its directory exists.
    pub fn run(&self) -> Option<&RunDir> {
        self.run.as_ref()
    }

    /// Checks the run once and reads a piece of its log: `whole`, or only for the run's row in the table.
    pub fn poll(&mut self, whole: bool, tell: &mut dyn FnMut(News)) -> Polled {
        let (polled, fault) = match self.read(whole, tell) {
            Ok(polled) => (polled, None),
            Err(fault) => (Polled::default(), Some(fault)),
        };
        let changed = self.fault != fault;
        if changed {
            self.fault.clone_from(&fault);
            tell(News::Fault(fault));
        }
        Polled { changed: polled.changed || changed, ..polled }
    }

    fn read(&mut self, whole: bool, tell: &mut dyn FnMut(News)) -> Result<Polled, String> {
        let mut news = false;
        if self.run.is_none() {
            match RunDir::open(&self.path) {
                Ok(run) => {
                    tell(News::Opened { created: run.info().created.clone() });
                    self.reader = EventReader::new(run.events());
                    self.run = Some(run);
                    news = true;
                }
                Err(RunDirError::NotFound { .. }) => return Ok(Polled::default()),
                Err(error) => return Err(error.to_string()),
            }
        }
        let Some(run) = &self.run else { return Ok(Polled::default()) };
        // The lock is checked before the log: once the lock is free, the log is complete.
        let held = run.is_held().map_err(|error| error.to_string())?;
        let stop_requested = held && run.stop_requested();
        if whole != self.whole {
            // A run that isn't shown is dropped from memory. Its log is read again when the run is shown again.
            self.whole = whole;
            if whole {
                self.reader = EventReader::new(run.events());
            }
            tell(if whole { News::Restart { whole: true } } else { News::Forget });
            news = true;
        }
        let before = self.reader.offset();
        let mut events = Vec::new();
        let left = match self.reader.scan_some(PIECE, |event| events.push(event)) {
            Ok(left) => left,
            Err(EventReadError::Shrunk { .. }) => {
                self.reader = EventReader::new(run.events());
                tell(News::Restart { whole: self.whole });
                return Ok(Polled { changed: true, more: true });
            }
            Err(error) => return Err(error.to_string()),
        };
        let bytes = self.reader.offset();
        let moved = bytes != before;
        if moved {
            let (damaged, unknown) = (self.reader.damaged(), self.reader.unknown());
            tell(News::Events(events));
            tell(News::Read(ReadProgress { bytes, of: bytes.saturating_add(left), damaged, unknown }));
        }
        let changed = self.lock != Some((held, stop_requested));
        if changed {
            self.lock = Some((held, stop_requested));
            tell(News::Held { held, stop_requested });
        }
        // A torn last line counts as left, but another read would not advance.
        Ok(Polled { changed: news || moved || changed, more: moved && left > 0 })
    }
}

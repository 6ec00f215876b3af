//! Following a run while it goes on.
//!
//! Responsible for: waiting for a run's directory, reading its log piece by piece, asking whether it is alive. Reads only.
//! Must not depend on: who is told, terminals.

use std::path::{Path, PathBuf};

use crate::events::{Event, EventReadError, EventReader};
use crate::run_dir::{RunDir, RunDirError};

/// Bytes of a log that are read in one call.
const PIECE: u64 = 4 << 20;

/// What happened to a run.
#[derive(Debug)]
pub enum News {
    /// Its directory is there.
    Opened {
        created: String,
    },
    /// It is read from its beginning; with everything, or only for its line in the table.
    Restart {
        whole: bool,
    },
    /// From now on it is only a line in the table.
    Forget,
    Events(Vec<Event>),
    Read(Read),
    /// Whether a process works on it, and whether somebody asked it to stop.
    Held {
        held: bool,
        stop_requested: bool,
    },
    /// Why it can't be read, or that it can.
    Fault(Option<String>),
}

/// How far a log is read: its bytes, and lines that were not understood.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Read {
    pub bytes: u64,
    pub of: u64,
    pub damaged: u64,
    pub unknown: u64,
}

/// One run and how far it is read.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    /// `None` until its directory is there.
    run: Option<RunDir>,
    reader: EventReader,
    whole: bool,
    /// Whether it was held and asked to stop when it was asked last.
    lock: Option<(bool, bool)>,
    fault: Option<String>,
}

impl Follower {
    /// Follows the run at `path`, whose directory need not be there yet.
    pub fn new(path: &Path) -> Self {
        // The log's own place is known once the directory is there.
        let (path, reader) = (path.to_owned(), EventReader::new(path));
        Self { path, run: None, reader, whole: false, lock: None, fault: None }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The run, once its directory is there.
    pub fn run(&self) -> Option<&RunDir> {
        self.run.as_ref()
    }

    /// Asks the run once and reads a piece of its log, `whole` or only for its line in the table. Returns whether there was
    /// news, and whether more can be read at once.
    pub fn poll(&mut self, whole: bool, tell: &mut dyn FnMut(News)) -> (bool, bool) {
        let (done, fault) = match self.read(whole, tell) {
            Ok(done) => (done, None),
            Err(fault) => ((false, false), Some(fault)),
        };
        let changed = self.fault != fault;
        if changed {
            self.fault.clone_from(&fault);
            tell(News::Fault(fault));
        }
        (done.0 || changed, done.1)
    }

    fn read(&mut self, whole: bool, tell: &mut dyn FnMut(News)) -> Result<(bool, bool), String> {
        let mut news = false;
        if self.run.is_none() {
            match RunDir::open(&self.path) {
                Ok(run) => {
                    tell(News::Opened { created: run.info().created.clone() });
                    self.reader = EventReader::new(run.events());
                    self.run = Some(run);
                    news = true;
                }
                Err(RunDirError::NotFound { .. }) => return Ok((false, false)),
                Err(error) => return Err(error.to_string()),
            }
        }
        let Some(run) = &self.run else { return Ok((false, false)) };
        // The lock first: once it is free, the log is complete.
        let held = run.is_held().map_err(|error| error.to_string())?;
        let stop_requested = held && run.stop_requested();
        if whole != self.whole {
            // What was dropped is in the log; what is no longer shown need not stay in memory.
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
                return Ok((true, true));
            }
            Err(error) => return Err(error.to_string()),
        };
        let bytes = self.reader.offset();
        let moved = bytes != before;
        if moved {
            let (damaged, unknown) = (self.reader.damaged(), self.reader.unknown());
            tell(News::Events(events));
            tell(News::Read(Read { bytes, of: bytes.saturating_add(left), damaged, unknown }));
        }
        let changed = self.lock != Some((held, stop_requested));
        if changed {
            self.lock = Some((held, stop_requested));
            tell(News::Held { held, stop_requested });
        }
        // A torn line is left as well; it moves nothing.
        Ok((news || moved || changed, moved && left > 0))
    }
}

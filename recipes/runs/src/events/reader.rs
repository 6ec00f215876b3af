//! Reading an event log, once or while it grows.
//!
//! Responsible for: reading complete lines. A last line without a line break is not read: it is torn or still being
//! written. Any number of readers can follow a log.
//! Must not depend on: locks.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use thiserror::Error;

use super::{Event, Line};

/// Maximum bytes of a line. A longer line is damaged: it is skipped and not stored in memory.
const MAX_LINE: usize = 16 << 20;

/// Why an event log can't be read.
#[derive(Debug, Error)]
pub enum EventReadError {
    #[error("{path}: can't read: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },

    #[error("{path} has {len} bytes, but {offset} were read before: the log was replaced; open it again", path = path.display())]
    Shrunk { path: PathBuf, offset: u64, len: u64 },
}

/// Follows an event log: each [`EventReader::poll`] returns the new events.
#[derive(Clone, Debug)]
pub struct EventReader {
    path: PathBuf,
    offset: u64,
    /// Length and modification time of the file when it was read to its end.
    seen: Option<(u64, Option<SystemTime>)>,
    unknown: u64,
    damaged: u64,
}

impl EventReader {
    /// A reader at the start of the log, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), offset: 0, seen: None, unknown: 0, damaged: 0 }
    }

    /// All events in complete lines of a log.
    ///
    /// # Errors
    /// Like [`EventReader::poll`].
    pub fn read_all(path: &Path) -> Result<Vec<Event>, EventReadError> {
        Self::new(path).poll()
    }

    /// The events added since the last call. A missing log counts as empty.
    ///
    /// # Errors
    /// If the file can't be read, or became shorter.
    pub fn poll(&mut self) -> Result<Vec<Event>, EventReadError> {
        let mut events = Vec::new();
        self.scan(|event| events.push(event))?;
        Ok(events)
    }

    /// Like [`EventReader::poll`], but does not store all events.
    ///
    /// # Errors
    /// Like [`EventReader::poll`].
    pub fn scan(&mut self, each: impl FnMut(Event)) -> Result<(), EventReadError> {
        self.scan_some(u64::MAX, each).map(|_| ())
    }

    /// Like [`EventReader::scan`], but reads about `bytes` bytes per call, so that the caller can do other work between
    /// calls. Returns the number of bytes left, including a torn line.
    ///
    /// # Errors
    /// Like [`EventReader::poll`].
    pub fn scan_some(&mut self, bytes: u64, mut each: impl FnMut(Event)) -> Result<u64, EventReadError> {
        let failed = |source| EventReadError::Io { path: self.path.clone(), source };
        let mut file = match File::open(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound && self.offset == 0 => return Ok(0),
            other => other.map_err(failed)?,
        };
        let metadata = file.metadata().map_err(failed)?;
        let len = metadata.len();
        if len < self.offset {
            return Err(EventReadError::Shrunk { path: self.path.clone(), offset: self.offset, len });
        }
        // The file is unchanged, so it has no new events.
        let found = Some((len, metadata.modified().ok()));
        if found == self.seen {
            return Ok(len - self.offset);
        }
        file.seek(SeekFrom::Start(self.offset)).map_err(failed)?;
        let mut reader = BufReader::with_capacity(1 << 16, file);
        let mut line = Vec::new();
        let stop = self.offset.saturating_add(bytes);
        while self.offset < stop {
            let Some(length) = next_line(&mut reader, &mut line).map_err(failed)? else {
                self.seen = found;
                break;
            };
            self.offset += length;
            match Line::parse(&line) {
                Line::Event(event) => each(event),
                Line::Unknown => self.unknown += 1,
                Line::Damaged => self.damaged += 1,
            }
        }
        Ok(len.saturating_sub(self.offset))
    }

    /// Bytes read so far, up to the end of the last complete line.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Number of lines skipped because they come from a newer version.
    pub fn unknown(&self) -> u64 {
        self.unknown
    }

    /// Number of lines skipped because they are no events.
    pub fn damaged(&self) -> u64 {
        self.damaged
    }
}

/// Reads a line into `line`, without its line break, and returns its length with the line break; `None` if there is no
/// complete line. Stores only the beginning of an overlong line, which is no valid event.
fn next_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<Option<u64>> {
    line.clear();
    let mut bytes = 0;
    loop {
        let chunk = reader.fill_buf()?;
        if chunk.is_empty() {
            return Ok(None);
        }
        let end = chunk.iter().position(|byte| *byte == b'\n');
        let taken = &chunk[..end.unwrap_or(chunk.len())];
        line.extend_from_slice(&taken[..taken.len().min(MAX_LINE - line.len())]);
        let consumed = taken.len() + usize::from(end.is_some());
        reader.consume(consumed);
        bytes += consumed as u64;
        if end.is_some() {
            return Ok(Some(bytes));
        }
    }
}

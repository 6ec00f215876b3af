//! Reading an event log, once or while it grows.
//!
//! Responsible for: finding whole lines. A last line without an end is not read: it is still being written, or torn.
//! Must not depend on: locks. Any number of readers may follow a running log.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use thiserror::Error;

use super::{Event, Line};

/// A longer line is damage; it is skipped without being kept in memory.
const MAX_LINE: usize = 16 << 20;

/// Why an event log can't be read.
#[derive(Debug, Error)]
pub enum EventReadError {
    #[error("{path}: can't read: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },

    #[error("{path} has {len} bytes, and {offset} were read before; it is another log now, open it again", path = path.display())]
    Shrunk { path: PathBuf, offset: u64, len: u64 },
}

/// Follows an event log: each [`EventReader::poll`] returns what has been added.
#[derive(Clone, Debug)]
pub struct EventReader {
    path: PathBuf,
    offset: u64,
    /// Length and time of the file when it was read to its end.
    seen: Option<(u64, Option<SystemTime>)>,
    unknown: u64,
    damaged: u64,
}

impl EventReader {
    /// A reader at the beginning of the log, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), offset: 0, seen: None, unknown: 0, damaged: 0 }
    }

    /// All events of a log that stand in whole lines.
    ///
    /// # Errors
    /// As [`EventReader::poll`].
    pub fn read_all(path: &Path) -> Result<Vec<Event>, EventReadError> {
        Self::new(path).poll()
    }

    /// The events that were added since the last call. No log is as good as an empty one.
    ///
    /// # Errors
    /// When the file can't be read, or is shorter than what was read of it.
    pub fn poll(&mut self) -> Result<Vec<Event>, EventReadError> {
        let mut events = Vec::new();
        self.scan(|event| events.push(event))?;
        Ok(events)
    }

    /// [`EventReader::poll`] without holding all events at once.
    ///
    /// # Errors
    /// As [`EventReader::poll`].
    pub fn scan(&mut self, each: impl FnMut(Event)) -> Result<(), EventReadError> {
        self.scan_some(u64::MAX, each).map(|_| ())
    }

    /// [`EventReader::scan`], but not much more than `bytes` at a time, so that somebody who waits for a long log can do
    /// something else in between. Returns how many bytes are left, a torn line's among them.
    ///
    /// # Errors
    /// As [`EventReader::poll`].
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
        // Torn or not: as long as nothing was added there is nothing new to find.
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

    /// Bytes read so far: the end of the last whole line.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Lines skipped so far because a newer tonfall wrote them.
    pub fn unknown(&self) -> u64 {
        self.unknown
    }

    /// Lines skipped so far because they are no events.
    pub fn damaged(&self) -> u64 {
        self.damaged
    }
}

/// Reads a line into `line`, without its end, and returns its length with it; `None` without a whole line. Of a line that
/// is too long only the beginning is kept, which is no event.
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

//! From run directories to messages.
//!
//! Responsible for: finding runs, following their logs piece by piece, asking whether they are alive. Reads only, but for
//! the request to stop, which `tonfall_recipes` writes.
//! Must not depend on: terminals, drawing.

use std::path::{Path, PathBuf};

use tonfall_recipes::events::EventReadError;
use tonfall_recipes::{EventReader, RunDir, RunDirError};

use crate::app::{App, Message, update};

/// Bytes of logs that are read before the screen is drawn again.
const PIECE: u64 = 4 << 20;
/// Runs that are only a line in the table are asked each so many rounds, and the directory is listed as often.
const SLOW: u64 = 16;

/// One run and how far it is read.
struct Source {
    path: PathBuf,
    /// `None` until its directory is there.
    run: Option<RunDir>,
    reader: EventReader,
    whole: bool,
}

/// All runs of a dashboard, numbered as the state numbers them.
pub(crate) struct Feeds {
    sources: Vec<Source>,
    directory: Option<PathBuf>,
    rounds: u64,
}

impl Feeds {
    /// Follows `runs`, whose directories need not be there yet, and what else lies in `directory`.
    pub(crate) fn new(runs: &[PathBuf], directory: Option<PathBuf>, app: &mut App) -> Self {
        let mut feeds = Self { sources: Vec::new(), directory, rounds: 0 };
        for path in runs {
            feeds.add(path, app);
        }
        feeds
    }

    fn add(&mut self, path: &Path, app: &mut App) {
        let id = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        update(app, Message::Found { id });
        // The log's own place is known once the directory is there.
        self.sources.push(Source { path: path.to_owned(), run: None, reader: EventReader::new(path), whole: false });
    }

    /// Asks every run once and reads a piece of its log. Returns whether there was news, and whether more can be read at
    /// once.
    pub(crate) fn poll(&mut self, app: &mut App) -> (bool, bool) {
        let slow_round = self.rounds.is_multiple_of(SLOW);
        self.rounds += 1;
        let mut news = slow_round && self.list(app);
        let mut more = false;
        for index in 0..self.sources.len() {
            let wanted = app.wants(index);
            if wanted || slow_round || more {
                let (changed, left) = self.sources[index].poll(index, wanted, app);
                news |= changed;
                more |= left;
            }
            // What is shown is read first.
            if more && wanted {
                break;
            }
        }
        (news, more)
    }

    fn list(&mut self, app: &mut App) -> bool {
        let Some(directory) = &self.directory else { return false };
        let found = match RunDir::list(directory) {
            Ok(found) => found,
            Err(error) => {
                update(app, Message::Notice(error.to_string()));
                return true;
            }
        };
        if let Some(damaged) = found.damaged.first() {
            update(app, Message::Notice(format!("{} runs can't be read: {damaged}", found.damaged.len())));
        }
        let known = self.sources.len();
        for run in &found.runs {
            if !self.sources.iter().any(|source| same(&source.path, run.path())) {
                self.add(run.path(), app);
            }
        }
        self.sources.len() > known || !found.damaged.is_empty()
    }

    /// Writes the request to stop.
    pub(crate) fn request_stop(&self, index: usize) -> Message {
        let run = self.sources.get(index).and_then(|source| source.run.as_ref());
        let text = match run.map(RunDir::request_stop) {
            Some(Ok(())) => "the run is asked to stop; it saves after its step".to_owned(),
            Some(Err(error)) => error.to_string(),
            None => "the run's directory is not there".to_owned(),
        };
        Message::Notice(text)
    }
}

impl Source {
    fn poll(&mut self, index: usize, wanted: bool, app: &mut App) -> (bool, bool) {
        match self.read(index, wanted, app) {
            Ok(done) => {
                let had_fault = app.runs.get(index).is_some_and(|run| run.fault.is_some());
                if had_fault {
                    update(app, Message::Fault { run: index, fault: None });
                }
                (done.0 || had_fault, done.1)
            }
            Err(fault) => {
                let known = app.runs.get(index).is_some_and(|run| run.fault.as_ref() == Some(&fault));
                update(app, Message::Fault { run: index, fault: Some(fault) });
                (!known, false)
            }
        }
    }

    fn read(&mut self, index: usize, wanted: bool, app: &mut App) -> Result<(bool, bool), String> {
        let mut news = false;
        if self.run.is_none() {
            match RunDir::open(&self.path) {
                Ok(run) => {
                    update(app, Message::Opened { run: index, created: run.info().created.clone() });
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
        if wanted != self.whole {
            // What was dropped is in the log; what is no longer shown need not stay in memory.
            self.whole = wanted;
            match wanted {
                true => {
                    self.reader = EventReader::new(run.events());
                    update(app, Message::Restart { run: index, whole: true });
                }
                false => drop(update(app, Message::Forget { run: index })),
            }
            news = true;
        }
        let before = self.reader.offset();
        let mut events = Vec::new();
        let left = match self.reader.scan_some(PIECE, |event| events.push(event)) {
            Ok(left) => left,
            Err(EventReadError::Shrunk { .. }) => {
                self.reader = EventReader::new(run.events());
                update(app, Message::Restart { run: index, whole: self.whole });
                return Ok((true, true));
            }
            Err(error) => return Err(error.to_string()),
        };
        let bytes = self.reader.offset();
        let (damaged, unknown) = (self.reader.damaged(), self.reader.unknown());
        let moved = bytes != before;
        if moved {
            update(app, Message::Events { run: index, events });
            update(app, Message::Read { run: index, bytes, of: bytes.saturating_add(left), damaged, unknown });
        }
        let known = app.runs.get(index).is_some_and(|run| (run.held, run.stop_requested) == (held, stop_requested));
        if !known {
            update(app, Message::Held { run: index, held, stop_requested });
        }
        // A torn line is left as well; it moves nothing.
        Ok((news || moved || !known, moved && left > 0))
    }
}

/// Whether two paths are the same directory, as far as that can be known.
fn same(a: &Path, b: &Path) -> bool {
    let whole = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    a == b || whole(a) == whole(b)
}
